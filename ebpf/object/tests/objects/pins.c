// Maps that are shared by name: libbpf's way, Cilium's, and one that refers to programs.
#include "common.h"

struct {
	UINT(type, 1); // hash
	UINT(max_entries, 16);
	TYPE(key, u32);
	TYPE(value, u64);
	UINT(pinning, 1); // LIBBPF_PIN_BY_NAME
} seen SEC(".maps");

struct {
	UINT(type, 2); // array
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
	UINT(pinning, 16); // CILIUM_PIN_REPLACE
} fresh SEC(".maps");

struct {
	UINT(type, 2); // array
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
} own SEC(".maps");

static u64 (*lookup)(void *map, const void *key) = (void *)1;
static u64 (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;

static void count(void *map)
{
	u32 key = 0;
	u64 one = 1, *value = (void *)lookup(map, &key);

	if (value)
		*value += 1;
	else
		update(map, &key, &one, 0);
}

SEC("xdp") int counts(struct xdp_md *ctx)
{
	count(&seen);
	count(&fresh);
	count(&own);
	return 2;
}

// Named after nothing that a loader knows.
SEC("frontend") int unnamed(struct xdp_md *ctx)
{
	return 1;
}

char licence[] SEC("license") = "GPL";
