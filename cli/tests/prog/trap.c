// Reads beyond most packets without a check: the kernel refuses it, userspace ends the run.
// clang-19 -O2 -g -target bpf -mcpu=v3 -ffile-prefix-map=$PWD=. -c $PWD/trap.c -o trap.o
typedef unsigned char u8;
typedef unsigned int u32;

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

__attribute__((section("xdp"), used)) int far(struct xdp_md *ctx)
{
	u8 *packet = (u8 *)(long)ctx->data;
	return packet[2000];
}
