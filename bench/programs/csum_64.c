/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The checksum of 64 bytes, by 32-bit words. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 16; i++)
		sum += ((u32 *)data)[i];
	return answer(data, (u16)~fold(sum));
}
