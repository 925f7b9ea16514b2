/* The verifier must refuse it, late enough that its log is longer than an error message. */
#include "bpf.h"

struct { __uint(type, ARRAY); __type(key, u32); __type(value, u64); __uint(max_entries, 4); } numbers SEC(".maps");

SEC("xdp") int forgetful(struct xdp_md *ctx)
{
	u32 key = ctx->rx_queue_index & 3;
	u64 *number = map_lookup_elem(&numbers, &key);
	if (!number)
		return XDP_DROP;
	key = (*number ^ ctx->ingress_ifindex) & 3;
	u64 *other = map_lookup_elem(&numbers, &key);
	return *other + *number ? XDP_PASS : XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
