/* What needs more from a loader than instructions: types in maps, externs, initialisers, functions.
 * Built with clang-19, as bpf.h says, and -mcpu=v3. */
#include "bpf.h"

/* The kernel knows these two by their names. */
struct bpf_spin_lock {
	u32 val;
};
struct bpf_timer {
	u64 opaque[2];
} __attribute__((aligned(8)));

struct locked {
	struct bpf_spin_lock lock;
	u32 count;
};
struct timed {
	struct bpf_timer timer;
	u64 fired;
};

struct { __uint(type, ARRAY); __type(key, u32); __type(value, struct locked); __uint(max_entries, 1); }
	accounts SEC(".maps");
struct { __uint(type, ARRAY); __type(key, u32); __type(value, struct timed); __uint(max_entries, 1); }
	alarms SEC(".maps");

/* Inner maps with a lock: the kernel wants the same types of all of them. */
struct inner { __uint(type, HASH); __type(key, u32); __type(value, struct locked); __uint(max_entries, 4); }
	first SEC(".maps"), second SEC(".maps");
struct { __uint(type, ARRAY_OF_MAPS); __type(key, u32); __uint(max_entries, 2); __array(values, struct inner); }
	tables SEC(".maps") = { .values = { [0] = &first, [1] = &second } };

struct { __uint(type, 27); __uint(max_entries, 100); } ring SEC(".maps"); /* ringbuf, size to be rounded */
struct { __uint(type, 22); __uint(max_entries, 4); __type(value, u32); } queue SEC(".maps");
struct { __uint(type, 23); __uint(max_entries, 4); __type(value, u32); } stack SEC(".maps");
struct { __uint(type, 30); __uint(max_entries, 100); __uint(map_extra, 3); __type(value, u32); } bloom SEC(".maps");
struct { __uint(type, 14); __uint(max_entries, 4); __type(key, u32); __type(value, u32); } devices SEC(".maps");
struct { __uint(type, 25); __uint(max_entries, 4); __type(key, u32); __type(value, u64); __uint(pinning, 1); }
	devices_by_hash SEC(".maps");
struct { __uint(type, 16); __uint(max_entries, 4); __type(key, u32); __type(value, u32); } cpus SEC(".maps");
struct { __uint(type, 17); __uint(max_entries, 4); __type(key, u32); __type(value, u32); } sockets SEC(".maps");
struct { __uint(type, 4); __uint(key_size, 4); __uint(value_size, 4); } events SEC(".maps");

static long (*spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static long (*spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static long (*ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static long (*map_push_elem)(void *map, const void *value, u64 flags) = (void *)87;
static long (*map_pop_elem)(void *map, void *value) = (void *)88;
static long (*timer_init)(struct bpf_timer *timer, void *map, u64 flags) = (void *)169;
static long (*timer_set_callback)(struct bpf_timer *timer, void *callback) = (void *)170;
static long (*timer_start)(struct bpf_timer *timer, u64 nsecs, u64 flags) = (void *)171;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

SEC("xdp") int lock(struct xdp_md *ctx)
{
	u32 zero = 0, one = 1;
	struct locked *account = map_lookup_elem(&accounts, &zero);
	if (!account)
		return XDP_ABORTED;
	spin_lock(&account->lock);
	account->count += 3;
	spin_unlock(&account->lock);
	void *table = map_lookup_elem(&tables, &one);
	if (!table)
		return XDP_DROP;
	struct locked fresh = { .count = 5 };
	return map_update_elem(table, &one, &fresh, 0) ? XDP_DROP : XDP_PASS;
}

static int fire(void *map, u32 *key, struct timed *value)
{
	value->fired++;
	return 0;
}

SEC("xdp") int alarm(struct xdp_md *ctx)
{
	u32 zero = 0;
	struct timed *timed = map_lookup_elem(&alarms, &zero);
	if (!timed || timer_init(&timed->timer, &alarms, 1))
		return XDP_ABORTED;
	timer_set_callback(&timed->timer, fire);
	return timer_start(&timed->timer, 1, 0) ? XDP_DROP : XDP_PASS;
}

/* A function of its own for the verifier. */
__attribute__((noinline)) int clamp(u32 x)
{
	return x > 100 ? 100 : x;
}

SEC("xdp") int queues(struct xdp_md *ctx)
{
	u32 value = 0;
	if (map_pop_elem(&queue, &value) || map_push_elem(&stack, &value, 0))
		return XDP_DROP;
	map_push_elem(&bloom, &value, 0);
	ringbuf_output(&ring, &value, sizeof(value), 0);
	return clamp(value);
}

SEC("xdp") int redirected(struct xdp_md *ctx)
{
	return redirect_map(&devices, 0, XDP_PASS) + redirect_map(&devices_by_hash, 0, 0) +
	       redirect_map(&cpus, 0, 0) + redirect_map(&sockets, 0, 0);
}

SEC("xdp/devmap") int leaving(struct xdp_md *ctx)
{
	return ctx->egress_ifindex ? XDP_PASS : XDP_DROP;
}

SEC("xdp/cpumap") int arriving(struct xdp_md *ctx)
{
	return XDP_PASS;
}

extern u32 LINUX_KERNEL_VERSION __attribute__((section(".kconfig")));
SEC("xdp") int version(struct xdp_md *ctx)
{
	return LINUX_KERNEL_VERSION;
}

extern int bpf_xdp_metadata_rx_timestamp(const struct xdp_md *ctx, u64 *timestamp) __attribute__((section(".ksyms"), weak));
extern void bpf_no_such_function(void) __attribute__((section(".ksyms"), weak));
extern void bpf_rcu_read_lock(void) __attribute__((section(".ksyms")));
extern void bpf_rcu_read_unlock(void) __attribute__((section(".ksyms")));
SEC("xdp") int functions(struct xdp_md *ctx)
{
	if (bpf_no_such_function)
		bpf_no_such_function();
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	return XDP_TX;
}

/* Holds a program from the start, and one that no array names. */
int target(struct xdp_md *ctx);
struct { __uint(type, PROG_ARRAY); __uint(key_size, 4); __uint(max_entries, 2); __array(values, int(void *)); }
	jumps SEC(".maps") = { .values = { [1] = (void *)&target } };

SEC("xdp") int jumping(struct xdp_md *ctx)
{
	tail_call(ctx, &jumps, 1);
	return XDP_ABORTED;
}

SEC("?xdp") int target(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("socket") int other_section(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
