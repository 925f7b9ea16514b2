/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Set bits of 128 bytes. */
#include "micro.h"

INLINE u32 bits(u64 x)
{
	x -= x >> 1 & 0x5555555555555555;
	x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return x * 0x0101010101010101 >> 56;
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 128);
	u32 sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 16; i++)
		sum += bits(((u64 *)data)[i]);
	return answer(data, sum);
}
