/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Hash tables and longest prefixes for the micro programs as native code.
 *
 * A table has all its entries from the start, and buckets of chains of them. A full LRU table gives up the entry that
 * a hand finds first which was not used since it passed last. Prefixes are a table too, asked once for each length
 * that is in it, longest first.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../micro.h"

#define NONE 0xffffffffu
#define MAX_KEY 64

struct entry {
	u32 next, hash, used, live;
	u8 bytes[]; /* key, value */
};

struct table {
	u32 buckets, entry_size, value_at, free, hand;
	u64 lengths; /* of prefixes: bit n for length n */
	u32 *heads;
	u8 *entries;
};

static struct entry *entry(struct table *t, u32 index)
{
	return (struct entry *)(t->entries + (u64)index * t->entry_size);
}

static u32 hash(const u8 *key, u32 len)
{
	u64 h = 0x9e3779b97f4a7c15u + len, word;

	for (; len >= 8; key += 8, len -= 8) {
		memcpy(&word, key, 8);
		h = (h ^ word) * 0xff51afd7ed558ccdu;
		h ^= h >> 32;
	}
	word = 0;
	memcpy(&word, key, len);
	h = (h ^ word) * 0xc4ceb9fe1a85ec53u;
	return h ^ h >> 32;
}

static struct table *table(const struct map *map)
{
	struct table *t = *map->table;

	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	for (t->buckets = 1; t->buckets < map->max_entries; t->buckets *= 2)
		;
	t->value_at = (map->key_size + 7) & ~7;
	t->entry_size = sizeof(struct entry) + t->value_at + ((map->value_size + 7) & ~7);
	t->heads = malloc(t->buckets * sizeof(u32));
	t->entries = calloc(map->max_entries, t->entry_size);
	memset(t->heads, 0xff, t->buckets * sizeof(u32));
	for (u32 i = 0; i < map->max_entries; i++)
		entry(t, i)->next = i + 1 < map->max_entries ? i + 1 : NONE;
	return *map->table = t;
}

static struct entry *find(const struct map *map, struct table *t, const u8 *key)
{
	u32 h = hash(key, map->key_size);

	for (u32 i = t->heads[h & (t->buckets - 1)]; i != NONE; i = entry(t, i)->next)
		if (entry(t, i)->hash == h && !memcmp(entry(t, i)->bytes, key, map->key_size))
			return entry(t, i);
	return 0;
}

static void unlink_entry(struct table *t, u32 index)
{
	u32 *link = &t->heads[entry(t, index)->hash & (t->buckets - 1)];

	while (*link != index)
		link = &entry(t, *link)->next;
	*link = entry(t, index)->next;
	entry(t, index)->live = 0;
}

static u32 evict(const struct map *map, struct table *t)
{
	for (;;) {
		u32 index = t->hand;

		t->hand = index + 1 < map->max_entries ? index + 1 : 0;
		if (!entry(t, index)->used) {
			unlink_entry(t, index);
			return index;
		}
		entry(t, index)->used = 0;
	}
}

/* The key cut to `bits` bits of prefix: what follows its length is zero beyond them. */
static void cut(u8 *to, const u8 *key, u32 size, u32 bits)
{
	memset(to, 0, size);
	memcpy(to, &bits, 4);
	memcpy(to + 4, key + 4, bits / 8);
	if (bits % 8)
		to[4 + bits / 8] = key[4 + bits / 8] & (0xff00 >> bits % 8);
}

static void *longest(const struct map *map, struct table *t, const u8 *key)
{
	u32 max = *(const u32 *)key;
	u64 lengths = max >= 63 ? t->lengths : t->lengths & ((2ull << max) - 1);
	u8 prefix[MAX_KEY];

	while (lengths) {
		u32 bits = 63 - __builtin_clzll(lengths);
		struct entry *e;

		cut(prefix, key, map->key_size, bits);
		if ((e = find(map, t, prefix)))
			return e->bytes + t->value_at;
		lengths &= ~(1ull << bits);
	}
	return 0;
}

void *table_lookup(const struct map *map, const void *key)
{
	struct table *t = table(map);
	struct entry *e;

	if (map->kind == LPM_TRIE)
		return longest(map, t, key);
	if (!(e = find(map, t, key)))
		return 0;
	if (map->kind == LRU_HASH && !e->used)
		e->used = 1;
	return e->bytes + t->value_at;
}

long table_update(const struct map *map, const void *key, const void *value, u64 flags)
{
	struct table *t = table(map);
	u8 prefix[MAX_KEY];

	if (map->kind == LPM_TRIE) {
		u32 bits = *(const u32 *)key;

		cut(prefix, key, map->key_size, bits);
		key = prefix;
		t->lengths |= 1ull << bits;
	}
	struct entry *e = find(map, t, key);
	if (e ? flags == BPF_NOEXIST : flags == BPF_EXIST)
		return e ? -17 : -2;
	if (!e) {
		u32 index = t->free, h = hash(key, map->key_size);

		if (index != NONE)
			t->free = entry(t, index)->next;
		else if (map->kind == LRU_HASH)
			index = evict(map, t);
		else
			return -7;
		e = entry(t, index);
		memcpy(e->bytes, key, map->key_size);
		e->hash = h;
		e->live = 1;
		e->next = t->heads[h & (t->buckets - 1)];
		t->heads[h & (t->buckets - 1)] = index;
	}
	memcpy(e->bytes + t->value_at, value, map->value_size);
	return 0;
}

long table_delete(const struct map *map, const void *key)
{
	struct table *t = table(map);
	struct entry *e = find(map, t, key);

	if (!e)
		return -2;
	u32 index = ((u8 *)e - t->entries) / t->entry_size;
	unlink_entry(t, index);
	e->next = t->free;
	t->free = index;
	return 0;
}

u64 ktime_get_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}
