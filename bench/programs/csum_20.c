/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The checksum of an IPv4 header without options, in place. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *ip = payload(ctx, 20);
	u64 sum = 0;

	if (!ip)
		return XDP_DROP;
	for (int i = 0; i < 10; i++)
		sum += ((u16 *)ip)[i];
	sum -= *(u16 *)(ip + 10);
	*(u16 *)(ip + 10) = ~fold(sum);
	return answer(ip, sum);
}
