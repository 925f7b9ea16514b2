/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Moves 512 bytes within the frame, by 64-bit words. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 1024);

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++)
		((u64 *)data)[64 + i] = ((u64 *)data)[i];
	return XDP_TX;
}
