// Values with fields that the kernel keeps for itself; sizes that are left to the loader.
#include "common.h"

struct bpf_spin_lock {
	u32 val;
};
struct bpf_timer {
	u64 opaque[2];
} __attribute__((aligned(8)));

struct flow {
	u64 packets;
	struct bpf_spin_lock lock;
	struct {
		u64 expires;
		struct bpf_timer timer;
	} idle;
};

struct {
	UINT(type, 1); // hash
	UINT(max_entries, 16);
	TYPE(key, u32);
	TYPE(value, struct flow);
} flows SEC(".maps");

struct {
	UINT(type, 13); // hash_of_maps
	UINT(max_entries, 4);
	UINT(key_size, 4);
	ARRAY(values, struct {
		UINT(type, 2);
		UINT(max_entries, 1);
		TYPE(key, u32);
		TYPE(value, struct flow);
	});
} by_tenant SEC(".maps");

struct {
	UINT(type, 27); // ringbuf
	UINT(max_entries, 5000);
} ring SEC(".maps");

struct {
	UINT(type, 4); // perf_event_array
	UINT(key_size, 4);
	UINT(value_size, 4);
} events SEC(".maps");

u64 total;
struct bpf_spin_lock guard SEC(".data.guarded");
u64 guarded SEC(".data.guarded");

static u64 (*lookup)(void *map, const void *key) = (void *)1;
static u64 (*spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static u64 (*spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static u64 (*perf_output)(void *ctx, void *map, u64 flags, void *data, u64 size) = (void *)25;
static u64 (*ring_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;

SEC("xdp") int count(struct xdp_md *ctx)
{
	u32 key = 0;
	struct flow *flow = (void *)lookup(&flows, &key);
	void *inner = (void *)lookup(&by_tenant, &key);

	if (!flow || !inner)
		return 1;
	spin_lock(&flow->lock);
	flow->packets++;
	spin_unlock(&flow->lock);
	spin_lock(&guard);
	guarded++;
	spin_unlock(&guard);
	total++;
	ring_output(&ring, &key, 4, 0);
	perf_output(ctx, &events, 0xffffffffu, &key, 4);
	return 2;
}

// Called by nobody outside of the object: verified together with its callers.
__attribute__((visibility("hidden"))) NOINLINE int helper(struct xdp_md *ctx, u32 more)
{
	return ctx->ingress_ifindex * 3 + more;
}
// May be replaced by another object's.
__attribute__((weak)) NOINLINE int replaceable(u32 x)
{
	return x + 1;
}

SEC("xdp.frags/devmap") int out(struct xdp_md *ctx)
{
	return helper(ctx, replaceable(ctx->egress_ifindex));
}

char licence[] SEC("license") = "GPL";
