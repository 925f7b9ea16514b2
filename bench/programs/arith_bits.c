/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counting leading zeros, reversing bits, parity and swapping bytes of eight words. */
#include "micro.h"

INLINE u32 reverse(u32 x)
{
	x = (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
	x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
	x = (x >> 4 & 0x0f0f0f0f) | (x & 0x0f0f0f0f) << 4;
	return __builtin_bswap32(x);
}

INLINE u32 leading(u32 x)
{
	u32 n = 0;

	if (!(x & 0xffff0000))
		n += 16, x <<= 16;
	if (!(x & 0xff000000))
		n += 8, x <<= 8;
	if (!(x & 0xf0000000))
		n += 4, x <<= 4;
	if (!(x & 0xc0000000))
		n += 2, x <<= 2;
	return n + !(x & 0x80000000);
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 32);
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 8; i++) {
		u32 x = ((u32 *)data)[i], parity = x ^ x >> 16;

		parity ^= parity >> 8;
		parity ^= parity >> 4;
		sum = sum * 5 + reverse(x) + leading(x >> (x & 31)) + (0x6996 >> (parity & 15) & 1);
	}
	return answer(data, sum);
}
