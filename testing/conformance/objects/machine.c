/* A program that does what the frame says: one map operation or helper, whose arguments come from the
 * frame and whose results go back into it. So that a list of frames can exercise every map type and
 * helper in every engine.
 */
#include "bpf.h"
#include "command.h"

/* Maps by their number in the frame. Small bounds, so that they are met. */
MAP(m_hash, HASH, 12, 16, 8, 0);                        /* 0 */
MAP(m_hash_lazy, HASH, 4, 8, 8, NO_PREALLOC);           /* 1 */
MAP(m_percpu_hash, PERCPU_HASH, 4, 12, 8, 0);           /* 2 */
MAP(m_array, ARRAY, 4, 16, 5, 0);                       /* 3 */
MAP(m_percpu_array, PERCPU_ARRAY, 4, 12, 5, 0);         /* 4 */
MAP(m_lru, LRU_HASH, 16, 8, 4096, 0);                   /* 5 */
MAP(m_percpu_lru, LRU_PERCPU_HASH, 4, 4, 4096, 0);      /* 6 */
MAP(m_prefixes, LPM_TRIE, 8, 8, 8, NO_PREALLOC);        /* 7 */
MAP(m_long_prefixes, LPM_TRIE, 20, 4, 16, NO_PREALLOC); /* 8 */
struct {                                                /* 9 */
	__uint(type, ARRAY_OF_MAPS); __uint(key_size, 4); __uint(value_size, 4);
	__uint(max_entries, 4);
	__array(values, struct { __uint(type, LRU_HASH); __uint(key_size, 4);
				 __uint(value_size, 8); __uint(max_entries, 256); });
} m_array_of_maps SEC(".maps");
struct {                                                /* 10 */
	__uint(type, HASH_OF_MAPS); __uint(key_size, 8); __uint(value_size, 4);
	__uint(max_entries, 4);
	__array(values, struct { __uint(type, HASH); __uint(key_size, 4);
				 __uint(value_size, 8); __uint(max_entries, 6);
				 __uint(map_flags, NO_PREALLOC); });
} m_hash_of_maps SEC(".maps");
MAP(m_programs, PROG_ARRAY, 4, 4, 4, 0);

/* 0 look up, 1 update, 2 delete, 3 atomic operations on the value */
#define OPERATE(map, value_size)                                                   \
	do {                                                                       \
		if (op == 1) {                                                     \
			c->result = map_update_elem(map, work.key, work.value, c->flags); \
		} else if (op == 2) {                                              \
			c->result = map_delete_elem(map, work.key);                \
		} else {                                                           \
			u8 *found = map_lookup_elem(map, work.key);                \
			c->result = found != 0;                                    \
			if (found && op == 3 && (value_size) >= 8)                 \
				c->result = atomics((u64 *)found, c);              \
			if (found)                                                 \
				copy(c->value, found, value_size);                 \
		}                                                                  \
	} while (0)

static __attribute__((always_inline)) long atomics(u64 *at, struct command *c)
{
	u32 *low = (u32 *)at;
	switch (c->a & 15) {
	case 0: return __sync_fetch_and_add(at, c->flags);
	case 1: return __sync_fetch_and_or(at, c->flags);
	case 2: return __sync_fetch_and_and(at, c->flags);
	case 3: return __sync_fetch_and_xor(at, c->flags);
	case 4: return __sync_lock_test_and_set(at, c->flags);
	case 5: return __sync_val_compare_and_swap(at, (u64)c->b, c->flags);
	case 6: return __sync_fetch_and_add(low, (u32)c->flags);
	case 7: return __sync_fetch_and_or(low, (u32)c->flags);
	case 8: return __sync_fetch_and_and(low, (u32)c->flags);
	case 9: return __sync_fetch_and_xor(low, (u32)c->flags);
	case 10: return __sync_lock_test_and_set(low, (u32)c->flags);
	case 11: return __sync_val_compare_and_swap(low, c->b, (u32)c->flags);
	default: __sync_fetch_and_add(at, 1); return 0;
	}
}

SEC("xdp") int maps(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	struct work work;
	copy(work.key, c->key, sizeof work.key);
	copy(work.value, c->value, sizeof work.value);
	u32 op = c->op & 3;
	switch (c->map) {
	case 0: OPERATE(&m_hash, 16); break;
	case 1: OPERATE(&m_hash_lazy, 8); break;
	case 2: OPERATE(&m_percpu_hash, 12); break;
	case 3: OPERATE(&m_array, 16); break;
	case 4: OPERATE(&m_percpu_array, 12); break;
	case 5: OPERATE(&m_lru, 8); break;
	case 6: OPERATE(&m_percpu_lru, 4); break;
	case 7: OPERATE(&m_prefixes, 8); break;
	case 8: OPERATE(&m_long_prefixes, 4); break;
	case 9: {
		u32 index = c->a;
		void *inner = map_lookup_elem(&m_array_of_maps, &index);
		if (!inner)
			return XDP_PASS;
		OPERATE(inner, 8);
		break;
	}
	case 10: {
		u64 key = c->a;
		void *inner = map_lookup_elem(&m_hash_of_maps, &key);
		if (!inner)
			return XDP_PASS;
		OPERATE(inner, 8);
		break;
	}
	case 11: {
		u8 *found = map_lookup_percpu_elem(&m_percpu_array, work.key, c->a);
		c->result = found != 0;
		if (found)
			copy(c->value, found, 12);
		break;
	}
	case 12: {
		u8 *found = map_lookup_percpu_elem(&m_percpu_hash, work.key, c->a);
		c->result = found != 0;
		if (found)
			copy(c->value, found, 12);
		break;
	}
	default: return XDP_ABORTED;
	}
	return XDP_TX;
}

/* The result after a helper that moved the packet's ends: in the frame if it still has room for it. */
static __attribute__((always_inline)) int moved(struct xdp_md *ctx, long result)
{
	struct command *c = command(ctx);
	if (!c)
		return result ? XDP_DROP : XDP_PASS;
	c->result = result;
	return XDP_TX;
}

SEC("xdp") int helpers(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	struct work work;
	copy(work.key, c->key, sizeof work.key);
	copy(work.value, c->value, sizeof work.value);
	u32 a = c->a, b = c->b;
	switch (c->op) {
	case 0: return moved(ctx, xdp_adjust_head(ctx, a));
	case 1: return moved(ctx, xdp_adjust_tail(ctx, a));
	case 2: {
		long result = xdp_adjust_meta(ctx, a);
		u8 *meta = (void *)(long)ctx->data_meta;
		u8 *data = (void *)(long)ctx->data;
		if (meta + 4 <= data)
			*meta = b;
		return moved(ctx, result * 1000 + (data - meta));
	}
	case 3: c->result = csum_diff(work.key, a & 15, work.value, b & 15, c->flags); break;
	case 4: c->result = csum_diff(0, 0, work.value, b & 12, c->flags); break;
	case 5: c->result = csum_diff(work.key, a & 12, 0, 0, c->flags); break;
	case 6: c->result = get_smp_processor_id(); break;
	case 7: c->result = xdp_get_buff_len(ctx); break;
	case 8: {
		long result = xdp_load_bytes(ctx, a, work.value, (b & 7) + 1);
		copy(c->value, work.value, sizeof work.value);
		c->result = result;
		break;
	}
	case 9: return moved(ctx, xdp_store_bytes(ctx, a, work.value, (b & 7) + 1));
	case 10: return redirect(a, c->flags);
	case 11: c->result = ctx->rx_queue_index; break;
	case 12: c->result = (u64)ctx->data_end - ctx->data; break;
	case 13: c->result = get_numa_node_id(); break;
	default: return a;
	}
	return XDP_TX;
}

/* Calls the program at index `a`; what it changed before stays if there is none. */
SEC("xdp") int chain(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	c->result += 1;
	tail_call(ctx, &m_programs, c->a);
	c->result += 1000;
	return XDP_PASS;
}

/* Subprograms, loops and a stack that is indexed by data. */
static __attribute__((noinline)) u64 mix(u64 x, u64 y)
{
	x ^= y >> 7;
	x *= 0x9e3779b97f4a7c15ull;
	return x ^ (x >> 29) ^ (x << 13);
}

static __attribute__((noinline)) u64 fold(const u8 *bytes, u32 count, u64 seed)
{
	for (u32 i = 0; i < count && i < 40; i++)
		seed = mix(seed, bytes[i]) % (i + 3) + seed / ((u64)bytes[i] - 17);
	return seed;
}

SEC("xdp") int compute(struct xdp_md *ctx)
{
	struct command *c = command(ctx);
	if (!c)
		return XDP_DROP;
	struct work work;
	u64 table[8] = { 1, 2, 3, 5, 7, 11, 13, 17 };
	copy(work.key, c->key, sizeof work.key);
	copy(work.value, c->value, sizeof work.value);
	table[c->a & 7] += c->flags;
	int s = (int)c->b;
	long r = fold(work.key, c->op, c->flags);
	r += table[(c->a >> 3) & 7] + (s >> 3) + (s < 0 ? -s : s) + (char)c->map;
	r ^= __builtin_bswap64(c->flags) + __builtin_bswap32(c->a) + __builtin_bswap16(c->b);
	c->result = r;
	c->a = (u32)r % (c->b | 1);
	c->b = (u32)(c->flags >> 32) / (c->b | 1);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
