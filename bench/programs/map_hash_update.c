/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* One update and one delete in a hash table. */
#include "micro.h"

MAP(table, HASH, u32, u64, 1024, 0);

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);

	if (!data)
		return XDP_DROP;
	u32 key = *(u32 *)(data + 12), other = key ^ 0x55;
	u64 value = *(u32 *)(data + 16);
	long put = map_update(&table, &key, &value, BPF_ANY);
	map_update(&table, &other, &value, BPF_ANY);
	long gone = map_delete(&table, &other);
	return answer(data, (u64)(put != 0) << 1 | (gone != 0));
}
