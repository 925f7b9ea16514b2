/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Calls five deep, each with a frame of its own. */
#include "micro.h"

#define LEVEL(name, next, constant)                                                                        \
	NOINLINE u32 name(const u32 *in, u32 salt)                                                         \
	{                                                                                                  \
		u32 out[4];                                                                                \
                                                                                                           \
		for (int i = 0; i < 4; i++)                                                                \
			out[i] = rol32(in[i] + salt, constant) ^ in[(i + 1) & 3];                          \
		return next(out, salt * constant);                                                         \
	}

NOINLINE u32 last(const u32 *in, u32 salt)
{
	return in[0] + in[1] * 3 + in[2] * 5 + in[3] * 7 + salt;
}

LEVEL(fourth, last, 7)
LEVEL(third, fourth, 11)
LEVEL(second, third, 13)
LEVEL(first, second, 17)

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 32);

	if (!data)
		return XDP_DROP;
	u32 in[4];
	for (int i = 0; i < 4; i++)
		in[i] = ((u32 *)data)[i];
	return answer(data, first(in, in[0]));
}
