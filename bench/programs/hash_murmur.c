/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Murmur3 (32 bits) of 64 bytes. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u32 h = 17;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 16; i++) {
		u32 k = ((u32 *)data)[i] * 0xcc9e2d51;
		h ^= rol32(k, 15) * 0x1b873593;
		h = rol32(h, 13) * 5 + 0xe6546b64;
	}
	h ^= 64;
	h = (h ^ h >> 16) * 0x85ebca6b;
	h = (h ^ h >> 13) * 0xc2b2ae35;
	return answer(data, h ^ h >> 16);
}
