/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Ethernet, IPv4 and TCP to a packed 5-tuple. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = frame_start(ctx), *end = frame_end(ctx);
	struct ipv4 *ip = (struct ipv4 *)(data + ETH_LEN);

	if ((u8 *)(ip + 1) > end || be16(data + 12) != ETH_IPV4)
		return XDP_PASS;
	if (ip->version_ihl != 0x45 || ip->frag & 0xff3f || (ip->proto != TCP && ip->proto != UDP))
		return XDP_PASS;
	struct ports *ports = (struct ports *)(ip + 1);
	if ((u8 *)(ports + 1) > end || be16(&ip->len) > (u8 *)end - (u8 *)ip)
		return XDP_DROP;
	u64 tuple = ((u64)be32(&ip->src) << 32 | be32(&ip->dst)) ^ ((u64)be16(&ports->src) << 24) ^
		    ((u64)be16(&ports->dst) << 8) ^ ip->proto;
	return answer((u8 *)ip, tuple);
}
