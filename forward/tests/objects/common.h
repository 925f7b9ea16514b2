// What the test programs share: our own words for the kernel's types.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, number) int(*name)[number]
#define TYPE(name, type) typeof(type) *name

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

enum { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };

static void *(*map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*xdp_adjust_meta)(struct xdp_md *ctx, int delta) = (void *)54;
static long (*xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;
static u64 (*xdp_get_buff_len)(struct xdp_md *ctx) = (void *)188;
static long (*xdp_load_bytes)(struct xdp_md *ctx, u32 offset, void *to, u32 len) = (void *)189;
static long (*xdp_store_bytes)(struct xdp_md *ctx, u32 offset, void *from, u32 len) = (void *)190;

char _license[] SEC("license") = "Dual MIT/GPL";
