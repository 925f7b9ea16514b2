/* One program for each thing the kernel engine's tests look at. */
#include "bpf.h"

struct { __uint(type, HASH); __type(key, u32); __type(value, u64); __uint(max_entries, 64); }
	a_hash_with_a_long_name SEC(".maps");
struct { __uint(type, PERCPU_ARRAY); __type(key, u32); __type(value, u32); __uint(max_entries, 4); }
	per_cpu SEC(".maps");
struct { __uint(type, ARRAY); __type(key, u32); __type(value, u32); __uint(max_entries, 1000); }
	big_array SEC(".maps");
struct { __uint(type, LPM_TRIE); __uint(key_size, 8); __uint(value_size, 4);
	 __uint(max_entries, 10); __uint(map_flags, NO_PREALLOC); }
	prefixes SEC(".maps");
struct {
	__uint(type, ARRAY_OF_MAPS); __uint(key_size, 4); __uint(value_size, 4);
	__uint(max_entries, 8);
	__array(values, struct { __uint(type, LRU_HASH); __uint(key_size, 8);
				 __uint(value_size, 8); __uint(max_entries, 16); });
} sessions SEC(".maps");
struct { __uint(type, PROG_ARRAY); __uint(key_size, 4); __uint(value_size, 4);
	 __uint(max_entries, 2); }
	targets SEC(".maps");

volatile const u32 verdict = XDP_PASS;
volatile const u8 impossible = 0;
u64 runs = 7;

/* Counts by CPU, returns the verdict chosen at load. */
SEC("xdp") int count(struct xdp_md *ctx)
{
	u32 zero = 0;
	u32 *n = map_lookup_elem(&per_cpu, &zero);
	if (n)
		*n += 1;
	__sync_fetch_and_add(&runs, 1);
	return verdict;
}

/* Twenty bytes of 0x45 in front, as an encapsulation. */
SEC("xdp") int push(struct xdp_md *ctx)
{
	if (xdp_adjust_head(ctx, -20))
		return XDP_DROP;
	u8 *p = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (p + 20 > end)
		return XDP_DROP;
	for (int i = 0; i < 20; i++)
		p[i] = 0x45;
	return XDP_TX;
}

/* Cuts the frame to its Ethernet header. */
SEC("xdp") int cut(struct xdp_md *ctx)
{
	return xdp_adjust_tail(ctx, 14 - (int)(ctx->data_end - ctx->data)) ? XDP_DROP : XDP_PASS;
}

/* Moves both ends so that undoing the one leaves nothing for the other. */
SEC("xdp") int ruin(struct xdp_md *ctx)
{
	if (xdp_adjust_head(ctx, -100))
		return XDP_DROP;
	return xdp_adjust_tail(ctx, 14 - (int)(ctx->data_end - ctx->data)) ? XDP_DROP : XDP_PASS;
}

/* Writes key 1 of the session table of this CPU. */
SEC("xdp") int session(struct xdp_md *ctx)
{
	u32 cpu = get_smp_processor_id();
	void *table = map_lookup_elem(&sessions, &cpu);
	if (!table)
		return XDP_DROP;
	u64 key = 1, value = 0x1234;
	map_update_elem(table, &key, &value, 0);
	return XDP_PASS;
}

SEC("xdp") int jump(struct xdp_md *ctx)
{
	tail_call(ctx, &targets, 0);
	return XDP_ABORTED;
}

char _license[] SEC("license") = "Dual MIT/GPL";
