// Functions: shared by programs, nested, static and global, called back, several programs in a section.
#include "common.h"

static u64 (*loop)(u32 times, void *callback, void *ctx, u64 flags) = (void *)181;
volatile u32 seed = 3;

static NOINLINE u32 leaf(u32 x)
{
	return x * 3 + seed;
}

static NOINLINE u32 twice(u32 x)
{
	return leaf(x) + leaf(x + 1);
}

NOINLINE u32 shared(u32 x)
{
	return twice(x) ^ 5;
}

static s64 tick(u32 index, u32 *total)
{
	*total += leaf(index);
	return 0;
}

SEC("xdp") int one(struct xdp_md *ctx)
{
	return shared(ctx->rx_queue_index) + leaf(4);
}

SEC("xdp") int two(struct xdp_md *ctx)
{
	u32 total = 0;
	loop(10, tick, &total, 0);
	return total;
}

SEC("xdp/three") int three(struct xdp_md *ctx)
{
	return shared(1);
}

SEC("tc") int alone(void *ctx)
{
	return 0;
}

char licence[] SEC("license") = "GPL";
