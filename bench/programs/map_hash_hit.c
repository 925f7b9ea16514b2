/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* One lookup in a hash table by 5-tuple; unknown ones are put in. */
#include "micro.h"

struct key {
	u32 src, dst, ports, proto;
};

MAP(flows, HASH, struct key, u64, 4096, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);

	if (!data)
		return XDP_DROP;
	struct ipv4 *ip = (struct ipv4 *)data;
	struct key key = { ip->src, ip->dst, *(u32 *)(data + 20), ip->proto };
	u64 *seen = map_lookup(&flows, &key);
	if (!seen) {
		u64 first = ip->id;

		map_update(&flows, &key, &first, BPF_NOEXIST);
		return XDP_PASS;
	}
	return answer(data, *seen);
}
