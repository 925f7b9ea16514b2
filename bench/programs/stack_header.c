/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Builds an IPv4 and UDP header on the stack field by field, sums it, copies it to the frame. */
#include "micro.h"

struct headers {
	struct ipv4 ip;
	u16 src, dst, len, check;
};

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	struct headers new = {};
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	new.ip.version_ihl = 0x45;
	new.ip.len = __builtin_bswap16(28 + data[3]);
	new.ip.ttl = 64;
	new.ip.proto = UDP;
	new.ip.src = *(u32 *)(data + 16);
	new.ip.dst = *(u32 *)(data + 12);
	new.src = *(u16 *)(data + 22) ^ *(u16 *)(data + 14);
	new.dst = 0xc017;
	new.len = __builtin_bswap16(8 + data[3]);
	for (int i = 0; i < 10; i++)
		sum += ((u16 *)&new)[i];
	new.ip.check = ~fold(sum);
	*(struct headers *)(data + 32) = new;
	return answer(data, new.ip.check);
}
