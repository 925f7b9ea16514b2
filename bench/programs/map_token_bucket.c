/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A token bucket for each source, filled by time, with atomic operations. */
#include "micro.h"

struct bucket {
	u64 tokens, filled, dropped;
};

#define RATE 1000000 /* tokens a microsecond: never empty, so that all runs are alike */
#define DEPTH 100000000

MAP(buckets, ARRAY, u32, struct bucket, 256, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);

	if (!data)
		return XDP_DROP;
	u32 index = data[15];
	struct bucket *bucket = map_lookup(&buckets, &index);
	if (!bucket)
		return XDP_DROP;
	u64 now = ktime_get_ns(), filled = bucket->filled;
	if (now - filled > 1000 && __sync_val_compare_and_swap(&bucket->filled, filled, now) == filled) {
		u64 tokens = bucket->tokens + (now - filled) / 1000 * RATE;

		bucket->tokens = tokens > DEPTH ? DEPTH : tokens;
	}
	if (bucket->tokens < 1500) {
		__sync_fetch_and_add(&bucket->dropped, 1);
		return XDP_DROP;
	}
	__sync_fetch_and_add(&bucket->tokens, -(u64)(frame_end(ctx) - frame_start(ctx)));
	return answer(data, 1);
}
