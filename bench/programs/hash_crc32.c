/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* CRC-32 of 64 bytes, by a table of 256 entries. */
#include "micro.h"

#include "crc32_table.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u32 crc = ~0u;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < 64; i++)
		crc = crc >> 8 ^ crc32_table[(u8)(crc ^ data[i])];
	return answer(data, ~crc);
}
