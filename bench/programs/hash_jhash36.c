/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Jenkins' hash (lookup3) of nine words, as for an IPv6 flow. */
#include "micro.h"

#define JHASH_INIT 0xdeadbeef
#define MIX(a, b, c)                                                                                       \
	(a -= c, a ^= rol32(c, 4), c += b, b -= a, b ^= rol32(a, 6), a += c, c -= b, c ^= rol32(b, 8),     \
	 b += a, a -= c, a ^= rol32(c, 16), c += b, b -= a, b ^= rol32(a, 19), a += c, c -= b,             \
	 c ^= rol32(b, 4), b += a)
#define FINAL(a, b, c)                                                                                     \
	(c ^= b, c -= rol32(b, 14), a ^= c, a -= rol32(c, 11), b ^= a, b -= rol32(a, 25), c ^= b,          \
	 c -= rol32(b, 16), a ^= c, a -= rol32(c, 4), b ^= a, b -= rol32(a, 14), c ^= b, c -= rol32(b, 24))

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 44);

	if (!data)
		return XDP_DROP;
	u32 *k = (u32 *)(data + 8), a, b, c;
	a = b = c = JHASH_INIT + (9 << 2) + 7;
	for (int i = 0; i < 2; i++, k += 3) {
		a += k[0];
		b += k[1];
		c += k[2];
		MIX(a, b, c);
	}
	a += k[0];
	b += k[1];
	c += k[2];
	FINAL(a, b, c);
	return answer(data, c);
}
