/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Three nested loops over a small table on the stack: shortest paths among eight nodes. */
#include "micro.h"

#define N 8

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 64);
	u16 d[N * N];
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < N * N; i++)
		d[i] = data[i] + 1;
#pragma clang loop unroll(disable)
	for (int k = 0; k < N; k++)
#pragma clang loop unroll(disable)
		for (int i = 0; i < N; i++) {
			u16 first = d[i * N + k];
#pragma clang loop unroll(disable)
			for (int j = 0; j < N; j++) {
				u16 through = first + d[k * N + j];

				d[i * N + j] = through < d[i * N + j] ? through : d[i * N + j];
			}
		}
	for (int i = 0; i < N; i++)
		sum = sum << 8 | (u8)d[i * N + (N - 1 - i)];
	return answer(data, sum);
}
