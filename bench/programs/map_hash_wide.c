/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Two lookups in a hash table by an IPv6 flow of 40 bytes: there and back. */
#include "micro.h"

struct key {
	u32 src[4], dst[4];
	u16 ports[2];
	u32 proto;
};

MAP(flows, HASH, struct key, u32, 1024, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 48);
	u32 one = 1, found = 0;

	if (!data)
		return XDP_DROP;
	struct ipv6 *ip = (struct ipv6 *)data;
	u16 *ports = (u16 *)(data + 40);
	struct key key;
	__builtin_memcpy(key.src, ip->src, 32);
	key.ports[0] = ports[0];
	key.ports[1] = ports[1];
	key.proto = ip->next;
	u32 *there = map_lookup(&flows, &key);
	if (there)
		found = *there;
	else
		map_update(&flows, &key, &one, BPF_ANY);
	__builtin_memcpy(key.src, ip->dst, 16);
	__builtin_memcpy(key.dst, ip->src, 16);
	key.ports[0] = ports[1];
	key.ports[1] = ports[0];
	return answer(data, map_lookup(&flows, &key) ? 3 : found);
}
