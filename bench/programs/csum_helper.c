/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Checksum differences by the helper bpf_csum_diff. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 40);
	u32 old[4], new[4];

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 4; i++) {
		old[i] = *(u32 *)(data + 4 + 4 * i);
		new[i] = old[i] * 2654435761u;
	}
	u32 sum = csum_diff(old, sizeof(old), new, sizeof(new), 0);
	sum = csum_diff(0, 0, (u32 *)data, 40, sum);
	return answer(data, (u16)~fold(sum));
}
