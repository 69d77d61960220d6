// The C under Tensors: memory pool, thread pool and vector kernels. Kernels take plain pointers to Float32, rows are contiguous,
// nothing here allocates or knows shapes beyond what the arguments say. `accumulate` != 0 adds to the output instead of replacing it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- memory.c: recycled blocks, aligned to 64 bytes
void *ck_allocate(size_t bytes);
void ck_release(void *block, size_t bytes);
/// Bytes lying idle in the pool.
size_t ck_pooled_bytes(void);
/// Gives every idle block back to the system.
void ck_trim(void);

// ---- threads.c: a pool for data-parallel loops, and detached threads for blocking work
typedef void (*ck_loop_body)(void *context, long index);
void ck_parallel_for(long count, void *context, ck_loop_body body);
void ck_set_thread_count(long count);
long ck_thread_count(void);
/// Non-zero on a thread that is inside a parallel loop (nested loops run inline).
int ck_inside_loop(void);
/// Runs body(context, 0) on a new detached thread with a large stack; 0 on success, else errno.
int ck_spawn(void *context, ck_loop_body body);

// ---- cpu.c
/// Makes OpenBLAS use the best kernels that this CPU can run (see the comment there). Call once, before any BLAS call.
void ck_prepare_blas(void);
/// "GenuineIntel Intel(R) Xeon(R) …, avx512" into buffer; returns buffer.
char *ck_describe_cpu(char *buffer, size_t size);

// ---- elementwise.c
void ck_fill(float *y, float value, long n);
void ck_add(const float *a, const float *b, float *y, long n);
void ck_subtract(const float *a, const float *b, float *y, long n);
void ck_multiply(const float *a, const float *b, float *y, long n, int accumulate);
void ck_divide(const float *a, const float *b, float *y, long n);
void ck_affine(const float *x, float scale, float shift, float *y, long n);
/// y += scale * x
void ck_axpy(const float *x, float scale, float *y, long n);
double ck_sum(const float *x, long n);
double ck_sum_of_squares(const float *x, long n);
double ck_dot(const float *a, const float *b, long n);
/// Sum of (a-b)^2.
double ck_squared_distance(const float *a, const float *b, long n);
int ck_all_finite(const float *x, long n);
/// y[r,c] = x[r,c] + row[c]
void ck_add_row(const float *x, const float *row, float *y, long rows, long columns);
/// sums[c] (+)= sum over r of x[r,c]
void ck_column_sums(const float *x, float *sums, long rows, long columns, int accumulate);
/// y[r,c] = x[r,c] + gate[c] * b[r,c]
void ck_gated_residual(const float *x, const float *b, const float *gate, float *y, long rows, long columns);
/// branch[r,c] (+)= gate[c] * dy[r,c] where branch is not null; gateSums[c] = sum over r of dy[r,c] * b[r,c] where not null
void ck_gated_residual_backward(
    const float *dy, const float *b, const float *gate, float *branch, int accumulate, float *gateSums, long rows, long columns);
void ck_adamw(
    float *parameter, const float *gradient, float *first, float *second, long n, float rate, float beta1, float beta2, float epsilon,
    float decay, float correction1, float correction2);

// ---- activations.c
enum { CK_GELU = 0, CK_SILU = 1, CK_RELU = 2, CK_SIGMOID = 3, CK_SOFTPLUS = 4, CK_GELU_EXACT = 5 };
void ck_activate(int kind, const float *x, float *y, long n);
/// dx (+)= f'(x) * dy
void ck_activate_backward(int kind, const float *x, const float *dy, float *dx, long n, int accumulate);
/// x[r,c] += bias[c] (bias may be null), y = f(x)
void ck_bias_activate(int kind, float *x, const float *bias, float *y, long rows, long columns);
void ck_exp(const float *x, float *y, long n);

// ---- norms.c: weight and bias may be null; plusOne adds one to every weight (AdaLN's 1 + scale)
void ck_layer_norm(
    const float *x, const float *weight, const float *bias, int plusOne, float epsilon, float *y, float *means, float *inverses, long rows,
    long columns);
/// dx may be null. weightSums/biasSums may be null; both are added to.
void ck_layer_norm_backward(
    const float *dy, const float *x, const float *weight, int plusOne, const float *means, const float *inverses, float *dx, int accumulate,
    float *weightSums, float *biasSums, long rows, long columns);
void ck_rms_norm(const float *x, const float *weight, float epsilon, float *y, float *inverses, long rows, long columns);
void ck_rms_norm_backward(
    const float *dy, const float *x, const float *weight, const float *inverses, float *dx, int accumulate, float *weightSums, long rows,
    long columns);
void ck_softmax(const float *x, float *y, long rows, long columns);
void ck_softmax_backward(const float *y, const float *dy, float *dx, long rows, long columns, int accumulate);
/// Pairs (2i, 2i+1) of every head turned by (cosine[i], sign * sine[i]); one row of x is heads * width, cosines are [rows, width/2].
void ck_rotary(
    const float *x, const float *cosines, const float *sines, float sign, float *y, long rows, long heads, long width, int accumulate);

// ---- gemm.c: products with packed weights. op(B) is [k, n]; packed into panels of 32 columns it can be used by any number of products.
/// Non-zero where this CPU has kernels for them; elsewhere they work, but OpenBLAS is faster.
int ck_packs(void);
/// Floats that a packed [k, n] takes.
long ck_packed_count(long k, long n);
/// Packs the panels first..<last of op(B); `transposed` says that b is stored as [n, k].
void ck_pack(const float *b, long ldb, int transposed, long k, long n, long first, long last, float *packed);
/// c (+)= op(A) op(B) + bias, and where `activated` is given activated = f(c). `transposed` says that a is stored as [k, m]. With ldb = 0 b is
/// packed; else it lies there as [k, n] with n a multiple of 32, which pays where m is small.
void ck_multiply_packed(
    const float *a, long stride, int transposed, const float *b, long ldb, long m, long n, long k, float *c, long ldc, int accumulate,
    const float *bias, int activation, float *activated);

// ---- random.c
/// Philox4x32-10: four words for one counter and key.
void ck_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t output[4]);

#ifdef __cplusplus
}
#endif

#include "CKernelsConvolution.h"
#include "CKernelsAttention.h"
#include "CKernelsAMX.h"
