// Functions and variables of the kernel: some there, some not, some that need not be.
#include "common.h"

#define KSYM __attribute__((section(".ksyms")))
#define WEAK __attribute__((weak))

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, u32 *hash, u32 *type) KSYM WEAK;
extern int bpf_xdp_no_such_function(struct xdp_md *ctx) KSYM WEAK;
extern int bpf_xdp_no_such_function___other(struct xdp_md *ctx, int more) KSYM WEAK;
extern int bpf_xdp_required_and_missing(struct xdp_md *ctx) KSYM;
extern const int no_such_variable KSYM WEAK;
extern const int required_variable KSYM;

SEC("xdp") int hash(struct xdp_md *ctx)
{
	u32 hash = 0, type = 0;
	if (bpf_xdp_metadata_rx_hash && !bpf_xdp_metadata_rx_hash(ctx, &hash, &type))
		return 2;
	return 1;
}

SEC("xdp") int maybe(struct xdp_md *ctx)
{
	if (bpf_xdp_no_such_function)
		return bpf_xdp_no_such_function(ctx);
	if (bpf_xdp_no_such_function___other)
		return bpf_xdp_no_such_function___other(ctx, 1);
	if (&no_such_variable)
		return no_such_variable;
	return 2;
}

SEC("xdp") int required(struct xdp_md *ctx)
{
	return bpf_xdp_required_and_missing(ctx);
}

SEC("xdp") int variable(struct xdp_md *ctx)
{
	return required_variable;
}

char licence[] SEC("license") = "GPL";
