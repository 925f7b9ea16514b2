/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The longest prefix for source and destination. */
#include "micro.h"

struct key {
	u32 bits;
	u8 address[4];
};

MAP(routes, LPM_TRIE, struct key, u32, 256, NO_PREALLOC);

INLINE u32 route(const u8 *address)
{
	struct key key = { .bits = 32 };
	u32 value, *found;

	__builtin_memcpy(key.address, address, 4);
	found = map_lookup(&routes, &key);
	if (found)
		return *found;
	value = key.address[2];
	key.bits = 16 + (key.address[3] & 7);
	map_update(&routes, &key, &value, BPF_ANY);
	return 0;
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 28);

	if (!data)
		return XDP_DROP;
	u64 src = route(data + 12);
	return answer(data, src << 32 | route(data + 16));
}
