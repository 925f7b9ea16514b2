/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A histogram of sixteen numbers by powers of two. */
#include "micro.h"

MAP(histogram, PERCPU_ARRAY, u32, u64, 64, 0);

INLINE u32 log2_of(u32 x)
{
	u32 r, s;

	r = (x > 0xffff) << 4, x >>= r;
	s = (x > 0xff) << 3, x >>= s, r |= s;
	s = (x > 0xf) << 2, x >>= s, r |= s;
	s = (x > 3) << 1, x >>= s, r |= s;
	return r | x >> 1;
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 16; i++) {
		u32 word = ((u32 *)data)[i], index = log2_of(word >> (word & 15));
		u64 *value = map_lookup(&histogram, &index);

		if (value)
			++*value;
	}
	return XDP_TX;
}
