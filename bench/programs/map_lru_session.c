/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A session table that gives up the least recently used: lookup, time, counters. */
#include "micro.h"

struct key {
	u32 src, dst, ports, proto;
};

struct session {
	u64 packets, bytes;
	u32 server, flags;
};

MAP(sessions, LRU_HASH, struct key, struct session, 4096, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 40);

	if (!data)
		return XDP_DROP;
	struct ipv4 *ip = (struct ipv4 *)data;
	struct key key = { ip->src, ip->dst, *(u32 *)(data + 20), ip->proto };
	struct session *session = map_lookup(&sessions, &key);
	if (!session) {
		struct session new = { 1, be16(&ip->len), (ip->src ^ key.ports) % 7, 0 };

		map_update(&sessions, &key, &new, BPF_ANY);
		return XDP_PASS;
	}
	session->packets++;
	session->bytes += be16(&ip->len);
	session->flags |= data[33];
	return answer(data, session->server);
}
