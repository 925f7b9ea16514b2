/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Eight calls of a subprogram that is not inlined. */
#include "micro.h"

NOINLINE u64 mix(u64 a, u64 b, u32 n)
{
	a = (a ^ b) * 0xff51afd7ed558ccd;
	return a ^ a >> n;
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u64 x = 1;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 8; i++)
		x = mix(x, ((u64 *)data)[i], 20 + i);
	return answer(data, x);
}
