/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Nothing: what entering a program costs. Its time is subtracted from all others'. */
#include "micro.h"

PROGRAM(ctx)
{
	(void)ctx;
	return XDP_TX;
}
