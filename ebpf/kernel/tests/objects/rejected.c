/* Reads the packet without a bound: the verifier must refuse it. */
#include "bpf.h"

SEC("xdp") int unbounded(struct xdp_md *ctx)
{
	u8 *p = (void *)(long)ctx->data;
	return p[100];
}

char _license[] SEC("license") = "Dual MIT/GPL";
