// An implementation of a kernel interface beside an XDP program.
#include "common.h"

struct tcp_congestion_ops {
	void (*init)(void *sk);
	char name[16];
};

SEC("struct_ops/begin") void begin(void *sk)
{
}

SEC(".struct_ops") struct tcp_congestion_ops control = {.init = begin, .name = "control"};

SEC("xdp") int pass(struct xdp_md *ctx)
{
	return 2;
}

char licence[] SEC("license") = "GPL";
