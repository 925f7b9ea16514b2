/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Copies as many bytes as a field of the frame says. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 20), *end = frame_end(ctx);
	u8 buffer[256];
	u32 i;

	if (!data)
		return XDP_DROP;
	u32 len = 32 + (data[0] & 127);
	__builtin_memset(buffer, 0, sizeof(buffer));
#pragma clang loop unroll(disable) vectorize(disable)
	for (i = 0; i < 160; i++) {
		if (i >= len || data + 20 + i + 1 > end)
			break;
		buffer[i] = data[20 + i];
	}
	u64 sum = i;
#pragma clang loop unroll(disable)
	for (i = 0; i < 256; i += 8)
		sum = sum * 3 + *(u64 *)(buffer + i);
	return answer(data, sum);
}
