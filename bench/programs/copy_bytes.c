/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Copies 64 bytes, one by one, to the stack and back elsewhere in the frame. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 128), buffer[64];

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++)
		buffer[i] = data[i] ^ i;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++)
		data[64 + i] = buffer[63 - i];
	return XDP_TX;
}
