/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The Toeplitz hash of twelve bytes, bit by bit, as network cards do for RSS. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 40);
	u64 key = 0x6d5a56da255b0ec2;
	u32 hash = 0;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 3; i++) {
		u32 word = be32(data + 12 + 4 * i);
#pragma clang loop unroll(disable)
		for (int bit = 0; bit < 32; bit++) {
			if (word >> 31)
				hash ^= key >> 32;
			word <<= 1;
			key = rol64(key, 1);
		}
	}
	return answer(data, hash);
}
