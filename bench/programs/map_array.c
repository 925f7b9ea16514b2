/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Eight lookups in an array by bytes of the frame. */
#include "micro.h"

MAP(table, ARRAY, u32, u64, 256, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 8; i++) {
		u32 index = data[24 + i];
		u64 *value = map_lookup(&table, &index);

		if (!value)
			return XDP_DROP;
		sum += *value;
		*value = index * 3;
	}
	return answer(data, sum);
}
