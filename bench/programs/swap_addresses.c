/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Turns a packet round: MAC addresses, IPv4 addresses, ports. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28), mac[6];

	if (!data)
		return XDP_DROP;
	struct ipv4 *ip = (struct ipv4 *)data;
	u16 *ports = (u16 *)(data + 20), port = ports[0];
	u32 address = ip->src;
	__builtin_memcpy(mac, data - 14, 6);
	__builtin_memcpy(data - 14, data - 8, 6);
	__builtin_memcpy(data - 8, mac, 6);
	ip->src = ip->dst;
	ip->dst = address;
	ports[0] = ports[1];
	ports[1] = port;
	return XDP_TX;
}
