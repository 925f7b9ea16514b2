/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* QUIC's long and short headers: version and connection id. */
#include "micro.h"

PROGRAM(ctx)
{
	u8 *ip = payload(ctx, 28 + 8), *end = frame_end(ctx), *id;
	u32 len = 8, version = 0;

	if (!ip)
		return XDP_DROP;
	u8 *quic = ip + 28;
	if (quic[0] & 0x80) {
		version = be32(quic + 1);
		len = quic[5];
		id = quic + 6;
		if (version == 0 || len > 20)
			return XDP_DROP;
	} else if (quic[0] & 0x40) {
		id = quic + 1;
	} else {
		return XDP_DROP;
	}
	if (id + len > end)
		return XDP_DROP;
	u64 value = version;
	for (u32 i = 0; i < 20; i++) {
		if (i >= len || id + 1 > end)
			break;
		value = value * 131 + *id++;
	}
	return answer(ip, value);
}
