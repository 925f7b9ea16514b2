// Variables: constant, initialised, zero, in sections of their own, string literals, addresses with addends.
#include "common.h"

const volatile u32 limit = 7;
const volatile u8 mac[6] = {1, 2, 3, 4, 5, 6};
static volatile u64 hits = 40;
u32 table[8] = {10, 11, 12, 13, 14, 15, 16, 17};
u64 zeroed;
static volatile u16 small[3];
volatile u32 custom SEC(".data.mine") = 99;
volatile u32 cold SEC(".bss.cold");
const volatile u32 pick SEC(".rodata.sel") = 5;

static u64 (*trace)(const char *format, u32 size, ...) = (void *)6;
static u64 (*csum_diff)(const void *from, u32 from_size, const void *to, u32 to_size, u32 seed) = (void *)28;

SEC("xdp") int sum(struct xdp_md *ctx)
{
	const volatile u8 *last = &mac[5];
	hits += limit;
	zeroed += *last + table[pick & 7];
	small[2]++;
	custom += cold;
	return csum_diff("abcdefg", 8, "hijklmn", 8, 0) > 3 ? 2 : 1;
}

SEC("xdp") int say(struct xdp_md *ctx)
{
	static const char text[] = "limit %d";
	trace(text, sizeof(text), limit);
	return 2;
}

char licence[] SEC("license") = "GPL";
