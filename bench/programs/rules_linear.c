/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sixteen rules on address, ports and protocol, tried one after the other. */
#include "micro.h"

struct rule {
	u32 address, mask;
	u16 low, high;
	u8 proto;
};

static const struct rule rules[16] = {
	{ 0x0aa5cd00, 0xffffff00, 1024, 1024, 6 },
	{ 0x0a303100, 0xffff0000, 8000, 8000, 6 },
	{ 0x0a133200, 0xffffff00, 1024, 31024, 6 },
	{ 0x0a7b3800, 0xffffff00, 8000, 38000, 6 },
	{ 0x0a3f6200, 0xffffff00, 8000, 8000, 17 },
	{ 0x0a196300, 0xffffff00, 0, 1, 17 },
	{ 0x0ad69900, 0xffffff00, 8000, 8000, 17 },
	{ 0x0a5c8800, 0xffffff00, 8000, 8001, 17 },
	{ 0x0a31e200, 0xfffff000, 0, 0, 6 },
	{ 0x0afe2a00, 0xfffff000, 8000, 38000, 17 },
	{ 0x0aee6300, 0xfffff000, 1024, 1124, 17 },
	{ 0x0a7f3100, 0xffffff00, 80, 80, 17 },
	{ 0x0afd7f00, 0xffff0000, 1024, 1124, 6 },
	{ 0x0a3c7300, 0xfffff000, 1024, 1025, 17 },
	{ 0x0a4dd000, 0xffff0000, 1024, 1024, 6 },
	{ 0, 0, 0, 65535, TCP },
};

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);
	int i;

	if (!data)
		return XDP_DROP;
	struct ipv4 *ip = (struct ipv4 *)data;
	u32 address = be32(&ip->src);
	u16 port = be16(data + 22);
#pragma clang loop unroll(disable)
	for (i = 0; i < 16; i++) {
		const struct rule *rule = &rules[i];

		if ((address & rule->mask) == (rule->address & rule->mask) && port >= rule->low &&
		    port <= rule->high && ip->proto == rule->proto)
			break;
	}
	return answer(data, i);
}
