/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Runs one micro program as native code, as a process beside the bench: the bench stays free of foreign code.
 *
 * argv[1] is a file of frames: for each its length (32 bits of this machine), then its bytes. On standard input come
 * lines: "ready?" is answered with "yes"; "check" runs the program once on each frame and prints, for each, what it
 * returned and the frame's bytes in hexadecimal; "run PACKETS BURST REPEATS" runs bursts, in which each frame comes
 * so often in a row, and prints nanoseconds a packet: of each place in the cycle that bursts make, the median burst.
 * Frames are restored between bursts, which is not in the figure.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../micro.h"

/* As in the bench: room in front, and frames that don't fall on the same cache sets. */
#define HEADROOM 256
#define BUFFER (2048 + 64)
#define MAX_BURST 64

PROGRAM(ctx);

struct frame {
	u32 len;
	u8 bytes[1536];
};

static struct frame *frames;
static u32 count;
static u8 buffers[MAX_BURST][BUFFER] __attribute__((aligned(64)));

static void read_frames(const char *path)
{
	FILE *file = fopen(path, "rb");
	u32 len;

	if (!file)
		exit(2);
	while (fread(&len, 4, 1, file) == 1) {
		frames = realloc(frames, (count + 1) * sizeof(*frames));
		frames[count].len = len;
		if (len > sizeof(frames->bytes) || fread(frames[count].bytes, 1, len, file) != len)
			exit(2);
		count++;
	}
	fclose(file);
}

static struct xdp_md restore(u32 buffer, u32 frame)
{
	struct frame *from = &frames[frame % count];
	u8 *to = buffers[buffer] + HEADROOM;

	memcpy(to, from->bytes, from->len);
	return (struct xdp_md){ (unsigned long)to, (unsigned long)to + from->len, (unsigned long)to };
}

static void check(void)
{
	for (u32 i = 0; i < count; i++) {
		struct xdp_md ctx = restore(0, i);

		printf("%u ", micro(&ctx));
		for (u32 at = 0; at < frames[i].len; at++)
			printf("%02x", ((u8 *)ctx.data)[at]);
		printf("\n");
	}
}

static u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int by_time(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return (x > y) - (x < y);
}

static u64 burst_nanos(u32 first, u32 burst, u32 repeats)
{
	static volatile u64 verdicts;
	struct xdp_md ctx[MAX_BURST];
	u64 sum = 0;

	for (u32 i = 0; i < burst; i++)
		ctx[i] = restore(i, (first + i) / repeats);
	u64 start = now();
	for (u32 i = 0; i < burst; i++)
		sum += micro(&ctx[i]);
	u64 time = now() - start;
	verdicts = sum;
	return time;
}

static void run(u32 packets, u32 burst, u32 repeats)
{
	u32 cycle = count * repeats, places = cycle / burst, cycles = (packets + cycle - 1) / cycle;
	u64 *times = calloc((u64)places * cycles, sizeof(*times)), sum = 0;

	for (u32 n = 0; n < cycles; n++)
		for (u32 place = 0; place < places; place++)
			times[place * cycles + n] = burst_nanos(place * burst, burst, repeats);
	for (u32 place = 0; place < places; place++) {
		qsort(times + place * cycles, cycles, sizeof(*times), by_time);
		sum += times[place * cycles + cycles / 2];
	}
	printf("%.4f\n", (double)sum / cycle);
	free(times);
}

int main(int argc, char **argv)
{
	char line[64];
	u32 packets, burst, repeats;

	if (argc != 2)
		return 2;
	read_frames(argv[1]);
	while (count && fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "ready?\n"))
			printf("yes\n");
		else if (!strcmp(line, "check\n"))
			check();
		else if (sscanf(line, "run %u %u %u", &packets, &burst, &repeats) == 3 && packets && repeats && burst &&
			 burst <= MAX_BURST && count * repeats % burst == 0)
			run(packets, burst, repeats);
		else
			return 2;
		fflush(stdout);
	}
	return 0;
}
