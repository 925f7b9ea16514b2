// Maps of every shape that a dump shows, filled by one run.
// clang-19 -O2 -g -target bpf -mcpu=v3 -ffile-prefix-map=$PWD=. -c $PWD/maps.c -o maps.o
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef _Bool bool;

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

enum state { CLOSED, OPEN = 7 };
typedef u64 counter_t;

struct key {
	u32 address;
	u16 port;
	u8 proto;
};

struct entry {
	enum state state;
	bool alive;
	char name[8];
	u8 mac[6];
	s32 balance;
	u32 low : 3, high : 29;
	struct {
		u16 first, second;
	} pair;
	union {
		u32 word;
		u8 bytes[4];
	};
	const void *where;
	counter_t hits;
};

struct {
	UINT(type, 1); // hash
	UINT(max_entries, 8);
	TYPE(key, struct key);
	TYPE(value, struct entry);
} entries SEC(".maps");

struct {
	UINT(type, 6); // percpu_array
	UINT(max_entries, 2);
	TYPE(key, u32);
	TYPE(value, counter_t);
} counters SEC(".maps");

struct {
	UINT(type, 1); // hash
	UINT(max_entries, 4);
	UINT(key_size, 4);
	UINT(value_size, 20);
} untyped SEC(".maps");

struct {
	UINT(type, 1); // hash
	UINT(max_entries, 4);
	TYPE(key, u32);
	TYPE(value, u32);
} empty SEC(".maps");

u32 seen;
const volatile u16 limit = 3;

static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;

SEC("xdp") int fill(struct xdp_md *ctx)
{
	struct key key = {.address = 0x0100007f, .port = 80, .proto = 6};
	struct entry entry = {
		.state = OPEN, .alive = 1, .name = "one", .mac = {2, 0, 0, 0, 0, 1}, .balance = -5, .low = 5, .high = 9,
		.pair = {1, 2}, .word = 0x04030201, .hits = 1ull << 40,
	};
	u8 blob[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
	u32 one = 1;
	update(&entries, &key, &entry, 0);
	update(&untyped, &one, blob, 0);
	counter_t *count = lookup(&counters, &one);
	if (count)
		*count += 41;
	if (seen < limit)
		seen++;
	return 2;
}

char licence[] SEC("license") = "Dual MIT/GPL";
