/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* ARP: turn a request for one of eight addresses into its answer. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *arp = payload(ctx, 28);

	if (!arp || be16(arp - 2) != ETH_ARP || be32(arp) != 0x00010800)
		return XDP_PASS;
	if (arp[4] != 6 || arp[5] != 4 || be16(arp + 6) != 1)
		return XDP_PASS;
	u32 asked = *(u16 *)(arp + 24) | (u32) * (u16 *)(arp + 26) << 16;
	if (__builtin_bswap32(asked) >> 3 != 0x0a000000 >> 3)
		return XDP_PASS;
	u32 sender = *(u32 *)(arp + 14);
	arp[7] = 2;
	__builtin_memcpy(arp - 14, arp - 8, 6);
	__builtin_memcpy(arp + 18, arp + 8, 6);
	*(u32 *)(arp + 24) = sender;
	*(u32 *)(arp + 14) = asked;
	*(u32 *)(arp + 8) = 0x00000002;
	*(u16 *)(arp + 12) = asked >> 16;
	*(u32 *)(arp - 8) = 0x00000002;
	*(u16 *)(arp - 4) = asked >> 16;
	return XDP_TX;
}
