/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* GUE over UDP: outer and inner IPv4, inner TCP. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 20 + 8 + 4 + 20 + 20), *end = frame_end(ctx);

	if (!data)
		return XDP_DROP;
	struct ipv4 *outer = (struct ipv4 *)data;
	if (outer->proto != UDP || be16(data + 22) != 6080 || data[28] >> 6)
		return XDP_PASS;
	u8 *at = data + 28 + 4 + (data[28] & 31) * 4;
	if (at + 40 > end)
		return XDP_DROP;
	struct ipv4 *inner = (struct ipv4 *)at;
	struct ports *ports = (struct ports *)(inner + 1);
	if (inner->version_ihl != 0x45 || inner->proto != TCP || inner->ttl <= 1)
		return XDP_DROP;
	u64 flow = ((u64)inner->src << 32 | inner->dst) + ((u64)ports->src << 16 | ports->dst) + at[33];
	return answer(data, flow ^ outer->src);
}
