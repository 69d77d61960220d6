#include "CKernels.h"
#include "vector.h"
#include <math.h>

CK_CLONES void ck_fill(float *y, float value, long n) {
    for (long i = 0; i < n; i++) y[i] = value;
}

CK_CLONES void ck_add(const float *a, const float *b, float *y, long n) {
    long i = 0;
    for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, CK_LOAD(a + i) + CK_LOAD(b + i));
    for (; i < n; i++) y[i] = a[i] + b[i];
}

CK_CLONES void ck_subtract(const float *a, const float *b, float *y, long n) {
    long i = 0;
    for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, CK_LOAD(a + i) - CK_LOAD(b + i));
    for (; i < n; i++) y[i] = a[i] - b[i];
}

CK_CLONES void ck_multiply(const float *a, const float *b, float *y, long n, int accumulate) {
    long i = 0;
    if (accumulate) {
        for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, CK_LOAD(y + i) + CK_LOAD(a + i) * CK_LOAD(b + i));
        for (; i < n; i++) y[i] += a[i] * b[i];
    } else {
        for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, CK_LOAD(a + i) * CK_LOAD(b + i));
        for (; i < n; i++) y[i] = a[i] * b[i];
    }
}

CK_CLONES void ck_divide(const float *a, const float *b, float *y, long n) {
    long i = 0;
    for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, CK_LOAD(a + i) / CK_LOAD(b + i));
    for (; i < n; i++) y[i] = a[i] / b[i];
}

CK_CLONES void ck_affine(const float *x, float scale, float shift, float *y, long n) {
    long i = 0;
    for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, CK_LOAD(x + i) * scale + shift);
    for (; i < n; i++) y[i] = x[i] * scale + shift;
}

CK_CLONES void ck_axpy(const float *x, float scale, float *y, long n) {
    long i = 0;
    for (; i + CK_LANES <= n; i += CK_LANES) CK_STORE(y + i, CK_LOAD(y + i) + CK_LOAD(x + i) * scale);
    for (; i < n; i++) y[i] += x[i] * scale;
}

// The long sums: sixteen Float32 lanes over at most 1024 values, blocks added up in double.
enum { SUM_BLOCK = 1024 };
#define SUM_LOOP(TERM)                                                                                                                       \
    double total = 0;                                                                                                                        \
    for (long start = 0; start < n; start += SUM_BLOCK) {                                                                                    \
        long end = start + SUM_BLOCK < n ? start + SUM_BLOCK : n, i = start;                                                                 \
        vf lanes = CK_SPLAT(0.0f);                                                                                                           \
        for (; i + CK_LANES <= end; i += CK_LANES) {                                                                                         \
            vf a_ = CK_LOAD(a + i), b_ = CK_LOAD(b + i);                                                                                     \
            lanes += TERM;                                                                                                                   \
        }                                                                                                                                    \
        if (i < end) {                                                                                                                       \
            vf a_, b_;                                                                                                                       \
            CK_LOAD_PART(a_, a + i, end - i, 0.0f);                                                                                          \
            CK_LOAD_PART(b_, b + i, end - i, 0.0f);                                                                                          \
            lanes += TERM;                                                                                                                   \
        }                                                                                                                                    \
        float block;                                                                                                                         \
        CK_FOLD_SUM(block, lanes);                                                                                                           \
        total += block;                                                                                                                      \
    }                                                                                                                                        \
    return total;

CK_CLONES double ck_sum(const float *a, long n) {
    const float *b = a;
    SUM_LOOP((a_ + b_ * 0.0f))
}

CK_CLONES double ck_sum_of_squares(const float *a, long n) {
    const float *b = a;
    SUM_LOOP((a_ * b_))
}

CK_CLONES double ck_dot(const float *a, const float *b, long n) { SUM_LOOP((a_ * b_)) }

CK_CLONES double ck_squared_distance(const float *a, const float *b, long n) { SUM_LOOP(((a_ - b_) * (a_ - b_))) }

CK_CLONES int ck_all_finite(const float *x, long n) {
    // By the exponent's bits: no compiler flag can talk it away.
    int bad = 0;
    for (long i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

CK_CLONES void ck_add_row(const float *x, const float *row, float *y, long rows, long columns) {
    for (long r = 0; r < rows; r++, x += columns, y += columns) {
        long c = 0;
        for (; c + CK_LANES <= columns; c += CK_LANES) CK_STORE(y + c, CK_LOAD(x + c) + CK_LOAD(row + c));
        for (; c < columns; c++) y[c] = x[c] + row[c];
    }
}

CK_CLONES void ck_column_sums(const float *x, float *sums, long rows, long columns, int accumulate) {
    long c = 0;
    // Four registers wide, so that a cache line fetched is a cache line used.
    for (; c + 4 * CK_LANES <= columns; c += 4 * CK_LANES) {
        vf s0 = CK_SPLAT(0.0f), s1 = s0, s2 = s0, s3 = s0;
        const float *p = x + c;
        for (long r = 0; r < rows; r++, p += columns) {
            s0 += CK_LOAD(p);
            s1 += CK_LOAD(p + CK_LANES);
            s2 += CK_LOAD(p + 2 * CK_LANES);
            s3 += CK_LOAD(p + 3 * CK_LANES);
        }
        float *o = sums + c;
        if (accumulate) {
            s0 += CK_LOAD(o);
            s1 += CK_LOAD(o + CK_LANES);
            s2 += CK_LOAD(o + 2 * CK_LANES);
            s3 += CK_LOAD(o + 3 * CK_LANES);
        }
        CK_STORE(o, s0);
        CK_STORE(o + CK_LANES, s1);
        CK_STORE(o + 2 * CK_LANES, s2);
        CK_STORE(o + 3 * CK_LANES, s3);
    }
    for (; c + CK_LANES <= columns; c += CK_LANES) {
        vf s = CK_SPLAT(0.0f);
        for (long r = 0; r < rows; r++) s += CK_LOAD(x + r * columns + c);
        if (accumulate) s += CK_LOAD(sums + c);
        CK_STORE(sums + c, s);
    }
    for (; c < columns; c++) {
        float s = 0;
        for (long r = 0; r < rows; r++) s += x[r * columns + c];
        sums[c] = accumulate ? sums[c] + s : s;
    }
}

CK_CLONES void ck_gated_residual(const float *x, const float *b, const float *gate, float *y, long rows, long columns) {
    for (long r = 0; r < rows; r++, x += columns, b += columns, y += columns) {
        long c = 0;
        for (; c + CK_LANES <= columns; c += CK_LANES) CK_STORE(y + c, CK_LOAD(x + c) + CK_LOAD(gate + c) * CK_LOAD(b + c));
        for (; c < columns; c++) y[c] = x[c] + gate[c] * b[c];
    }
}

CK_CLONES void ck_gated_residual_backward(
    const float *dy, const float *b, const float *gate, float *branch, int accumulate, float *gateSums, long rows, long columns) {
    if (branch)
        for (long r = 0; r < rows; r++) {
            const float *d = dy + r * columns;
            float *o = branch + r * columns;
            long c = 0;
            if (accumulate) {
                for (; c + CK_LANES <= columns; c += CK_LANES) CK_STORE(o + c, CK_LOAD(o + c) + CK_LOAD(gate + c) * CK_LOAD(d + c));
                for (; c < columns; c++) o[c] += gate[c] * d[c];
            } else {
                for (; c + CK_LANES <= columns; c += CK_LANES) CK_STORE(o + c, CK_LOAD(gate + c) * CK_LOAD(d + c));
                for (; c < columns; c++) o[c] = gate[c] * d[c];
            }
        }
    if (gateSums) {
        long c = 0;
        for (; c + CK_LANES <= columns; c += CK_LANES) {
            vf s = CK_SPLAT(0.0f);
            for (long r = 0; r < rows; r++) s += CK_LOAD(dy + r * columns + c) * CK_LOAD(b + r * columns + c);
            CK_STORE(gateSums + c, s);
        }
        for (; c < columns; c++) {
            float s = 0;
            for (long r = 0; r < rows; r++) s += dy[r * columns + c] * b[r * columns + c];
            gateSums[c] = s;
        }
    }
}

CK_CLONES void ck_adamw(
    float *parameter, const float *gradient, float *first, float *second, long n, float rate, float beta1, float beta2, float epsilon,
    float decay, float correction1, float correction2) {
    float keep = 1.0f - rate * decay, size = rate / correction1, root = 1.0f / sqrtf(correction2);
    for (long i = 0; i < n; i++) {
        float g = gradient[i];
        float m = beta1 * first[i] + (1.0f - beta1) * g;
        float v = beta2 * second[i] + (1.0f - beta2) * g * g;
        first[i] = m;
        second[i] = v;
        parameter[i] = parameter[i] * keep - size * m / (sqrtf(v) * root + epsilon);
    }
}
