// Sixteen floats as one value: one register under AVX-512, two under AVX2, four under SSE or NEON. Sums are kept in sixteen lanes and
// folded in one fixed order, so a result does not depend on where a row starts in memory.
#pragma once
#include <stdint.h>
#include <string.h>

// Each kernel is compiled three times and the loader picks one by the CPU; elsewhere than on x86-64
// Linux, or with CK_ONE_VERSION (to test the plain build), there is one version.
#if defined(__x86_64__) && defined(__linux__) && !defined(CK_ONE_VERSION)
#define CK_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), min_vector_width(512)))
#else
#define CK_CLONES
#endif
#define CK_INLINE static inline __attribute__((always_inline))

enum { CK_LANES = 16 };
typedef float vf __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(64), aligned(4), may_alias));

#define CK_SPLAT(s) ((vf){(s), (s), (s), (s), (s), (s), (s), (s), (s), (s), (s), (s), (s), (s), (s), (s)})
#define CK_LOAD(p) (*(const vf *)(p))
#define CK_STORE(p, v) (*(vf *)(p) = (v))
#define CK_MAX(a, b) __builtin_elementwise_max((a), (b))
#define CK_MIN(a, b) __builtin_elementwise_min((a), (b))

// The last n < 16 values of a row, and a filler for the lanes behind them.
#define CK_LOAD_PART(into, p, n, filler)                                                                                                     \
    do {                                                                                                                                     \
        float part_[CK_LANES];                                                                                                               \
        for (int l_ = 0; l_ < CK_LANES; l_++) part_[l_] = (filler);                                                                          \
        memcpy(part_, (p), sizeof(float) * (size_t)(n));                                                                                     \
        (into) = CK_LOAD(part_);                                                                                                             \
    } while (0)
#define CK_STORE_PART(p, v, n)                                                                                                               \
    do {                                                                                                                                     \
        float part_[CK_LANES];                                                                                                               \
        CK_STORE(part_, (v));                                                                                                                \
        memcpy((p), part_, sizeof(float) * (size_t)(n));                                                                                     \
    } while (0)

// Halves onto each other, in registers: a round through memory would wait for the wide store.
typedef float ck_v8 __attribute__((vector_size(32)));
typedef float ck_v4 __attribute__((vector_size(16)));
#define CK_FOLD_SUM(into, v)                                                                                                                 \
    do {                                                                                                                                     \
        vf s16_ = (v);                                                                                                                       \
        ck_v8 s8_ = __builtin_shufflevector(s16_, s16_, 0, 1, 2, 3, 4, 5, 6, 7)                                                              \
            + __builtin_shufflevector(s16_, s16_, 8, 9, 10, 11, 12, 13, 14, 15);                                                             \
        ck_v4 s4_ = __builtin_shufflevector(s8_, s8_, 0, 1, 2, 3) + __builtin_shufflevector(s8_, s8_, 4, 5, 6, 7);                           \
        (into) = (s4_[0] + s4_[2]) + (s4_[1] + s4_[3]);                                                                                      \
    } while (0)
#define CK_FOLD_MAX(into, v) ((into) = __builtin_reduce_max(v))

/// e^x, relative error about 1e-7; below -87.3 it stays at e^-87.3, above 88 at e^88 (finite).
#define CK_EXP_LOW (-87.3f)
#define CK_EXP_HIGH (88.0f)
// A macro and not a function: a helper that takes 64-byte vectors by value would have one ABI per clone.
#define CK_EXP(into, argument)                                                                                                               \
    do {                                                                                                                                     \
        vf x_ = CK_MIN(CK_MAX((argument), CK_SPLAT(CK_EXP_LOW)), CK_SPLAT(CK_EXP_HIGH));                                                     \
        /* n + 127 where x = n ln2 + f, |f| <= ln2 / 2: rounding by truncation of a positive number */                                       \
        vi n_ = __builtin_convertvector(x_ * 1.44269504088896341f + 127.5f, vi);                                                             \
        vf m_ = __builtin_convertvector(n_ - 127, vf);                                                                                       \
        vf f_ = x_ - m_ * 0.693359375f;                                                                                                      \
        f_ = f_ + m_ * 2.12194440e-4f;                                                                                                       \
        vf p_ = f_ * 1.9875691500e-4f + 1.3981999507e-3f;                                                                                    \
        p_ = p_ * f_ + 8.3334519073e-3f;                                                                                                     \
        p_ = p_ * f_ + 4.1665795894e-2f;                                                                                                     \
        p_ = p_ * f_ + 1.6666665459e-1f;                                                                                                     \
        p_ = p_ * f_ + 5.0000001201e-1f;                                                                                                     \
        p_ = p_ * f_ * f_ + f_ + 1.0f;                                                                                                       \
        (into) = p_ * (vf)(n_ << 23);                                                                                                        \
    } while (0)
