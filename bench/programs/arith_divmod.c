/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Divisions and remainders of 32 and 64 bits, by variables and constants. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 4; i++) {
		u64 a = ((u64 *)data)[i];
		u32 b = ((u32 *)data)[8 + i] | 1;

		sum += a / b + (u32)a % b + a % 1000003 + (u32)a / 10;
	}
	return answer(data, sum);
}
