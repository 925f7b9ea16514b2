/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Copies structures between frame, stack and map. */
#include "micro.h"

struct flow {
	u32 src[4], dst[4];
	u16 ports[2];
	u32 mark;
	u64 time;
};

MAP(flows, ARRAY, u32, struct flow, 4, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 128);
	u32 index = 1;

	if (!data)
		return XDP_DROP;
	struct flow flow = *(struct flow *)data, *stored = map_lookup(&flows, &index);
	if (!stored)
		return XDP_DROP;
	flow.mark ^= 0x5a5a;
	*stored = flow;
	struct flow back = *stored;
	back.time += back.mark;
	*(struct flow *)(data + 64) = back;
	return XDP_TX;
}
