/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* An ICMP error: the flow of the packet that it is about. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 20 + 8 + 20 + 8);

	if (!data)
		return XDP_DROP;
	struct ipv4 *ip = (struct ipv4 *)data;
	struct ipv4 *inner = (struct ipv4 *)(data + 28);
	if (ip->proto != 1 || ip->version_ihl != 0x45 || inner->version_ihl != 0x45)
		return XDP_PASS;
	u8 type = data[20], code = data[21];
	if (type != 3 && type != 11 && type != 12)
		return XDP_PASS;
	struct ports *ports = (struct ports *)(inner + 1);
	u64 flow = ((u64)inner->dst << 32 | inner->src) ^ ((u64)ports->dst << 16) ^ ports->src;
	return answer(data, flow ^ (type << 8 | code));
}
