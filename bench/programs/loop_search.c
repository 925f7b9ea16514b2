/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Finds a pattern of four bytes in 512. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 528);
	u32 i;

	if (!data)
		return XDP_DROP;
	u32 pattern = *(u32 *)(data + 512);
#pragma clang loop unroll(disable)
	for (i = 0; i < 508; i++) {
		u32 word = data[i] | data[i + 1] << 8 | data[i + 2] << 16 | (u32)data[i + 3] << 24;

		if (word == pattern)
			break;
	}
	return answer(data, i);
}
