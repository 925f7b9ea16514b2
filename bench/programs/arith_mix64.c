/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Multiply, rotate, shift and xor of 64 bits: 32 rounds. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 32);

	if (!data)
		return XDP_DROP;
	u64 x = *(u64 *)data, y = *(u64 *)(data + 8);
#pragma clang loop unroll(disable)
	for (int i = 0; i < 32; i++) {
		x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
		y = rol64(y, 24) + x;
		x ^= y << 7;
	}
	return answer(data, x ^ y);
}
