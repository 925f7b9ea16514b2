// iproute2's map definition: id, pinning, inner map by id; -1 as its index in the outer map means none.
#include "common.h"

struct bpf_elf_map {
	u32 type, size_key, size_value, max_elem, flags, id, pinning, inner_id, inner_idx;
};

struct bpf_elf_map SEC("maps") in = {2 /* array */, 4, 8, 16, 0, 77, 0, 0, 2};
struct bpf_elf_map SEC("maps") out = {12 /* array_of_maps */, 4, 4, 3, 0, 0, 2 /* global */, 77, 0};
struct bpf_elf_map SEC("maps") late_in = {2, 4, 8, 16, 0, 78, 0, 0, -1};
struct bpf_elf_map SEC("maps") late = {12, 4, 4, 3, 0, 0, 0, 78, 0};
struct bpf_elf_map SEC("maps") jmp = {3 /* prog_array */, 4, 4, 8, 0, 5, 1 /* object */, 0, 0};

static u64 (*lookup)(void *map, const void *key) = (void *)1;
static u64 (*tail_call)(void *ctx, void *map, u64 index) = (void *)12;

SEC("classifier") int prog(struct xdp_md *ctx)
{
	u32 key = 0;
	if (lookup(&out, &key) || lookup(&late, &key))
		tail_call(ctx, &jmp, 1);
	return 0;
}
