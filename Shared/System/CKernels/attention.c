#include "CKernels.h"
#include "vector.h"
#include <math.h>

// Scores lie transposed, [keys, queries]: sixteen queries stand side by side in a register, so that maxima and sums over keys need no folding,
// and four keys cost a twenty-fourth of ninety-six. The stride is a multiple of sixteen; lanes behind the last query hold anything.
CK_CLONES void ck_online_softmax(
    float *scores, long keys, long queries, long stride, float scale, float *maxima, float *sums, float *corrections, int fresh) {
    for (long r = 0; r < queries; r += CK_LANES) {
        float *column = scores + r;
        vf top = CK_LOAD(column);
        for (long k = 1; k < keys; k++) top = CK_MAX(top, CK_LOAD(column + k * stride));
        top *= scale;
        vf sum = CK_SPLAT(0.0f);
        if (!fresh) {
            vf old = CK_LOAD(maxima + r), correction;
            top = CK_MAX(top, old);
            CK_EXP(correction, old - top);
            CK_STORE(corrections + r, correction);
            sum = CK_LOAD(sums + r) * correction;
        }
        for (long k = 0; k < keys; k++) {
            vf e;
            CK_EXP(e, CK_LOAD(column + k * stride) * scale - top);
            sum += e;
            CK_STORE(column + k * stride, e);
        }
        CK_STORE(maxima + r, top);
        CK_STORE(sums + r, sum);
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
    float *scores, float *dscores, const float *logs, const float *deltas, float scale, long keys, long queries, long stride) {
    for (long r = 0; r < queries; r += CK_LANES) {
        vf log, delta;
        if (r + CK_LANES <= queries) {
            log = CK_LOAD(logs + r);
            delta = CK_LOAD(deltas + r);
        } else {
            CK_LOAD_PART(log, logs + r, queries - r, 0.0f);
            CK_LOAD_PART(delta, deltas + r, queries - r, 0.0f);
        }
        for (long k = 0; k < keys; k++) {
            float *p = scores + k * stride + r, *d = dscores + k * stride + r;
            vf e;
            CK_EXP(e, CK_LOAD(p) * scale - log);
            CK_STORE(p, e);
            CK_STORE(d, scale * e * (CK_LOAD(d) - delta));
        }
    }
}
