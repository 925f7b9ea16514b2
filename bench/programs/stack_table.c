/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A table of 64 words on the stack, filled and read at places that the frame says. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u32 table[64];
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 64; i++)
		table[i] = i * 2654435761u;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 32; i++) {
		u32 a = data[i] & 63, b = data[32 + i] & 63, t = table[a];

		table[a] = table[b] + i;
		table[b] = t;
	}
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 64; i++)
		sum = sum * 3 + table[i];
	return answer(data, sum);
}
