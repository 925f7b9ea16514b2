/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Runs one micro program as native code, as a process beside the bench: the bench stays free of foreign code.
 *
 * argv[1] is a file of frames: for each its length (32 bits of this machine), then its bytes. On standard input come
 * lines: "ready?" is answered with "yes"; "check" runs the program once on each frame and prints, for each, what it
 * returned and the frame's bytes in hexadecimal; "run PACKETS BURST" runs bursts and prints nanoseconds a packet, by
 * the median burst. Frames are restored between bursts, which is not in the figure.
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

static void run(u32 packets, u32 burst)
{
	struct xdp_md ctx[MAX_BURST];
	u32 bursts = (packets + burst - 1) / burst;
	u64 *times = calloc(bursts, sizeof(*times)), verdicts = 0;

	for (u32 n = 0; n < bursts; n++) {
		for (u32 i = 0; i < burst; i++)
			ctx[i] = restore(i, n * burst + i);
		u64 start = now();
		for (u32 i = 0; i < burst; i++)
			verdicts += micro(&ctx[i]);
		times[n] = now() - start;
	}
	qsort(times, bursts, sizeof(*times), by_time);
	printf("%.4f %llu\n", (double)times[bursts / 2] / burst, verdicts);
	free(times);
}

int main(int argc, char **argv)
{
	char line[64];
	u32 packets, burst;

	if (argc != 2)
		return 2;
	read_frames(argv[1]);
	while (count && fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "ready?\n"))
			printf("yes\n");
		else if (!strcmp(line, "check\n"))
			check();
		else if (sscanf(line, "run %u %u", &packets, &burst) == 2 && packets && burst && burst <= MAX_BURST)
			run(packets, burst);
		else
			return 2;
		fflush(stdout);
	}
	return 0;
}
