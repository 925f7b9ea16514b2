/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sixteen times one of 24 ways, as a byte of the frame says. */
#include "micro.h"

INLINE u32 step(u8 kind, u32 x, u32 y)
{
	switch (kind & 31) {
	case 0: return x + 3;
	case 1: return x * 5;
	case 2: return x ^ 0x77;
	case 3: return x - 9;
	case 4: return x << 3;
	case 5: return x | 0x101;
	case 6: return x & 0xff0ff;
	case 7: return x + y;
	case 8: return x ^ y;
	case 9: return x * 7 + y;
	case 10: return x - y;
	case 11: return x % 97;
	case 12: return x / 3;
	case 13: return x + (y << 4);
	case 14: return x ^ (x >> 5);
	case 15: return x * 11;
	case 16: return x + 1000;
	case 17: return x ^ 0xabcdef;
	case 18: return x - (y >> 3);
	case 19: return x * 3 + 1;
	case 20: return x & ~y;
	case 21: return x | y;
	case 22: return x + (x >> 2);
	case 23: return x ^ (y << 9);
	default: return x + y + kind;
	}
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u32 x = 1;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 16; i++)
		x = step(data[i], x, data[32 + i]);
	return answer(data, x);
}
