// Products of Float32 matrices on the CPU's matrix tiles (Intel AMX), each operand split into two bfloat16 numbers.
#pragma once
#include "CKernelsAttention.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- amx.c: a = a1 + a2 with a1 = bfloat16(a), a2 = bfloat16(a - a1);  op(A) op(B) = A1 B1 + A1 B2 + A2 B1, summed in Float32. What is left
// out is below 2^-17 of the product of the magnitudes. Denormal operands and sums count as zero. Operands that bfloat16 cannot hold (infinities,
// NaN, magnitudes from 3.39e38) are refused, so that the caller can multiply in Float32.
/// Non-zero where CPU and system let this process use the tiles. The first call asks the system for permission.
int ck_amx(void);
/// Bytes that a packed op(B) of [k, n] takes: two bfloat16 a value, in panels of 32 columns, padded with zeros.
size_t ck_amx_packed_bytes(long k, long n);
/// A block for them, in large pages where the system has some; given back by `ck_release`.
void *ck_amx_allocate(size_t bytes);
/// Packs the panels first..<last of op(B) to their places in `packed` (aligned to 64 bytes); `transposed` says that b is stored as [n, k].
/// Returns 0, or 1 where an operand is refused.
int ck_amx_pack(const float *b, long ldb, int transposed, long k, long n, long first, long last, void *packed);
/// c (+)= alpha op(A) op(B) + bias, and where `activated` is given activated = f(c), with op(A) of [m, k] stored as [k, m] where `transposed`.
/// Returns 0, or 1 where an operand is refused: c is then as it was if it accumulates, and undefined otherwise.
int ck_amx_multiply_packed(
    float alpha, const float *a, long lda, int transposed, const void *packed, long m, long n, long k, float *c, long ldc, int accumulate,
    const float *bias, int activation, float *activated);

// ---- amx_attention.c: as ck_attention_forward, with the head's keys ([width, keys], stored transposed) and values ([keys, width]) packed by ck_amx_pack
/// How many queries one call takes at most.
long ck_amx_attention_queries(void);
/// Bytes of scratch (aligned to 64) that a call needs.
size_t ck_amx_attention_scratch(long width);
/// Looks at all of `head` but k, v and their strides. Returns 0, or 1, with y untouched, where a query is refused.
int ck_amx_attention_forward(const ck_attention *head, const void *packedKeys, const void *packedValues, void *scratch);

// ---- amx_attention_backward.c: as ck_attention_backward
/// Bytes of scratch (aligned to 64) that a call needs; only the sizes are looked at.
size_t ck_amx_attention_backward_scratch(const ck_attention_gradient *head);
/// Returns 0, or 1, with nothing written, where an operand is refused.
int ck_amx_attention_backward(const ck_attention_gradient *head, void *scratch);

#ifdef __cplusplus
}
#endif
