/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Up to two VLAN tags, then IPv4 or IPv6. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = frame_start(ctx), *end = frame_end(ctx), *at = data + ETH_LEN;
	u64 tags = 0;

	if (at > end)
		return XDP_DROP;
	u16 type = be16(data + 12);
	for (int i = 0; i < 2 && (type == ETH_VLAN || type == ETH_QINQ); i++) {
		if (at + 4 > end)
			return XDP_DROP;
		tags = tags << 12 | (be16(at) & 0xfff);
		type = be16(at + 2);
		at += 4;
	}
	if (type == ETH_IPV4 && at + sizeof(struct ipv4) <= end)
		tags = tags << 32 | ((struct ipv4 *)at)->dst;
	else if (type == ETH_IPV6 && at + sizeof(struct ipv6) <= end)
		tags = tags << 32 | ((struct ipv6 *)at)->dst[3];
	else
		return XDP_PASS;
	return answer(data + ETH_LEN, tags);
}
