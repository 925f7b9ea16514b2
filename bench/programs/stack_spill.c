/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Twenty values alive at once: more than there are registers. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 192);
	u64 v[20], sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 20; i++)
		v[i] = ((u64 *)data)[i];
#pragma clang loop unroll(disable)
	for (int round = 0; round < 8; round++) {
#pragma clang loop unroll(full)
		for (int i = 0; i < 20; i++)
			v[i] += rol64(v[(i + 7) % 20], 11) ^ v[(i + 1) % 20];
	}
	for (int i = 0; i < 20; i++)
		sum = sum * 3 + v[i];
	return answer(data, sum);
}
