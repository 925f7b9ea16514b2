/* Helpers that call subprograms back, spin locks and ring buffer records. The frame says what to do: byte 0
 * an operation, bytes 2 to 9 two arguments of 32 bits. Results go to bytes 16 to 31.
 */
#include "bpf.h"

enum { RINGBUF = 27 };

#define __type(name, val) typeof(val) *name

struct bpf_spin_lock {
	u32 val;
};

struct locked {
	u64 before;
	struct bpf_spin_lock lock;
	u32 behind;
};

struct {
	__uint(type, ARRAY); __type(key, u32); __type(value, struct locked);
	__uint(max_entries, 4);
} m_locked SEC(".maps");

struct {
	__uint(type, HASH); __type(key, u32); __type(value, struct locked);
	__uint(max_entries, 16);
} m_locked_hash SEC(".maps");

MAP(m_array, ARRAY, 4, 8, 10, 0);
MAP(m_percpu, PERCPU_ARRAY, 4, 8, 6, 0);
MAP(m_hash, HASH, 12, 16, 64, 0);
MAP(m_lru, LRU_HASH, 4, 8, 1024, 0);
struct {
	__uint(type, RINGBUF); __uint(max_entries, 4096);
} m_ring SEC(".maps");

static long (*loop)(u32 rounds, void *callback, void *ctx, u64 flags) = (void *)181;
static long (*for_each_map_elem)(void *map, void *callback, void *ctx, u64 flags) = (void *)164;
static long (*spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static long (*spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static void *(*ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, u64 flags) = (void *)132;
static void (*ringbuf_discard)(void *data, u64 flags) = (void *)133;
static u64 (*ringbuf_query)(void *ring, u64 what) = (void *)134;

struct work {
	struct xdp_md *xdp;
	u32 a, b;
	u64 sum, rounds;
};

static long add(u64 n, struct work *w)
{
	w->sum += n * 3 + 1;
	w->rounds++;
	return n == w->b;
}

static long mix(u64 n, struct work *w)
{
	w->sum = (w->sum ^ n) * 0x9e3779b97f4a7c15;
	w->rounds++;
	return 0;
}

static long inner(u64 n, u64 *sum)
{
	*sum += n;
	return n == 5;
}

static long outer(u64 n, struct work *w)
{
	u64 sum = n;

	w->rounds += loop(w->b & 15, inner, &sum, 0);
	w->sum += sum;
	return 0;
}

static long shrink(u64 n, struct work *w)
{
	w->sum = w->sum * 7 + (xdp_adjust_tail(w->xdp, -1) & 0xff);
	return 0;
}

static long look(u64 n, struct work *w)
{
	u8 *data = (void *)(long)w->xdp->data, *end = (void *)(long)w->xdp->data_end;

	if (n > 60 || data + n + 1 > end)
		return 1;
	w->sum = w->sum * 31 + data[n];
	return 0;
}

static long element(void *map, const u32 *key, u64 *value, struct work *w)
{
	w->sum += *value * 31 + *key;
	*value += *key + w->a;
	w->rounds++;
	return *key == w->b;
}

struct key {
	u32 words[3];
};

static long drop_odd(void *map, const struct key *key, u64 *value, struct work *w)
{
	struct key copy = *key;

	w->sum += key->words[0] + key->words[2] + value[1];
	value[0] ^= w->a;
	w->rounds++;
	if (key->words[0] & 1)
		return map_delete_elem(map, &copy) != 0;
	return 0;
}

static long with_loop(void *map, const u32 *key, u64 *value, struct work *w)
{
	loop(*key & 7, add, w, 0);
	*value = w->sum;
	return 0;
}

static __attribute__((noinline)) long locked(void *map, u32 key, struct work *w)
{
	struct locked *value = map_lookup_elem(map, &key);

	if (!value)
		return -1;
	spin_lock(&value->lock);
	value->before += w->a;
	value->behind ^= w->b;
	w->sum = value->before ^ value->behind;
	spin_unlock(&value->lock);
	return 0;
}

static __attribute__((noinline)) long record(struct work *w)
{
	u64 *first = ringbuf_reserve(&m_ring, 24, 0), *second;

	if (!first)
		return -1;
	second = ringbuf_reserve(&m_ring, 8, 0);
	first[0] = w->a;
	first[2] = w->b;
	w->sum = first[0] + first[2];
	if (w->a & 1)
		ringbuf_submit(first, 1);
	else
		ringbuf_discard(first, 1);
	if (!second)
		return -2;
	*second = w->sum;
	w->rounds = *second;
	ringbuf_submit(second, 1);
	return 0;
}

static __attribute__((noinline)) long act(u8 op, struct work *w)
{
	struct key key = { { w->a & 31, 1, w->b } };
	u64 value[2] = { w->b, w->a };
	u32 small = w->a & 255;

	switch (op) {
	case 0: return loop(w->a & 0xfff, add, w, 0);
	case 1: return loop(w->a & 0x3f, outer, w, 0);
	case 2: return loop(w->a, w->b & 1 ? (void *)add : (void *)mix, w, w->b >> 31) & 0xffff;
	case 3: return loop(w->a & 7, shrink, w, 0);
	case 4: return loop(w->a & 127, look, w, 0);
	case 5: return for_each_map_elem(&m_array, element, w, 0);
	case 6: return for_each_map_elem(&m_percpu, element, w, 0);
	case 7:
		w->b = 0xfffff; /* No key: the order of a hash is its own, so all are visited. */
		return for_each_map_elem(&m_lru, element, w, 0);
	case 8: return for_each_map_elem(&m_hash, drop_odd, w, 0);
	case 9: return for_each_map_elem(&m_array, with_loop, w, 0);
	case 10: return for_each_map_elem(&m_array, element, w, w->a & 1);
	case 11: return map_update_elem(&m_hash, &key, value, 0);
	case 12: return map_update_elem(&m_lru, &small, value, 0);
	case 13: return locked(&m_locked, w->a & 7, w);
	case 14: return locked(&m_locked_hash, w->a & 7, w);
	case 15: return record(w);
	}
	return -100;
}

SEC("xdp")
int callbacks(struct xdp_md *xdp)
{
	u8 *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct work w = { .xdp = xdp };
	long result;

	if (data + 32 > end)
		return XDP_DROP;
	w.a = *(u32 *)(data + 2);
	w.b = *(u32 *)(data + 6);
	result = act(data[0], &w);
	data = (void *)(long)xdp->data;
	end = (void *)(long)xdp->data_end;
	if (data + 32 > end)
		return XDP_ABORTED;
	*(u64 *)(data + 10) = w.rounds;
	*(u64 *)(data + 16) = result;
	*(u64 *)(data + 24) = w.sum;
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
