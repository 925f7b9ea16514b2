/* Programs that do what the frame says, as in machine.c, on the maps that are not plain tables: without keys,
 * for redirection, with locks in their values, forbidden to programs in part; and walks over elements.
 */
#include "bpf.h"
#include "command.h"

enum { QUEUE = 22, STACK = 23, BLOOM_FILTER = 30, DEVMAP = 14, DEVMAP_HASH = 25, CPUMAP = 16, XSKMAP = 17 };
enum { NO_COMMON_LRU = 2, ZERO_SEED = 64, RDONLY_PROG = 128, WRONLY_PROG = 256 };

static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*map_push_elem)(void *map, const void *value, u64 flags) = (void *)87;
static long (*map_pop_elem)(void *map, void *value) = (void *)88;
static long (*map_peek_elem)(void *map, void *value) = (void *)89;
static long (*take_lock)(void *lock) = (void *)93;
static long (*give_lock)(void *lock) = (void *)94;
static long (*for_each_map_elem)(void *map, void *callback, void *ctx, u64 flags) = (void *)164;

struct {
	__uint(type, BLOOM_FILTER); __uint(value_size, 8); __uint(max_entries, 6);
	__uint(map_flags, ZERO_SEED); __uint(map_extra, 3);
} k_bloom SEC(".maps");
struct { __uint(type, QUEUE); __uint(value_size, 8); __uint(max_entries, 5); } k_queue SEC(".maps");
struct { __uint(type, STACK); __uint(value_size, 12); __uint(max_entries, 4); } k_stack SEC(".maps");
MAP(k_devices, DEVMAP, 4, 8, 6, 0);
MAP(k_device_hash, DEVMAP_HASH, 4, 4, 6, 0);
MAP(k_cpus, CPUMAP, 4, 4, 2, 0);
MAP(k_sockets, XSKMAP, 4, 4, 6, 0);
MAP(k_hash, HASH, 12, 8, 8, 0);
MAP(k_percpu_hash, PERCPU_HASH, 4, 8, 8, 0);
MAP(k_array, ARRAY, 4, 8, 5, 0);
MAP(k_percpu_array, PERCPU_ARRAY, 4, 8, 5, 0);
MAP(k_own_lru, LRU_HASH, 4, 8, 4096, NO_COMMON_LRU);
MAP(k_own_percpu_lru, LRU_PERCPU_HASH, 4, 8, 4096, NO_COMMON_LRU);
MAP(k_read_only, ARRAY, 4, 8, 5, RDONLY_PROG);
MAP(k_write_only, HASH, 4, 8, 8, WRONLY_PROG);

#define __type(name, val) typeof(val) *name

struct bpf_spin_lock { u32 val; };
struct locked {
	u32 before;
	struct bpf_spin_lock lock;
	u64 after;
};
struct {
	__uint(type, ARRAY); __uint(max_entries, 5);
	__type(key, u32); __type(value, struct locked);
} k_locked_array SEC(".maps");
struct {
	__uint(type, HASH); __uint(max_entries, 6);
	__type(key, u32); __type(value, struct locked);
} k_locked_hash SEC(".maps");

/* 0 push with flags, 1 pop, 2 peek, 3 push */
#define KEYLESS(map)                                                                    \
	do {                                                                            \
		if (op == 1)                                                            \
			c->result = map_pop_elem(map, work.value);                      \
		else if (op == 2)                                                       \
			c->result = map_peek_elem(map, work.value);                     \
		else                                                                    \
			c->result = map_push_elem(map, work.value, op ? 0 : c->flags);  \
		copy(c->value, work.value, sizeof work.value);                          \
	} while (0)

SEC("xdp") int keyless(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	struct work work;
	copy(work.value, c->value, sizeof work.value);
	u32 op = c->op & 3;
	switch (c->map) {
	case 0: KEYLESS(&k_queue); break;
	case 1: KEYLESS(&k_stack); break;
	case 2:
		/* A filter has no pop. */
		if (op == 1 || op == 2)
			c->result = map_peek_elem(&k_bloom, work.value);
		else
			c->result = map_push_elem(&k_bloom, work.value, op ? 0 : c->flags);
		break;
	default: return XDP_ABORTED;
	}
	return XDP_TX;
}

/* The verdict is what the helper answers; an odd `op` looks the entry up instead. */
SEC("xdp") int targets(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	u32 key = c->a;
	u32 *found;
	if (c->op & 1) {
		switch (c->map) {
		case 0:
			found = map_lookup_elem(&k_devices, &key);
			if (found)
				c->b = found[1];
			break;
		case 1: found = map_lookup_elem(&k_device_hash, &key); break;
		case 2: c->result = map_lookup_elem(&k_sockets, &key) != 0; return XDP_TX;
		default: return XDP_ABORTED;
		}
		c->result = found ? *found : -1;
		return XDP_TX;
	}
	switch (c->map) {
	case 0: return redirect_map(&k_devices, key, c->flags);
	case 1: return redirect_map(&k_device_hash, key, c->flags);
	case 2: return redirect_map(&k_sockets, key, c->flags);
	case 3: return redirect_map(&k_cpus, key, c->flags);
	default: return XDP_ABORTED;
	}
}

/* What a walk gathers: nothing that depends on the order, which is each map's own business, unless it is to
 * stop after some elements. */
struct sums {
	u64 keys, values;
	u32 count, limit;
};

static long gather(void *map, u32 *key, u64 *value, struct sums *sums)
{
	sums->keys += *key * 0x9e3779b97f4a7c15ull;
	sums->values += *value;
	sums->count += 1;
	return sums->count == sums->limit;
}

/* Changes what it is given, where it stands. */
static long change(void *map, u32 *key, u64 *value, struct sums *sums)
{
	*value += *key + sums->limit;
	sums->count += 1;
	return 0;
}

#define WALK(map)                                                                 \
	c->result = c->op & 1 ? for_each_map_elem(map, change, &sums, flags)      \
			      : for_each_map_elem(map, gather, &sums, flags)

SEC("xdp") int walk(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	struct sums sums = {};
	u64 flags = c->flags;
	int ordered = c->map >= 4;
	sums.limit = ordered || (c->op & 1) ? c->b & 7 : 0;
	switch (c->map) {
	case 0: WALK(&k_hash); break;
	case 1: WALK(&k_percpu_hash); break;
	case 2: WALK(&k_own_lru); break;
	case 3: WALK(&k_own_percpu_lru); break;
	case 4: WALK(&k_array); break;
	case 5: WALK(&k_percpu_array); break;
	case 6: c->result = for_each_map_elem(&k_read_only, gather, &sums, flags); break;
	default: return XDP_ABORTED;
	}
	copy(c->key, &sums, sizeof sums);
	return XDP_TX;
}

/* 0 look up, 1 update, 2 delete */
#define TABLE(map, value_size)                                                            \
	do {                                                                              \
		if (op == 1) {                                                            \
			c->result = map_update_elem(map, work.key, work.value, c->flags); \
		} else if (op == 2) {                                                     \
			c->result = map_delete_elem(map, work.key);                       \
		} else {                                                                  \
			u8 *found = map_lookup_elem(map, work.key);                       \
			c->result = found != 0;                                           \
			if (found)                                                        \
				copy(c->value, found, value_size);                        \
		}                                                                         \
	} while (0)

SEC("xdp") int tables(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	struct work work;
	copy(work.key, c->key, sizeof work.key);
	copy(work.value, c->value, sizeof work.value);
	u32 op = c->op & 3;
	switch (c->map) {
	case 0: TABLE(&k_hash, 8); break;
	case 1: TABLE(&k_percpu_hash, 8); break;
	case 2: TABLE(&k_own_lru, 8); break;
	case 3: TABLE(&k_own_percpu_lru, 8); break;
	case 4: TABLE(&k_array, 8); break;
	case 5: TABLE(&k_percpu_array, 8); break;
	case 6: {
		u64 *found = map_lookup_elem(&k_read_only, work.key);
		c->result = found ? *found : 1;
		break;
	}
	case 7: {
		/* Written through the pointer, never read. */
		u64 *found = map_lookup_elem(&k_write_only, work.key);
		if (op == 1)
			c->result = map_update_elem(&k_write_only, work.key, work.value, c->flags);
		else if (op == 2)
			c->result = map_delete_elem(&k_write_only, work.key);
		else if (found)
			*found = c->flags;
		break;
	}
	default: return XDP_ABORTED;
	}
	return XDP_TX;
}

/* 0 read and add under the lock, 1 update, 2 delete */
#define LOCKED(map)                                                                       \
	do {                                                                              \
		if (op == 1) {                                                            \
			c->result = map_update_elem(map, work.key, work.value, c->flags); \
		} else if (op == 2) {                                                     \
			c->result = map_delete_elem(map, work.key);                       \
		} else {                                                                  \
			struct locked *found = map_lookup_elem(map, work.key);            \
			u64 after = 0;                                                    \
			u32 before = 0;                                                   \
			if (found) {                                                      \
				take_lock(&found->lock);                                  \
				before = found->before++;                                 \
				after = found->after;                                     \
				found->after = after + before;                            \
				give_lock(&found->lock);                                  \
			}                                                                 \
			c->result = found != 0;                                           \
			c->b = before;                                                    \
			c->flags = after;                                                 \
		}                                                                         \
	} while (0)

SEC("xdp") int locks(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	struct work work;
	copy(work.key, c->key, sizeof work.key);
	copy(work.value, c->value, sizeof work.value);
	u32 op = c->op & 3;
	switch (c->map) {
	case 0: LOCKED(&k_locked_array); break;
	case 1: LOCKED(&k_locked_hash); break;
	default: return XDP_ABORTED;
	}
	return XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
