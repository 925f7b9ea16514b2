/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* XXH64's main loop over 256 bytes. */
#include "micro.h"

#define P1 0x9e3779b185ebca87u
#define P2 0xc2b2ae3d27d4eb4fu

INLINE u64 round(u64 lane, u64 word)
{
	return rol64(lane + word * P2, 31) * P1;
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 256);
	u64 a = P1 + P2, b = P2, c = 0, d = -P1;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 32; i += 4) {
		a = round(a, ((u64 *)data)[i]);
		b = round(b, ((u64 *)data)[i + 1]);
		c = round(c, ((u64 *)data)[i + 2]);
		d = round(d, ((u64 *)data)[i + 3]);
	}
	u64 hash = rol64(a, 1) + rol64(b, 7) + rol64(c, 12) + rol64(d, 18);
	hash ^= hash >> 33;
	hash *= P2;
	return answer(data, hash ^ hash >> 29);
}
