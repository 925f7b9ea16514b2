/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Jenkins' hash (lookup3) of three words, as for a 5-tuple. */
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
	u8 *data = payload(ctx, 40);

	if (!data)
		return XDP_DROP;
	u32 init = JHASH_INIT + (3 << 2) + 7;
	u32 a = *(u32 *)(data + 12) + init, b = *(u32 *)(data + 16) + init, c = *(u32 *)(data + 20) + init;
	FINAL(a, b, c);
	return answer(data, c);
}
