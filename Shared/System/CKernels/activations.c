#include "CKernels.h"
#include "avx512.h"
#include "vector.h"

// gelu(x) = x/2 (1 + tanh u) = x sigmoid(2u),  u = sqrt(2/pi) (x + 0.044715 x^3): one exponential and one division.
#define TWO_U(x) ((x) * (1.59576912160573071f + 0.0713548162726002527f * (x) * (x)))
#define TWO_U_SLOPE(x) (1.59576912160573071f + 0.2140644488178007581f * (x) * (x))

// Statement expressions and not functions, for the reason given in vector.h. `x` is evaluated once.
#define SIGMOID(x)                                                                                                                           \
    ({                                                                                                                                       \
        vf power_;                                                                                                                           \
        CK_EXP(power_, -(x));                                                                                                                \
        1.0f / (1.0f + power_);                                                                                                              \
    })

// log(1 + z) for 0 <= z <= 1: log y = 2 atanh(s), s = (y - 1)/(y + 1) = z/(2 + z) <= 1/3.
#define LOG_ONE_PLUS(z)                                                                                                                      \
    ({                                                                                                                                       \
        vf z_ = (z), s_ = z_ / (2.0f + z_), q_ = s_ * s_;                                                                                    \
        vf t_ = q_ * (1.0f / 15.0f) + 1.0f / 13.0f;                                                                                          \
        t_ = t_ * q_ + 1.0f / 11.0f;                                                                                                         \
        t_ = t_ * q_ + 1.0f / 9.0f;                                                                                                          \
        t_ = t_ * q_ + 1.0f / 7.0f;                                                                                                          \
        t_ = t_ * q_ + 1.0f / 5.0f;                                                                                                          \
        t_ = t_ * q_ + 1.0f / 3.0f;                                                                                                          \
        t_ = t_ * q_ + 1.0f;                                                                                                                 \
        2.0f * s_ * t_;                                                                                                                      \
    })

// Phi(x) = (1 + erf(x / sqrt 2)) / 2 and phi(x), its slope. The error function by Abramowitz and Stegun 7.1.26: off by at most 1.5e-7.
#define NORMAL_INTEGRAL(x, density)                                                                                                          \
    ({                                                                                                                                       \
        vf u_ = (x), a_ = CK_MAX(u_, -u_) * 0.70710678118654752f, w_ = 1.0f / (1.0f + 0.3275911f * a_), g_;                                  \
        CK_EXP(g_, -(a_ * a_));                                                                                                              \
        (density) = g_ * 0.39894228040143268f;                                                                                               \
        vf h_ = w_ * 1.061405429f - 1.453152027f;                                                                                            \
        h_ = h_ * w_ + 1.421413741f;                                                                                                         \
        h_ = h_ * w_ - 0.284496736f;                                                                                                         \
        h_ = h_ * w_ + 0.254829592f;                                                                                                         \
        h_ = 0.5f * h_ * w_ * g_; /* Phi(-|x|) */                                                                                            \
        vi up_ = (vi)(u_ > 0.0f);                                                                                                            \
        (vf)(((vi)(1.0f - h_) & up_) | ((vi)h_ & ~up_));                                                                                     \
    })

// `kind` is a constant wherever these stand, so that one branch is left of each.
#define VALUE(kind, x)                                                                                                                       \
    ({                                                                                                                                       \
        vf in_ = (x), out_;                                                                                                                  \
        if (kind == CK_GELU) out_ = in_ * SIGMOID(TWO_U(in_));                                                                               \
        else if (kind == CK_SILU) out_ = in_ * SIGMOID(in_);                                                                                 \
        else if (kind == CK_RELU) out_ = CK_MAX(in_, CK_SPLAT(0.0f));                                                                        \
        else if (kind == CK_GELU_EXACT) {                                                                                                    \
            vf density_;                                                                                                                     \
            out_ = in_ * NORMAL_INTEGRAL(in_, density_);                                                                                     \
        } else if (kind == CK_SIGMOID) out_ = SIGMOID(in_);                                                                                  \
        else { /* softplus: max(x, 0) + log(1 + e^-|x|) */                                                                                   \
            vf small_;                                                                                                                       \
            CK_EXP(small_, CK_MIN(in_, -in_));                                                                                               \
            out_ = CK_MAX(in_, CK_SPLAT(0.0f)) + LOG_ONE_PLUS(small_);                                                                       \
        }                                                                                                                                    \
        out_;                                                                                                                                \
    })

#define SLOPE(kind, x)                                                                                                                       \
    ({                                                                                                                                       \
        vf in_ = (x), out_;                                                                                                                  \
        if (kind == CK_RELU) {                                                                                                               \
            vi on_ = (vi)(in_ > 0.0f);                                                                                                       \
            out_ = (vf)(on_ & (vi)CK_SPLAT(1.0f));                                                                                           \
        } else if (kind == CK_GELU_EXACT) {                                                                                                  \
            vf density_, integral_ = NORMAL_INTEGRAL(in_, density_);                                                                         \
            out_ = integral_ + in_ * density_;                                                                                               \
        } else {                                                                                                                             \
            vf gate_ = SIGMOID(kind == CK_GELU ? TWO_U(in_) : in_);                                                                          \
            if (kind == CK_GELU) out_ = gate_ + in_ * gate_ * (1.0f - gate_) * TWO_U_SLOPE(in_);                                             \
            else if (kind == CK_SILU) out_ = gate_ + in_ * gate_ * (1.0f - gate_);                                                           \
            else if (kind == CK_SIGMOID) out_ = gate_ * (1.0f - gate_);                                                                      \
            else out_ = gate_;                                                                                                               \
        }                                                                                                                                    \
        out_;                                                                                                                                \
    })

CK_INLINE void activate(int kind, const float *x, float *y, long n) {
    long i = 0;
    for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, VALUE(kind, CK_LOAD(x + i)));
    if (i < n) {
        vf v;
        CK_LOAD_PART(v, x + i, n - i, 0.0f);
        CK_STORE_PART(y + i, VALUE(kind, v), n - i);
    }
}

CK_INLINE void activate_backward(int kind, const float *x, const float *dy, float *dx, long n, int accumulate) {
    long i = 0;
    if (accumulate)
        for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(dx + i, CK_LOAD(dx + i) + SLOPE(kind, CK_LOAD(x + i)) * CK_LOAD(dy + i));
    else
        for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(dx + i, SLOPE(kind, CK_LOAD(x + i)) * CK_LOAD(dy + i));
    if (i < n) {
        vf v, d, o;
        CK_LOAD_PART(v, x + i, n - i, 0.0f);
        CK_LOAD_PART(d, dy + i, n - i, 0.0f);
        o = SLOPE(kind, v) * d;
        if (accumulate) {
            CK_LOAD_PART(d, dx + i, n - i, 0.0f);
            o += d;
        }
        CK_STORE_PART(dx + i, o, n - i);
    }
}

CK_INLINE void bias_activate(int kind, float *x, const float *bias, float *y, long rows, long columns) {
    for (long r = 0; r < rows; r++, x += columns, y += columns) {
        long c = 0;
        for (; c + CK_LANES <= columns; c += CK_LANES) {
            vf v = CK_LOAD(x + c);
            if (bias) v += CK_LOAD(bias + c);
            CK_STORE(x + c, v);
            CK_STORE(y + c, VALUE(kind, v));
        }
        if (c < columns) {
            vf v, b;
            CK_LOAD_PART(v, x + c, columns - c, 0.0f);
            if (bias) {
                CK_LOAD_PART(b, bias + c, columns - c, 0.0f);
                v += b;
            }
            CK_STORE_PART(x + c, v, columns - c);
            CK_STORE_PART(y + c, VALUE(kind, v), columns - c);
        }
    }
}

#define BY_KIND(CALL)                                                                                                                        \
    switch (kind) {                                                                                                                          \
    case CK_GELU: CALL(CK_GELU); break;                                                                                                      \
    case CK_SILU: CALL(CK_SILU); break;                                                                                                      \
    case CK_RELU: CALL(CK_RELU); break;                                                                                                      \
    case CK_GELU_EXACT: CALL(CK_GELU_EXACT); break;                                                                                         \
    case CK_SIGMOID: CALL(CK_SIGMOID); break;                                                                                                \
    default: CALL(CK_SOFTPLUS); break;                                                                                                       \
    }

CK_CLONES void ck_activate_any(int kind, const float *x, float *y, long n) {
#define CALL(K) activate(K, x, y, n)
    BY_KIND(CALL)
#undef CALL
}

CK_CLONES void ck_activate_backward_any(int kind, const float *x, const float *dy, float *dx, long n, int accumulate) {
#define CALL(K) activate_backward(K, x, dy, dx, n, accumulate)
    BY_KIND(CALL)
#undef CALL
}

void ck_activate(int kind, const float *x, float *y, long n) {
    if (!ck_activate_avx512(kind, x, y, n)) ck_activate_any(kind, x, y, n);
}

void ck_activate_backward(int kind, const float *x, const float *dy, float *dx, long n, int accumulate) {
    if (!ck_activate_backward_avx512(kind, x, dy, dx, n, accumulate)) ck_activate_backward_any(kind, x, dy, dx, n, accumulate);
}

CK_CLONES void ck_bias_activate(int kind, float *x, const float *bias, float *y, long rows, long columns) {
#define CALL(K) bias_activate(K, x, bias, y, rows, columns)
    BY_KIND(CALL)
#undef CALL
}

CK_CLONES void ck_exp(const float *x, float *y, long n) {
    long i = 0;
    for (; i + CK_LANES <= n; i += CK_LANES) {
        vf e;
        CK_EXP(e, CK_LOAD(x + i));
        CK_STORE(y + i, e);
    }
    if (i < n) {
        vf v, e;
        CK_LOAD_PART(v, x + i, n - i, 0.0f);
        CK_EXP(e, v);
        CK_STORE_PART(y + i, e, n - i);
    }
}
