/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Global variables: settings that are constant, counters that change. */
#include "micro.h"

static volatile const u32 limit = 1000;
u64 seen, large, smallest = ~0ull;
u32 last[16];

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);

	if (!data)
		return XDP_DROP;
	u64 len = frame_end(ctx) - frame_start(ctx);
	seen++;
	if (len > limit)
		large++;
	if (len < smallest)
		smallest = len;
	last[data[15] & 15] = *(u32 *)(data + 12);
	return answer(data, seen ^ large << 32 ^ smallest << 48);
}
