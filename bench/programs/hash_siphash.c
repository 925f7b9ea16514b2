/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* SipHash-2-4 of 40 bytes. */
#include "micro.h"

#define ROUND                                                                                              \
	(v0 += v1, v1 = rol64(v1, 13), v1 ^= v0, v0 = rol64(v0, 32), v2 += v3, v3 = rol64(v3, 16), v3 ^= v2, \
	 v0 += v3, v3 = rol64(v3, 21), v3 ^= v0, v2 += v1, v1 = rol64(v1, 17), v1 ^= v2, v2 = rol64(v2, 32))

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 40);
	u64 k0 = 0x0706050403020100, k1 = 0x0f0e0d0c0b0a0908;
	u64 v0 = k0 ^ 0x736f6d6570736575, v1 = k1 ^ 0x646f72616e646f6d;
	u64 v2 = k0 ^ 0x6c7967656e657261, v3 = k1 ^ 0x7465646279746573;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i <= 5; i++) {
		u64 m = i < 5 ? ((u64 *)data)[i] : 40ull << 56;
		v3 ^= m;
		ROUND;
		ROUND;
		v0 ^= m;
	}
	v2 ^= 0xff;
	ROUND;
	ROUND;
	ROUND;
	ROUND;
	return answer(data, v0 ^ v1 ^ v2 ^ v3);
}
