// A loop that takes nearly all of the time, beside lines that take none.
// clang-19 -O2 -g -target bpf -mcpu=v3 -ffile-prefix-map=$PWD=. -c $PWD/loop.c -o loop.o
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

#define SEC(name) __attribute__((section(name), used))

SEC("xdp") int loop(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	u8 *end = (u8 *)(u64)ctx->data_end;
	if (data + 14 > end)
		return 1;
	u32 hash = data[12];
#pragma unroll 1
	for (u32 i = 0; i < 2000; i++)
		hash = (hash ^ i) * 0x01000193;
	data[0] = hash;
	return 3;
}

char gpl[] SEC("license") = "GPL";
