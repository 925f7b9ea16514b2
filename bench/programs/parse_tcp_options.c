/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* MSS, window scale, SACK and timestamps of a SYN. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *tcp = payload(ctx, 40), *end = frame_end(ctx);
	u32 mss = 536, scale = 0, sack = 0, stamp = 0;

	if (!tcp)
		return XDP_DROP;
	tcp += 20;
	u8 *at = tcp + 20, *stop = tcp + (tcp[12] >> 4) * 4;
	for (int i = 0; i < 20; i++) {
		if (at + 1 > stop || at + 1 > end)
			break;
		u8 kind = at[0];
		if (kind == 0)
			break;
		if (kind == 1) {
			at++;
			continue;
		}
		if (at + 2 > end)
			return XDP_DROP;
		u32 len = at[1];
		if (len < 2 || at + len > end || len > 40)
			return XDP_DROP;
		if (kind == 2 && len == 4 && at + 4 <= end)
			mss = be16(at + 2);
		else if (kind == 3 && len == 3 && at + 3 <= end)
			scale = at[2];
		else if (kind == 4)
			sack = 1;
		else if (kind == 8 && len == 10 && at + 10 <= end)
			stamp = be32(at + 2);
		at += len;
	}
	return answer(tcp - 20, (u64)stamp << 32 | mss << 16 | scale << 8 | sack);
}
