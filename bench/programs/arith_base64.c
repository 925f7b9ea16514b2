/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Base64 of 48 bytes, written into the frame. */
#include "micro.h"

static const u8 alphabet[64] __attribute__((aligned(8))) =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 128);

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 16; i++) {
		u8 *in = data + 3 * i, *out = data + 64 + 4 * i;
		u32 bits = in[0] << 16 | in[1] << 8 | in[2];

		out[0] = alphabet[bits >> 18 & 63];
		out[1] = alphabet[bits >> 12 & 63];
		out[2] = alphabet[bits >> 6 & 63];
		out[3] = alphabet[bits & 63];
	}
	return XDP_TX;
}
