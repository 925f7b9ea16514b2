/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sorts sixteen numbers on the stack by a network of compares. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u32 n[16];
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 16; i++)
		n[i] = ((u32 *)data)[i];
#pragma clang loop unroll(full)
	for (int k = 2; k <= 16; k *= 2)
#pragma clang loop unroll(full)
		for (int j = k / 2; j > 0; j /= 2)
#pragma clang loop unroll(full)
			for (int i = 0; i < 16; i++) {
				int other = i ^ j, up = !(i & k);

				if (other > i && (n[i] > n[other]) == up) {
					u32 t = n[i];

					n[i] = n[other];
					n[other] = t;
				}
			}
	for (int i = 0; i < 16; i++)
		sum = sum * 7 + n[i];
	return answer(data, sum);
}
