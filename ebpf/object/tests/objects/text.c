// No section names at all: exported functions are programs, static ones are not.
#include "common.h"

static NOINLINE u32 helper(u32 x)
{
	return x * 7;
}

int pass(struct xdp_md *ctx)
{
	return 2;
}

int compute(struct xdp_md *ctx)
{
	return helper(ctx->rx_queue_index) & 3;
}
