/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A small machine with an accumulator and four registers runs 48 bytes as its program. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u32 acc = 1, regs[4] = { 3, 5, 7, 11 };

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 48; i++) {
		u8 op = data[i];
		u32 *reg = &regs[op & 3];

		switch (op >> 2 & 7) {
		case 0: acc += *reg; break;
		case 1: acc -= *reg; break;
		case 2: acc ^= *reg; break;
		case 3: *reg = acc; break;
		case 4: acc = acc << 1 | acc >> 31; break;
		case 5: acc *= *reg | 1; break;
		case 6: *reg += op; break;
		default:
			if (acc & 1)
				acc = *reg;
		}
	}
	return answer(data, (u64)regs[0] << 32 | acc);
}
