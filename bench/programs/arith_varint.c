/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sixteen numbers of seven bits a byte (LEB128). */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 96);
	u64 sum = 0, value = 0;
	u32 shift = 0, count = 0;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 96; i++) {
		u8 byte = data[i];

		value |= (u64)(byte & 127) << (shift & 63);
		shift += 7;
		if (byte & 128)
			continue;
		sum += value;
		value = 0;
		shift = 0;
		count++;
	}
	return answer(data, sum << 8 | count);
}
