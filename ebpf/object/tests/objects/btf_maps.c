// Maps described by BTF: sizes, types, inner maps, initial values, pinning.
#include "common.h"

struct key {
	u32 addr[4];
	u16 port;
	u8 proto;
};
typedef struct {
	u64 packets, bytes;
} stats_t;

struct {
	UINT(type, 1); // hash
	UINT(max_entries, 512);
	UINT(map_flags, 1);
	TYPE(key, struct key);
	TYPE(value, stats_t);
	UINT(pinning, 1);
} sessions SEC(".maps");

struct {
	UINT(type, 9); // lru_hash
	UINT(max_entries, 64);
	UINT(map_flags, 4);
	UINT(numa_node, 0);
	UINT(key_size, 40);
	UINT(value_size, 16);
} sized SEC(".maps");

struct inner_map {
	UINT(type, 2); // array
	UINT(max_entries, 8);
	TYPE(key, u32);
	TYPE(value, u64);
} inner_a SEC(".maps"), inner_b SEC(".maps");

struct {
	UINT(type, 12); // array_of_maps
	UINT(max_entries, 4);
	TYPE(key, u32);
	ARRAY(values, struct inner_map);
} outer SEC(".maps") = {.values = {[1] = &inner_b, [3] = &inner_a}};

struct {
	UINT(type, 13); // hash_of_maps
	UINT(max_entries, 4);
	UINT(key_size, 16);
	UINT(value_size, 4);
	ARRAY(values, struct {
		UINT(type, 1);
		UINT(max_entries, 100);
		UINT(map_flags, 1);
		TYPE(key, u32);
		TYPE(value, u8);
	});
} by_addr SEC(".maps");

int second(struct xdp_md *ctx);

struct {
	UINT(type, 3); // prog_array
	UINT(max_entries, 3);
	UINT(key_size, 4);
	ARRAY(values, int(void *));
} jumps SEC(".maps") = {.values = {[2] = (void *)&second}};

struct {
	UINT(type, 4); // perf_event_array
	UINT(key_size, 4);
	UINT(value_size, 4);
} events SEC(".maps");

struct {
	UINT(type, 30); // bloom_filter
	UINT(max_entries, 10);
	UINT(map_extra, 5);
	TYPE(value, u32);
} bloom SEC(".maps");

struct {
	UINT(type, 27); // ringbuf
	UINT(max_entries, 4096);
} ring SEC(".maps");

static u64 (*lookup)(void *map, const void *key) = (void *)1;
static u64 (*tail_call)(void *ctx, void *map, u64 index) = (void *)12;
static u64 (*perf_output)(void *ctx, void *map, u64 flags, void *data, u64 size) = (void *)25;

SEC("xdp") int first(struct xdp_md *ctx)
{
	struct key key = {};
	u32 zero = 0, buffer[10] = {};
	stats_t *s = (void *)lookup(&sessions, &key);
	if (s)
		s->packets++;
	void *inner = (void *)lookup(&outer, &zero);
	if (!inner || !lookup(inner, &zero))
		perf_output(ctx, &events, 0xffffffffu, &zero, 4);
	lookup(&sized, buffer);
	tail_call(ctx, &jumps, 2);
	return 1;
}

SEC("xdp") int second(struct xdp_md *ctx)
{
	return 2;
}

char licence[] SEC("license") = "GPL";
