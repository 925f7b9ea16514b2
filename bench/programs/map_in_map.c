/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Two arrays, one of which the frame chooses: four counters in it. */
#include "micro.h"

TWO_ARRAYS(outer, first, second, u64, 64);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	u32 which = data[30] & 1;
	void *inner = map_lookup(&outer, &which);
	if (!inner)
		return XDP_DROP;
	for (int i = 0; i < 4; i++) {
		u32 index = data[32 + i] & 63;
		u64 *value = map_lookup(inner, &index);

		if (!value)
			return XDP_DROP;
		sum += ++*value;
	}
	return answer(data, sum);
}
