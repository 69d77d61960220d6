// For the few kernels that are written for AVX-512 by hand; everything else is compiled three times (vector.h).
#pragma once
#define CK_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"), min_vector_width(512)))
#define CK_AVX512_INLINE CK_AVX512 static inline __attribute__((always_inline))

/// Do the work and return 1 where this CPU and this kind of activation have a kernel by hand, else return 0.
int ck_activate_avx512(int kind, const float *x, float *y, long n);
int ck_activate_backward_avx512(int kind, const float *x, const float *dy, float *dx, long n, int accumulate);
/// The portable ones. (A function with clones needs a declaration before its definition.)
void ck_activate_any(int kind, const float *x, float *y, long n);
void ck_activate_backward_any(int kind, const float *x, const float *dy, float *dx, long n, int accumulate);
