#include "CKernels.h"
#include "vector.h"
#include <math.h>

CK_CLONES void ck_online_softmax(
    float *scores, long rows, long columns, long stride, float scale, float *maxima, float *sums, float *corrections, int fresh) {
    for (long r = 0; r < rows; r++, scores += stride) {
        long c = 0;
        float top = fresh ? -INFINITY : maxima[r];
        vf high = CK_SPLAT(-3.0e38f);
        for (; c + CK_LANES <= columns; c += CK_LANES) high = CK_MAX(high, CK_LOAD(scores + c));
        if (c < columns) {
            vf v;
            CK_LOAD_PART(v, scores + c, columns - c, -3.0e38f);
            high = CK_MAX(high, v);
        }
        float tile;
        CK_FOLD_MAX(tile, high);
        tile *= scale;
        const float old = top;
        top = fresh || tile > old ? tile : old;
        const float correction = fresh ? 0.0f : expf(old - top);
        vf lanes = CK_SPLAT(0.0f);
        float rest = 0, sum;
        for (c = 0; c + CK_LANES <= columns; c += CK_LANES) {
            vf e;
            CK_EXP(e, CK_LOAD(scores + c) * scale - top);
            lanes += e;
            CK_STORE(scores + c, e);
        }
        if (c < columns) {
            vf v, e;
            CK_LOAD_PART(v, scores + c, columns - c, 0.0f);
            CK_EXP(e, v * scale - top);
            CK_STORE_PART(scores + c, e, columns - c);
            for (; c < columns; c++) rest += scores[c];
        }
        CK_FOLD_SUM(sum, lanes);
        maxima[r] = top;
        sums[r] = (fresh ? 0.0f : sums[r] * correction) + sum + rest;
        corrections[r] = correction;
    }
}

CK_CLONES void ck_scale_rows(float *y, const float *factors, long rows, long columns, long stride) {
    for (long r = 0; r < rows; r++, y += stride) {
        const float f = factors[r];
        for (long c = 0; c < columns; c++) y[c] *= f;
    }
}

CK_CLONES void ck_finish_softmax(float *y, const float *maxima, const float *sums, float *logs, long rows, long columns, long stride) {
    for (long r = 0; r < rows; r++, y += stride) {
        const float f = 1.0f / sums[r];
        for (long c = 0; c < columns; c++) y[c] *= f;
        if (logs) logs[r] = maxima[r] + logf(sums[r]);
    }
}

CK_CLONES void ck_row_dots(const float *a, const float *b, float *dots, long rows, long columns, long strideA, long strideB) {
    for (long r = 0; r < rows; r++, a += strideA, b += strideB) {
        vf lanes = CK_SPLAT(0.0f);
        float rest = 0, sum;
        long c = 0;
        for (; c + CK_LANES <= columns; c += CK_LANES) lanes += CK_LOAD(a + c) * CK_LOAD(b + c);
        for (; c < columns; c++) rest += a[c] * b[c];
        CK_FOLD_SUM(sum, lanes);
        dots[r] = sum + rest;
    }
}

CK_CLONES void ck_attention_backward_tile(
    float *scores, float *dscores, const float *logs, const float *deltas, float scale, long rows, long columns, long stride) {
    for (long r = 0; r < rows; r++, scores += stride, dscores += stride) {
        const float log = logs[r], delta = deltas[r];
        long c = 0;
        for (; c + CK_LANES <= columns; c += CK_LANES) {
            vf p;
            CK_EXP(p, CK_LOAD(scores + c) * scale - log);
            CK_STORE(scores + c, p);
            CK_STORE(dscores + c, scale * p * (CK_LOAD(dscores + c) - delta));
        }
        if (c < columns) {
            vf v, d, p;
            CK_LOAD_PART(v, scores + c, columns - c, 0.0f);
            CK_LOAD_PART(d, dscores + c, columns - c, 0.0f);
            CK_EXP(p, v * scale - log);
            CK_STORE_PART(scores + c, p, columns - c);
            CK_STORE_PART(dscores + c, scale * p * (d - delta), columns - c);
        }
    }
}
