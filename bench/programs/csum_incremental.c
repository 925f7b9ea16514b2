/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* NAT of addresses, ports and TTL with both checksums brought up to date. */
#include "micro.h"

INLINE u16 replace(u16 check, u32 from, u32 to)
{
	u64 sum = (u16)~check;

	sum += (u32)~from;
	sum += to;
	return ~fold(sum);
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 40);

	if (!data)
		return XDP_DROP;
	struct ipv4 *ip = (struct ipv4 *)data;
	u16 *ports = (u16 *)(data + 20), *check = (u16 *)(data + 36);
	u32 src = ip->src, dst = ip->dst, new_src = 0x0100a8c0, new_dst = dst ^ 0x2a000000;
	u16 port = ports[0], new_port = port ^ 0x1234;

	ip->check = replace(replace(ip->check, src, new_src), dst, new_dst);
	*check = replace(replace(replace(*check, src, new_src), dst, new_dst), port, new_port);
	ip->src = new_src;
	ip->dst = new_dst;
	ports[0] = new_port;
	u16 old = *(u16 *)&ip->ttl;
	ip->ttl--;
	ip->check = replace(ip->check, old, *(u16 *)&ip->ttl);
	return XDP_TX;
}
