// Maps the old way: struct bpf_map_def in a section `maps`, no BTF needed.
#include "common.h"

struct bpf_map_def {
	u32 type, key_size, value_size, max_entries, map_flags;
};

struct bpf_map_def SEC("maps") flows = {1 /* hash */, 12, 8, 1000, 1 /* NO_PREALLOC */};
struct bpf_map_def SEC("maps") counters = {6 /* percpu_array */, 4, 16, 4, 0};
static struct bpf_map_def SEC("maps") hidden = {2 /* array */, 4, 4, 1, 0};

static u64 (*lookup)(void *map, const void *key) = (void *)1;

SEC("xdp_prog1") int count(struct xdp_md *ctx)
{
	u32 key = 0, flow[3] = {};
	u64 *c = (void *)lookup(&counters, &key);
	u32 *h = (void *)lookup(&hidden, &key);
	if (c)
		*c += 1;
	if (h)
		*h += 1;
	return lookup(&flows, flow) ? 2 : 1;
}

char licence[] SEC("license") = "Dual MIT/GPL";
