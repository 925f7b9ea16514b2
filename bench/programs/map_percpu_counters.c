/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Packets and bytes in three counters of this CPU. */
#include "micro.h"

struct counter {
	u64 packets, bytes;
};

MAP(counters, PERCPU_ARRAY, u32, struct counter, 64, 0);

INLINE void count(u32 index, u32 len)
{
	struct counter *counter = map_lookup(&counters, &index);

	if (counter) {
		counter->packets++;
		counter->bytes += len;
	}
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);

	if (!data)
		return XDP_DROP;
	u32 len = frame_end(ctx) - frame_start(ctx);
	count(0, len);
	count(1 + (data[9] & 31), len);
	count(32 + (data[19] & 31), len);
	return XDP_TX;
}
