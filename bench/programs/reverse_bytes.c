/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Reverses 128 bytes in place. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 128);

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++) {
		u8 byte = data[i];
		data[i] = data[127 - i];
		data[127 - i] = byte;
	}
	return XDP_TX;
}
