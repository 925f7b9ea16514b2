// iproute2's tail calls by the names of sections, its older map definition, and types by annotation.
#include "common.h"

struct bpf_elf_map {
	u32 type, size_key, size_value, max_elem, flags, id, pinning;
};

struct counter {
	u64 packets, bytes;
};

struct bpf_elf_map SEC("maps") jumps = {3 /* prog_array */, 4, 4, 4, 0, 5, 0};
struct bpf_elf_map SEC("maps") counters = {1 /* hash */, 4, 16, 8, 0, 6, 2 /* global */};
struct bpf_elf_map SEC("maps") untyped = {1 /* hash */, 4, 8, 8, 0, 0, 0};

// As BPF_ANNOTATE_KV_PAIR does.
struct ____btf_map_counters {
	u32 key;
	struct counter value;
};
struct ____btf_map_counters __attribute__((section(".maps.counters"), used)) ____btf_map_counters = {};
struct ____btf_map_untyped {
	u32 key;
	u32 value;
};
struct ____btf_map_untyped __attribute__((section(".maps.untyped"), used)) ____btf_map_untyped = {};

static u64 (*lookup)(void *map, const void *key) = (void *)1;
static u64 (*tail_call)(void *ctx, void *map, u64 index) = (void *)12;

SEC("prog") int entry(struct xdp_md *ctx)
{
	u32 key = 0;
	if (!lookup(&untyped, &key) && !lookup(&counters, &key))
		tail_call(ctx, &jumps, 2);
	return 1;
}

SEC("5/2") int second(struct xdp_md *ctx)
{
	return 2;
}

SEC("5/0x3") int third(struct xdp_md *ctx)
{
	return 3;
}

SEC("9/0") int elsewhere(struct xdp_md *ctx)
{
	return 0;
}

char licence[] SEC("license") = "GPL";
