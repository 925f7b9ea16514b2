/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* ARX of 32 bits: ChaCha's quarter rounds, eight times. */
#include "micro.h"

#define QUARTER(a, b, c, d)                                                                                \
	(a += b, d = rol32(d ^ a, 16), c += d, b = rol32(b ^ c, 12), a += b, d = rol32(d ^ a, 8), c += d,  \
	 b = rol32(b ^ c, 7))

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 32);

	if (!data)
		return XDP_DROP;
	u32 *w = (u32 *)data, a = w[0], b = w[1], c = w[2], d = w[3], e = w[4], f = w[5];
	for (int i = 0; i < 8; i++) {
		QUARTER(a, b, c, d);
		QUARTER(c, d, e, f);
	}
	return answer(data, (u64)(a ^ b ^ c) << 32 | (d ^ e ^ f));
}
