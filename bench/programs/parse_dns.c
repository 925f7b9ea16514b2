/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A DNS question: a hash of its name without regard to case, its labels and its type. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *dns = payload(ctx, 28 + 12), *end = frame_end(ctx);
	u32 hash = 2166136261u, labels = 0, left = 0;

	if (!dns || be16(dns + 28 + 4) != 1)
		return XDP_DROP;
	u8 *at = dns + 28 + 12;
	for (int i = 0; i < 128; i++) {
		if (at + 1 > end)
			return XDP_DROP;
		u8 byte = *at++;
		if (left == 0) {
			if (byte == 0)
				break;
			if (byte > 63)
				return XDP_DROP;
			left = byte;
			labels++;
			continue;
		}
		left--;
		byte = byte >= 'A' && byte <= 'Z' ? byte + 32 : byte;
		hash = (hash ^ byte) * 16777619u;
	}
	if (at + 4 > end)
		return XDP_DROP;
	return answer(dns, (u64)hash << 32 | labels << 16 | be16(at));
}
