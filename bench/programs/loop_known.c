/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A recurrence of 500 steps: a loop of known length that no one can shorten. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 16);

	if (!data)
		return XDP_DROP;
	u32 x = *(u32 *)data;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 500; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
	}
	return answer(data, x);
}
