/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A machine of six states over 128 bytes of text: words, numbers, quotes. */
#include "micro.h"

enum { BLANK, WORD, NUMBER, QUOTED, ESCAPED, OTHER };

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 128);
	u32 state = BLANK, words = 0, numbers = 0, quoted = 0;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 128; i++) {
		u8 byte = data[i], lower = byte | 32;
		u32 letter = lower >= 'a' && lower <= 'z', digit = byte >= '0' && byte <= '9', next;

		if (state == QUOTED)
			next = byte == '"' ? BLANK : byte == '\\' ? ESCAPED : QUOTED;
		else if (state == ESCAPED)
			next = QUOTED;
		else
			next = letter ? WORD : digit ? (state == WORD ? WORD : NUMBER) : byte == '"' ? QUOTED : BLANK;
		words += next == WORD && state != WORD;
		numbers += next == NUMBER && state != NUMBER;
		quoted += next == BLANK && state == QUOTED;
		state = next;
	}
	return answer(data, (u64)words << 32 | numbers << 16 | quoted << 8 | state);
}
