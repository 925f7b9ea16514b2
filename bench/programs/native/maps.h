/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Maps and helpers for the micro programs as native code, as one would write them in C: arrays are looked up in
 * place, with sizes that the compiler knows; hash tables and prefixes are functions of maps.c. One thread, so there is
 * one CPU.
 */
#pragma once

struct xdp_md {
	unsigned long data, data_end, data_meta;
};

struct table;

struct map {
	enum map_kind kind;
	u32 key_size, value_size, max_entries;
	u8 *values; /* of arrays */
	struct table **table; /* of the others */
};

#define PROGRAM(ctx) int micro(struct xdp_md *ctx)
#define IS_ARRAY(kind) ((kind) == ARRAY || (kind) == PERCPU_ARRAY)
#define MAP(name, kind, key, value, entries, flags)                                                        \
	static value name##_values[IS_ARRAY(kind) ? (entries) : 1] __attribute__((aligned(64)));           \
	static struct table *name##_table;                                                                 \
	static const struct map name = { kind, sizeof(key), sizeof(value), entries, (u8 *)name##_values,   \
					 &name##_table }
#define TWO_ARRAYS(outer, first, second, value, entries)                                                   \
	MAP(first, ARRAY, u32, value, entries, 0);                                                         \
	MAP(second, ARRAY, u32, value, entries, 0);                                                        \
	static const struct map *outer##_inner[] = { &first, &second };                                    \
	static const struct map outer = { ARRAY_OF_MAPS, 4, 4, 2, (u8 *)outer##_inner, 0 }

void *table_lookup(const struct map *map, const void *key);
long table_update(const struct map *map, const void *key, const void *value, u64 flags);
long table_delete(const struct map *map, const void *key);
u64 ktime_get_ns(void);

INLINE void *map_lookup(const void *of, const void *key)
{
	const struct map *map = of;
	u32 index = *(const u32 *)key;

	if (IS_ARRAY(map->kind))
		return index < map->max_entries ? map->values + (u64)index * map->value_size : 0;
	if (map->kind == ARRAY_OF_MAPS)
		return index < map->max_entries ? ((void **)map->values)[index] : 0;
	return table_lookup(map, key);
}

INLINE long map_update(const void *of, const void *key, const void *value, u64 flags)
{
	const struct map *map = of;

	if (!IS_ARRAY(map->kind))
		return table_update(map, key, value, flags);
	void *place = map_lookup(map, key);
	if (!place)
		return -7;
	__builtin_memcpy(place, value, map->value_size);
	return 0;
}

INLINE long map_delete(const void *of, const void *key)
{
	return table_delete(of, key);
}

INLINE u32 get_smp_processor_id(void)
{
	return 0;
}

INLINE s64 csum_diff(const u32 *from, u32 from_size, const u32 *to, u32 to_size, u32 seed)
{
	u64 sum = seed;

	for (u32 i = 0; i < from_size / 4; i++)
		sum += (u32)~from[i];
	for (u32 i = 0; i < to_size / 4; i++)
		sum += to[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (u32)(sum + (sum >> 32));
}

INLINE long loop(u32 iterations, long (*body)(u32 index, void *ctx), void *ctx, u64 flags)
{
	u32 i = 0;

	(void)flags;
	while (i < iterations)
		if (body(i++, ctx))
			break;
	return i;
}
