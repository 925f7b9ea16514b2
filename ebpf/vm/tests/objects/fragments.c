// What programs can do with frames in fragments. A frame says what is to be done: byte 14 is the operation,
// the words at 16 and 20 its arguments.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static long (*xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*xdp_adjust_meta)(struct xdp_md *ctx, int delta) = (void *)54;
static long (*xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;
static u64 (*xdp_get_buff_len)(struct xdp_md *ctx) = (void *)188;
static long (*xdp_load_bytes)(struct xdp_md *ctx, u32 offset, void *to, u32 len) = (void *)189;
static long (*xdp_store_bytes)(struct xdp_md *ctx, u32 offset, void *from, u32 len) = (void *)190;

char _license[] SEC("license") = "Dual MIT/GPL";

// Everything that can be seen of a frame's length, and what the operation answered, goes to its bytes 24 to 40.
static void note(struct xdp_md *ctx, long answer)
{
	u32 seen[4] = {
		answer,
		xdp_get_buff_len(ctx),
		(u64)ctx->data_end - (u64)ctx->data,
		(u64)ctx->data - (u64)ctx->data_meta,
	};
	xdp_store_bytes(ctx, 24, seen, sizeof(seen));
}

static long operate(struct xdp_md *ctx, u8 operation, u32 one, u32 two)
{
	u8 bytes[100] = {};
	long answer;

	switch (operation) {
	case 0:
		answer = xdp_load_bytes(ctx, one, bytes, sizeof(bytes));
		return answer ? answer : xdp_store_bytes(ctx, two, bytes, sizeof(bytes));
	case 1:
		return xdp_adjust_tail(ctx, one);
	case 2:
		answer = xdp_adjust_tail(ctx, one);
		return answer ? answer : xdp_adjust_tail(ctx, two);
	case 3:
		return xdp_adjust_head(ctx, one);
	case 4:
		return xdp_adjust_meta(ctx, one);
	case 5:
		answer = xdp_adjust_tail(ctx, one);
		return answer ? answer : xdp_adjust_head(ctx, two);
	}
	return 0;
}

SEC("xdp.frags") int fragments(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	if (data + 40 > (u8 *)(u64)ctx->data_end)
		return 0;
	note(ctx, operate(ctx, data[14], *(u32 *)(data + 16), *(u32 *)(data + 20)));
	return 2;
}

SEC("xdp") int one_piece(struct xdp_md *ctx)
{
	return 2;
}
