/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Adler-32 of 256 bytes. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 256);
	u32 a = 1, b = 0;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll_count(4)
	for (int i = 0; i < 256; i++) {
		a += data[i];
		b += a;
	}
	return answer(data, b % 65521 << 16 | a % 65521);
}
