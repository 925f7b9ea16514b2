/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* IPv6 extension headers up to the transport. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = frame_start(ctx), *end = frame_end(ctx);
	struct ipv6 *ip = (struct ipv6 *)(data + ETH_LEN);
	u64 seen = 0;

	if ((u8 *)(ip + 1) > end || be16(data + 12) != ETH_IPV6)
		return XDP_DROP;
	u8 next = ip->next, *at = (u8 *)(ip + 1);
	for (int i = 0; i < 6; i++) {
		u32 len;

		if (at + 8 > end)
			return XDP_DROP;
		if (next == 0 || next == 43 || next == 60)
			len = at[1] * 8 + 8;
		else if (next == 51)
			len = at[1] * 4 + 8;
		else if (next == 44)
			len = 8;
		else
			break;
		seen = seen * 257 + next + len;
		next = at[0];
		at += len;
	}
	if (at + 4 > end)
		return XDP_DROP;
	return answer((u8 *)ip, seen ^ (u64)be32(at) << 24 ^ next);
}
