/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* bpf_loop: a callback called 64 times, with its state on the caller's stack. */
#include "micro.h"

struct state {
	u64 sum;
	u32 seed, odd;
};

static long step(u32 index, void *ctx)
{
	struct state *state = ctx;

	state->seed = state->seed * 1664525 + 1013904223;
	state->sum += state->seed >> (index & 15);
	state->odd += state->seed >> 31;
	return 0;
}

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 16);

	if (!data)
		return XDP_DROP;
	struct state state = { 0, *(u32 *)data, 0 };
	loop(64, step, &state, 0);
	return answer(data, state.sum << 8 | state.odd);
}
