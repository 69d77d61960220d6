#include "CKernels.h"
#include "vector.h"
#include <math.h>

// Sums are kept in double precision: the variance is a small difference of large sums where a channel's mean is far from zero.
typedef double vd __attribute__((vector_size(128), aligned(8), may_alias));
#define LOAD_D(p) (*(const vd *)(p))
#define STORE_D(p, v) (*(vd *)(p) = (v))
#define WIDE(v) __builtin_convertvector((v), vd)

#define SIGMOID(x)                                                                                                                           \
    ({                                                                                                                                       \
        vf power_;                                                                                                                           \
        CK_EXP(power_, -(x));                                                                                                                \
        1.0f / (1.0f + power_);                                                                                                              \
    })
#define SILU_SLOPE(x)                                                                                                                        \
    ({                                                                                                                                       \
        vf at_ = (x), gate_ = SIGMOID(at_);                                                                                                  \
        gate_ + at_ * gate_ * (1.0f - gate_);                                                                                                \
    })

enum { ROWS = 8 };

CK_CLONES void ck_channel_sums(const float *x, double *sums, double *squares, long rows, long channels) {
    memset(sums, 0, sizeof(double) * (size_t)channels);
    memset(squares, 0, sizeof(double) * (size_t)channels);
    for (long r = 0; r < rows; r += ROWS, x += ROWS * channels) {
        const long count = rows - r < ROWS ? rows - r : ROWS;
        long c = 0;
        for (; c + CK_LANES <= channels; c += CK_LANES) {
            vd s = LOAD_D(sums + c), q = LOAD_D(squares + c);
            for (long i = 0; i < count; i++) {
                const vd v = WIDE(CK_LOAD(x + i * channels + c));
                s += v;
                q += v * v;
            }
            STORE_D(sums + c, s);
            STORE_D(squares + c, q);
        }
        for (; c < channels; c++)
            for (long i = 0; i < count; i++) {
                const double v = x[i * channels + c];
                sums[c] += v;
                squares[c] += v * v;
            }
    }
}

CK_CLONES void ck_scale_shift(const float *x, const float *scales, const float *shifts, int silu, float *y, long rows, long channels) {
    for (long r = 0; r < rows; r++, x += channels, y += channels) {
        long c = 0;
        if (silu)
            for (; c + CK_LANES <= channels; c += CK_LANES) {
                const vf v = CK_LOAD(x + c) * CK_LOAD(scales + c) + CK_LOAD(shifts + c);
                CK_STORE(y + c, v * SIGMOID(v));
            }
        else
            for (; c + CK_LANES <= channels; c += CK_LANES) CK_STORE(y + c, CK_LOAD(x + c) * CK_LOAD(scales + c) + CK_LOAD(shifts + c));
        if (c < channels) {
            const long n = channels - c;
            vf v, a, b;
            CK_LOAD_PART(v, x + c, n, 0.0f);
            CK_LOAD_PART(a, scales + c, n, 0.0f);
            CK_LOAD_PART(b, shifts + c, n, 0.0f);
            v = v * a + b;
            if (silu) v = v * SIGMOID(v);
            CK_STORE_PART(y + c, v, n);
        }
    }
}

// g of one vector; a and b are scales and shifts there.
#define SLOPED(x, dy, a, b) (silu ? (dy) * SILU_SLOPE((x) * (a) + (b)) : (dy))

CK_CLONES void ck_scale_shift_sums(
    const float *x, const float *dy, const float *scales, const float *shifts, int silu, double *sums, double *products, long rows,
    long channels) {
    memset(sums, 0, sizeof(double) * (size_t)channels);
    memset(products, 0, sizeof(double) * (size_t)channels);
    for (long r = 0; r < rows; r += ROWS, x += ROWS * channels, dy += ROWS * channels) {
        const long count = rows - r < ROWS ? rows - r : ROWS;
        long c = 0;
        for (; c + CK_LANES <= channels; c += CK_LANES) {
            const vf a = CK_LOAD(scales + c), b = CK_LOAD(shifts + c);
            vd s = LOAD_D(sums + c), q = LOAD_D(products + c);
            for (long i = 0; i < count; i++) {
                const vf v = CK_LOAD(x + i * channels + c), d = CK_LOAD(dy + i * channels + c);
                const vd g = WIDE(SLOPED(v, d, a, b));
                s += g;
                q += g * WIDE(v);
            }
            STORE_D(sums + c, s);
            STORE_D(products + c, q);
        }
        if (c < channels) {
            const long n = channels - c;
            vf a, b, v, d;
            CK_LOAD_PART(a, scales + c, n, 0.0f);
            CK_LOAD_PART(b, shifts + c, n, 0.0f);
            for (long i = 0; i < count; i++) {
                CK_LOAD_PART(v, x + i * channels + c, n, 0.0f);
                CK_LOAD_PART(d, dy + i * channels + c, n, 0.0f);
                const vf g = SLOPED(v, d, a, b);
                float part[CK_LANES];
                CK_STORE(part, g);
                for (long l = 0; l < n; l++) {
                    sums[c + l] += part[l];
                    products[c + l] += (double)part[l] * x[i * channels + c + l];
                }
            }
        }
    }
}

CK_CLONES void ck_group_norm_backward(
    const float *x, const float *dy, const float *scales, const float *shifts, int silu, const float *slopes, const float *offsets,
    float *dx, int accumulate, long rows, long channels) {
    for (long r = 0; r < rows; r++, x += channels, dy += channels, dx += channels) {
        long c = 0;
        for (; c + CK_LANES <= channels; c += CK_LANES) {
            const vf a = CK_LOAD(scales + c), b = CK_LOAD(shifts + c), v = CK_LOAD(x + c), d = CK_LOAD(dy + c);
            vf o = SLOPED(v, d, a, b) * a + v * CK_LOAD(slopes + c) + CK_LOAD(offsets + c);
            if (accumulate) o += CK_LOAD(dx + c);
            CK_STORE(dx + c, o);
        }
        if (c < channels) {
            const long n = channels - c;
            vf a, b, v, d, k, o;
            CK_LOAD_PART(a, scales + c, n, 0.0f);
            CK_LOAD_PART(b, shifts + c, n, 0.0f);
            CK_LOAD_PART(v, x + c, n, 0.0f);
            CK_LOAD_PART(d, dy + c, n, 0.0f);
            CK_LOAD_PART(k, slopes + c, n, 0.0f);
            CK_LOAD_PART(o, offsets + c, n, 0.0f);
            o += SLOPED(v, d, a, b) * a + v * k;
            if (accumulate) {
                CK_LOAD_PART(k, dx + c, n, 0.0f);
                o += k;
            }
            CK_STORE_PART(dx + c, o, n);
        }
    }
}
