/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Greatest common divisors by subtraction and shifts: loops whose length the frame decides. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 16);
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	u32 a = be16(data) | 1, b = be16(data + 2) | 1;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++) {
		if (a == b)
			break;
		if (a > b)
			a -= b;
		else
			b -= a;
		a >>= !(a & 1);
		b >>= !(b & 1);
		sum += i;
	}
	return answer(data, sum << 16 | (u16)a);
}
