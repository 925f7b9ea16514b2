// Map definitions of the first samples (inner map by index, no NUMA node) and of gobpf (a namespace as text).
#include "common.h"

struct samples_map_def {
	u32 type, key_size, value_size, max_entries, map_flags, inner_map_idx;
};
struct gobpf_map_def {
	u32 type, key_size, value_size, max_entries, map_flags, pinning;
	char namespace[256];
};

struct samples_map_def SEC("maps") inner = {2 /* array */, 4, 8, 16, 0, 0};
struct samples_map_def SEC("maps") outer = {12 /* array_of_maps */, 4, 4, 3, 0, 0};
struct gobpf_map_def SEC("maps/events") events = {1 /* hash */, 4, 4, 3, 0, 2 /* global */, "tools"};

static u64 (*lookup)(void *map, const void *key) = (void *)1;

SEC("xdp_early") int early(struct xdp_md *ctx)
{
	u32 key = 0;
	void *m = (void *)lookup(&outer, &key);
	return m && lookup(&events, &key) ? 2 : 1;
}

unsigned int built_for SEC("version") = 263680;
char licence[] SEC("license") = "GPL";
