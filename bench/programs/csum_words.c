/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The checksum up to the frame's end, by 16-bit words: a loop of unknown length. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 20), *end = frame_end(ctx);
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	u8 *at = data;
	for (int i = 0; i < 750; i++, at += 2) {
		if (at + 2 > end)
			break;
		sum += *(u16 *)at;
	}
	if (at + 1 <= end)
		sum += *at;
	return answer(data, (u16)~fold(sum));
}
