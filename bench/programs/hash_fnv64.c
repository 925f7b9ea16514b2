/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* FNV-1a of 64 bytes. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u64 hash = 0xcbf29ce484222325;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 64; i++)
		hash = (hash ^ data[i]) * 0x100000001b3;
	return answer(data, hash);
}
