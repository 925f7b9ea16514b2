/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Whether 192 bytes are UTF-8, and how many characters. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 192);
	u32 need = 0, chars = 0, low = 0x80, high = 0xbf;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 192; i++) {
		u8 byte = data[i];

		if (need) {
			if (byte < low || byte > high)
				return answer(data, ~0ull);
			low = 0x80, high = 0xbf;
			need--;
			continue;
		}
		chars++;
		if (byte < 0x80)
			continue;
		if (byte >= 0xc2 && byte <= 0xdf)
			need = 1;
		else if (byte >= 0xe0 && byte <= 0xef)
			need = 2, low = byte == 0xe0 ? 0xa0 : 0x80, high = byte == 0xed ? 0x9f : 0xbf;
		else if (byte >= 0xf0 && byte <= 0xf4)
			need = 3, low = byte == 0xf0 ? 0x90 : 0x80, high = byte == 0xf4 ? 0x8f : 0xbf;
		else
			return answer(data, ~0ull);
	}
	return answer(data, need ? ~0ull : chars);
}
