/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Counters of this CPU by destination port, in a hash table. */
#include "micro.h"

MAP(ports, PERCPU_HASH, u16, u64, 1024, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);

	if (!data)
		return XDP_DROP;
	u16 port = *(u16 *)(data + 22);
	u64 one = 1, *value = map_lookup(&ports, &port);
	if (value)
		*value += 1;
	else
		map_update(&ports, &port, &one, BPF_NOEXIST);
	return answer(data, value != 0);
}
