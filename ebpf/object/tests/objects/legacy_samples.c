// The kernel samples' map definition: inner map by index, NUMA node.
#include "common.h"

struct bpf_map_def {
	u32 type, key_size, value_size, max_entries, map_flags, inner_map_idx, numa_node;
};

struct bpf_map_def SEC("maps") inner = {2 /* array */, 4, 8, 16, 0, 0, 0};
struct bpf_map_def SEC("maps") outer = {12 /* array_of_maps */, 4, 4, 3, 0, 0, 0};
struct bpf_map_def SEC("maps") near = {1 /* hash */, 4, 4, 3, 4 /* NUMA_NODE */, 0, 1};
// Indices count through all sections.
struct bpf_map_def SEC("maps/elsewhere") elsewhere = {13 /* hash_of_maps */, 4, 4, 3, 0, 4, 0};
struct bpf_map_def SEC("maps/hash") hash = {1 /* hash */, 4, 4, 3, 0, 0, 0};

static u64 (*lookup)(void *map, const void *key) = (void *)1;

SEC("xdp") int prog(struct xdp_md *ctx)
{
	u32 key = 0;
	void *m = (void *)lookup(&outer, &key);
	return m && lookup(&near, &key) ? 2 : 1;
}
