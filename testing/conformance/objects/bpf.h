/* What the test programs need of linux/bpf.h, so that they build with clang alone:
 *   clang-16 -O2 -g -mcpu=v3 -target bpf -ffile-prefix-map=$PWD=. -c $PWD/NAME.c -o NAME.o && llvm-strip -g NAME.o
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __array(name, val) typeof(val) *name[]
#define MAP(name, kind, key, value, entries, flags) \
	struct { __uint(type, kind); __uint(key_size, key); __uint(value_size, value); \
		 __uint(max_entries, entries); __uint(map_flags, flags); } name SEC(".maps")

enum { HASH = 1, ARRAY = 2, PROG_ARRAY = 3, PERCPU_HASH = 5, PERCPU_ARRAY = 6, LRU_HASH = 9,
       LRU_PERCPU_HASH = 10, LPM_TRIE = 11, ARRAY_OF_MAPS = 12, HASH_OF_MAPS = 13 };
enum { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };
enum { NO_PREALLOC = 1 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete_elem)(void *map, const void *key) = (void *)3;
static u32 (*get_smp_processor_id)(void) = (void *)8;
static long (*tail_call)(void *ctx, void *map, u32 index) = (void *)12;
static long (*redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*csum_diff)(void *from, u32 from_size, void *to, u32 to_size, u32 seed) = (void *)28;
static long (*get_numa_node_id)(void) = (void *)42;
static long (*xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*xdp_adjust_meta)(struct xdp_md *ctx, int delta) = (void *)54;
static long (*xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;
static u64 (*xdp_get_buff_len)(struct xdp_md *ctx) = (void *)188;
static long (*xdp_load_bytes)(struct xdp_md *ctx, u32 offset, void *buf, u32 len) = (void *)189;
static long (*xdp_store_bytes)(struct xdp_md *ctx, u32 offset, void *buf, u32 len) = (void *)190;
static void *(*map_lookup_percpu_elem)(void *map, const void *key, u32 cpu) = (void *)195;
