#include "CKernels.h"
#include "vector.h"
#include <math.h>

// Row loops below run `BODY(offset)` over whole registers and `TAIL(offset)` over the rest of a row.
#define ROW_LOOP(BODY, TAIL)                                                                                                                 \
    {                                                                                                                                        \
        long c = 0;                                                                                                                          \
        for (; c + CK_LANES <= columns; c += CK_LANES) { BODY }                                                                              \
        for (; c < columns; c++) { TAIL }                                                                                                    \
    }

CK_INLINE float weight_at(const float *weight, int plusOne, long c) { return weight ? weight[c] + (plusOne ? 1.0f : 0.0f) : 1.0f; }
#define WEIGHTS_AT(weight, one, c) ((weight) ? CK_LOAD((weight) + (c)) + (one) : CK_SPLAT(1.0f))

// y = w (x - mean) / sqrt(var + eps) + b. Two passes over a row that is in the first cache: mean, then the spread around it.
CK_CLONES void ck_layer_norm(
    const float *x, const float *weight, const float *bias, int plusOne, float epsilon, float *y, float *means, float *inverses, long rows,
    long columns) {
    const float one = plusOne ? 1.0f : 0.0f;
    for (long r = 0; r < rows; r++, x += columns, y += columns) {
        float sum, rest = 0;
        vf lanes = CK_SPLAT(0.0f);
        ROW_LOOP(lanes += CK_LOAD(x + c);, rest += x[c];)
        CK_FOLD_SUM(sum, lanes);
        const float mean = (sum + rest) / (float)columns;
        lanes = CK_SPLAT(0.0f);
        rest = 0;
        ROW_LOOP(vf d = CK_LOAD(x + c) - mean; lanes += d * d;, float d = x[c] - mean; rest += d * d;)
        CK_FOLD_SUM(sum, lanes);
        const float inverse = 1.0f / sqrtf((sum + rest) / (float)columns + epsilon);
        means[r] = mean;
        inverses[r] = inverse;
        ROW_LOOP(vf v = (CK_LOAD(x + c) - mean) * inverse * WEIGHTS_AT(weight, one, c); if (bias) v += CK_LOAD(bias + c);
                 CK_STORE(y + c, v);
                 , y[c] = (x[c] - mean) * inverse * weight_at(weight, plusOne, c) + (bias ? bias[c] : 0.0f);)
    }
}

// With n = (x - mean) inverse and g = w dy:  dx = inverse (g - mean(g) - n mean(g n)),  dw = sum dy n,  db = sum dy.
CK_CLONES void ck_layer_norm_backward(
    const float *dy, const float *x, const float *weight, int plusOne, const float *means, const float *inverses, float *dx, int accumulate,
    float *weightSums, float *biasSums, long rows, long columns) {
    const float one = plusOne ? 1.0f : 0.0f, share = 1.0f / (float)columns;
    for (long r = 0; r < rows; r++, x += columns, dy += columns) {
        const float mean = means[r], inverse = inverses[r];
        if (weightSums) {
            ROW_LOOP(vf d = CK_LOAD(dy + c); vf n = (CK_LOAD(x + c) - mean) * inverse; CK_STORE(weightSums + c, CK_LOAD(weightSums + c) + d * n);
                     , weightSums[c] += dy[c] * (x[c] - mean) * inverse;)
        }
        if (biasSums) { ROW_LOOP(CK_STORE(biasSums + c, CK_LOAD(biasSums + c) + CK_LOAD(dy + c));, biasSums[c] += dy[c];) }
        if (!dx) continue;
        vf lanesG = CK_SPLAT(0.0f), lanesN = CK_SPLAT(0.0f);
        float restG = 0, restN = 0, sumG, sumN;
        ROW_LOOP(vf g = CK_LOAD(dy + c) * WEIGHTS_AT(weight, one, c); lanesG += g; lanesN += g * (CK_LOAD(x + c) - mean);
                 , float g = dy[c] * weight_at(weight, plusOne, c); restG += g; restN += g * (x[c] - mean);)
        CK_FOLD_SUM(sumG, lanesG);
        CK_FOLD_SUM(sumN, lanesN);
        const float meanG = (sumG + restG) * share, slope = (sumN + restN) * share * inverse * inverse;
        if (accumulate) {
            ROW_LOOP(vf g = CK_LOAD(dy + c) * WEIGHTS_AT(weight, one, c);
                     CK_STORE(dx + c, CK_LOAD(dx + c) + inverse * (g - meanG - (CK_LOAD(x + c) - mean) * slope));
                     , dx[c] += inverse * (dy[c] * weight_at(weight, plusOne, c) - meanG - (x[c] - mean) * slope);)
        } else {
            ROW_LOOP(vf g = CK_LOAD(dy + c) * WEIGHTS_AT(weight, one, c);
                     CK_STORE(dx + c, inverse * (g - meanG - (CK_LOAD(x + c) - mean) * slope));
                     , dx[c] = inverse * (dy[c] * weight_at(weight, plusOne, c) - meanG - (x[c] - mean) * slope);)
        }
        dx += columns;
    }
}

// y = w x / sqrt(mean(x^2) + eps)
CK_CLONES void ck_rms_norm(const float *x, const float *weight, float epsilon, float *y, float *inverses, long rows, long columns) {
    for (long r = 0; r < rows; r++, x += columns, y += columns) {
        float sum, rest = 0;
        vf lanes = CK_SPLAT(0.0f);
        ROW_LOOP(vf v = CK_LOAD(x + c); lanes += v * v;, rest += x[c] * x[c];)
        CK_FOLD_SUM(sum, lanes);
        const float inverse = 1.0f / sqrtf((sum + rest) / (float)columns + epsilon);
        inverses[r] = inverse;
        ROW_LOOP(CK_STORE(y + c, CK_LOAD(x + c) * inverse * WEIGHTS_AT(weight, 0.0f, c));, y[c] = x[c] * inverse * weight_at(weight, 0, c);)
    }
}

// With n = x inverse and g = w dy:  dx = inverse (g - n mean(g n)),  dw = sum dy n.
CK_CLONES void ck_rms_norm_backward(
    const float *dy, const float *x, const float *weight, const float *inverses, float *dx, int accumulate, float *weightSums, long rows,
    long columns) {
    const float share = 1.0f / (float)columns;
    for (long r = 0; r < rows; r++, x += columns, dy += columns) {
        const float inverse = inverses[r];
        if (weightSums) {
            ROW_LOOP(CK_STORE(weightSums + c, CK_LOAD(weightSums + c) + CK_LOAD(dy + c) * CK_LOAD(x + c) * inverse);
                     , weightSums[c] += dy[c] * x[c] * inverse;)
        }
        if (!dx) continue;
        vf lanes = CK_SPLAT(0.0f);
        float rest = 0, sum;
        ROW_LOOP(lanes += CK_LOAD(dy + c) * WEIGHTS_AT(weight, 0.0f, c) * CK_LOAD(x + c);, rest += dy[c] * weight_at(weight, 0, c) * x[c];)
        CK_FOLD_SUM(sum, lanes);
        const float slope = (sum + rest) * share * inverse * inverse;
        if (accumulate) {
            ROW_LOOP(CK_STORE(dx + c, CK_LOAD(dx + c) + inverse * (CK_LOAD(dy + c) * WEIGHTS_AT(weight, 0.0f, c) - CK_LOAD(x + c) * slope));
                     , dx[c] += inverse * (dy[c] * weight_at(weight, 0, c) - x[c] * slope);)
        } else {
            ROW_LOOP(CK_STORE(dx + c, inverse * (CK_LOAD(dy + c) * WEIGHTS_AT(weight, 0.0f, c) - CK_LOAD(x + c) * slope));
                     , dx[c] = inverse * (dy[c] * weight_at(weight, 0, c) - x[c] * slope);)
        }
        dx += columns;
    }
}

CK_CLONES void ck_softmax(const float *x, float *y, long rows, long columns) {
    for (long r = 0; r < rows; r++, x += columns, y += columns) {
        float top = x[0], sum, rest = 0;
        for (long c = 1; c < columns; c++) top = x[c] > top ? x[c] : top;
        vf lanes = CK_SPLAT(0.0f);
        long c = 0;
        for (; c + CK_LANES <= columns; c += CK_LANES) {
            vf e;
            CK_EXP(e, CK_LOAD(x + c) - top);
            lanes += e;
            CK_STORE(y + c, e);
        }
        if (c < columns) {
            vf v, e;
            CK_LOAD_PART(v, x + c, columns - c, top);
            CK_EXP(e, v - top);
            CK_STORE_PART(y + c, e, columns - c);
            for (long t = c; t < columns; t++) rest += y[t];
        }
        CK_FOLD_SUM(sum, lanes);
        const float inverse = 1.0f / (sum + rest);
        ROW_LOOP(CK_STORE(y + c, CK_LOAD(y + c) * inverse);, y[c] *= inverse;)
    }
}

// dx = y (dy - sum(y dy))
CK_CLONES void ck_softmax_backward(const float *y, const float *dy, float *dx, long rows, long columns, int accumulate) {
    for (long r = 0; r < rows; r++, y += columns, dy += columns, dx += columns) {
        vf lanes = CK_SPLAT(0.0f);
        float rest = 0, sum;
        ROW_LOOP(lanes += CK_LOAD(y + c) * CK_LOAD(dy + c);, rest += y[c] * dy[c];)
        CK_FOLD_SUM(sum, lanes);
        sum += rest;
        if (accumulate) {
            ROW_LOOP(CK_STORE(dx + c, CK_LOAD(dx + c) + CK_LOAD(y + c) * (CK_LOAD(dy + c) - sum));, dx[c] += y[c] * (dy[c] - sum);)
        } else {
            ROW_LOOP(CK_STORE(dx + c, CK_LOAD(y + c) * (CK_LOAD(dy + c) - sum));, dx[c] = y[c] * (dy[c] - sum);)
        }
    }
}

CK_CLONES void ck_rotary(
    const float *x, const float *cosines, const float *sines, float sign, float *y, long rows, long heads, long width, int accumulate) {
    const long half = width / 2;
    for (long r = 0; r < rows; r++, cosines += half, sines += half)
        for (long h = 0; h < heads; h++, x += width, y += width) {
            if (accumulate)
                for (long i = 0; i < half; i++) {
                    const float a = x[2 * i], b = x[2 * i + 1], s = sign * sines[i];
                    y[2 * i] += a * cosines[i] - b * s;
                    y[2 * i + 1] += a * s + b * cosines[i];
                }
            else
                for (long i = 0; i < half; i++) {
                    const float a = x[2 * i], b = x[2 * i + 1], s = sign * sines[i];
                    y[2 * i] = a * cosines[i] - b * s;
                    y[2 * i + 1] = a * s + b * cosines[i];
                }
        }
}
