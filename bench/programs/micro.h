/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the micro programs share. Each is one source for two targets: an XDP program (clang -target bpf), and a native
 * function (clang -O3) whose maps and helpers come from native/maps.h.
 *
 * A program gets a frame, checks that it is long enough, computes, and leaves what it found in the frame's first eight
 * bytes, so that no compiler may skip the work and all engines can be compared.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

enum { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX };
enum { BPF_ANY, BPF_NOEXIST, BPF_EXIST };
enum { NO_PREALLOC = 1 };
enum map_kind {
	HASH = 1, ARRAY = 2, PERCPU_HASH = 5, PERCPU_ARRAY = 6, LRU_HASH = 9, LPM_TRIE = 11, ARRAY_OF_MAPS = 12,
};

#ifdef __bpf__

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

#define SEC(name) __attribute__((section(name), used))
#define PROGRAM(ctx) SEC("xdp") int micro(struct xdp_md *ctx)
#define MAP_FIELDS(kind, key, value, entries, flags)                                                       \
	int(*type)[kind];                                                                                  \
	int(*key_size)[sizeof(key)];                                                                       \
	int(*value_size)[sizeof(value)];                                                                   \
	int(*max_entries)[entries];                                                                        \
	int(*map_flags)[flags]
#define MAP(name, kind, key, value, entries, flags)                                                        \
	struct {                                                                                           \
		MAP_FIELDS(kind, key, value, entries, flags);                                              \
	} name SEC(".maps")
/* Two arrays of `entries` values, and an array that holds both. */
#define TWO_ARRAYS(outer, first, second, value, entries)                                                   \
	struct inner {                                                                                     \
		MAP_FIELDS(ARRAY, u32, value, entries, 0);                                                 \
	};                                                                                                 \
	struct inner first SEC(".maps"), second SEC(".maps");                                              \
	struct {                                                                                           \
		MAP_FIELDS(ARRAY_OF_MAPS, u32, u32, 2, 0);                                                 \
		struct inner *values[];                                                                    \
	} outer SEC(".maps") = { .values = { &first, &second } }

static void *(*map_lookup)(const void *map, const void *key) = (void *)1;
static long (*map_update)(const void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete)(const void *map, const void *key) = (void *)3;
static u64 (*ktime_get_ns)(void) = (void *)5;
static u32 (*get_smp_processor_id)(void) = (void *)8;
static s64 (*csum_diff)(const u32 *from, u32 from_size, const u32 *to, u32 to_size, u32 seed) = (void *)28;
static long (*loop)(u32 iterations, long (*body)(u32 index, void *ctx), void *ctx, u64 flags) = (void *)181;

char micro_license[] SEC("license") = "Dual MIT/GPL";

#else
#include "native/maps.h"
#endif

#define ETH_LEN 14

INLINE u8 *frame_start(struct xdp_md *ctx)
{
	return (u8 *)(long)ctx->data;
}

INLINE u8 *frame_end(struct xdp_md *ctx)
{
	return (u8 *)(long)ctx->data_end;
}

/* The `len` bytes after the Ethernet header; null if the frame is shorter. */
INLINE u8 *payload(struct xdp_md *ctx, u32 len)
{
	u8 *data = frame_start(ctx);

	return data + ETH_LEN + len <= frame_end(ctx) ? data + ETH_LEN : 0;
}

/* Leaves the result and ends; `at` is the byte after the Ethernet header, as payload() gives it. */
INLINE int answer(u8 *at, u64 value)
{
	*(u64 *)(at - ETH_LEN) = value;
	return XDP_TX;
}

INLINE u16 be16(const void *at)
{
	return __builtin_bswap16(*(const u16 *)at);
}

INLINE u32 be32(const void *at)
{
	return __builtin_bswap32(*(const u32 *)at);
}

INLINE u32 rol32(u32 x, u32 n)
{
	return x << n | x >> (32 - n);
}

INLINE u64 rol64(u64 x, u32 n)
{
	return x << n | x >> (64 - n);
}

/* A sum of 16-bit words as the one's complement sum of 16 bits. */
INLINE u16 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The headers' fields at their offsets. */
struct ipv4 {
	u8 version_ihl, tos;
	u16 len, id, frag;
	u8 ttl, proto;
	u16 check;
	u32 src, dst;
};

struct ipv6 {
	u32 version_class_flow;
	u16 len;
	u8 next, hops;
	u32 src[4], dst[4];
};

struct ports {
	u16 src, dst;
};

enum { TCP = 6, UDP = 17 };
enum { ETH_IPV4 = 0x0800, ETH_ARP = 0x0806, ETH_VLAN = 0x8100, ETH_QINQ = 0x88a8, ETH_IPV6 = 0x86dd };
