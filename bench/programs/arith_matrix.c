/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The product of two 6 by 6 matrices of bytes. */
#include "micro.h"

#define N 6

PROGRAM(ctx)
{
	u8 *data = payload(ctx, 80);
	u32 product[N][N];
	u64 sum = 0;

	if (!data)
		return XDP_DROP;
	for (int i = 0; i < N; i++)
#pragma clang loop unroll(disable)
		for (int j = 0; j < N; j++) {
			u32 dot = 0;

			for (int k = 0; k < N; k++)
				dot += data[i * N + k] * data[36 + k * N + j];
			product[i][j] = dot;
		}
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			sum = sum * 3 + product[j][i];
	return answer(data, sum);
}
