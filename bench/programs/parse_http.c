/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The first line of an HTTP request: its method and where its path ends. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 40 + 8), *end = frame_end(ctx);
	u32 method = 0, hash = 5381, len = 0;

	if (!data)
		return XDP_DROP;
	u8 *at = data + 40;
	u32 word = *(u32 *)at;
	if (word == 0x20544547) /* "GET " */
		method = 1, at += 4;
	else if (word == 0x54534f50 && at[4] == ' ') /* "POST" */
		method = 2, at += 5;
	else if (word == 0x44414548 && at[4] == ' ') /* "HEAD" */
		method = 3, at += 5;
	else
		return XDP_PASS;
	for (; len < 200; len++) {
		if (at + 1 > end)
			return XDP_PASS;
		u8 byte = *at++;
		if (byte == ' ' || byte == '?')
			break;
		hash = hash * 33 ^ byte;
	}
	return answer(data, (u64)hash << 32 | len << 8 | method);
}
