// Convolutions of three by three taps with stride one by Winograd's F(4x4, 3x3): every 4x4 tile of outputs takes 36 products a pair of
// channels instead of 144. Inputs, weights and sums are transformed a block at a time in the second cache and never stored as a whole: to
// transform them again for the next block costs less than to read them back from memory, and needs no memory.
//
// Interpolation points 0, +-P, +-Q and infinity with P = 5/8 and Q = 3/2: the relative error of a result is about 1e-6, half of what the
// customary +-1, +-2 give (Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution for DNNs, 2020).
#include "CKernels.h"
#include "convolution.h"
#include "vector.h"

#define P 0.625f
#define Q 1.5f
#define PP (P * P)
#define QQ (Q * Q)

enum {
    TILE = 4,      // outputs of a tile on a side
    PATCH = 6,     // inputs of a tile on a side
    POINTS = 36,   // products of a tile
    SPREAD = 16,   // keeps the planes of the points from falling into the same lines of a cache
};

// B'd of one column or row: six inputs into six points.
#define TRANSFORM_INPUT(d0, d1, d2, d3, d4, d5, v0, v1, v2, v3, v4, v5)                                                                      \
    do {                                                                                                                                     \
        const vf evenP_ = (d4) - QQ * (d2), oddP_ = P * ((d3) - QQ * (d1)), evenQ_ = (d4) - PP * (d2), oddQ_ = Q * ((d3) - PP * (d1));       \
        (v0) = (d4) - (PP + QQ) * (d2) + PP * QQ * (d0);                                                                                     \
        (v1) = evenP_ + oddP_;                                                                                                               \
        (v2) = evenP_ - oddP_;                                                                                                               \
        (v3) = evenQ_ + oddQ_;                                                                                                               \
        (v4) = evenQ_ - oddQ_;                                                                                                               \
        (v5) = (d5) - (PP + QQ) * (d3) + PP * QQ * (d1);                                                                                     \
    } while (0)

// G g of one column or row: three taps into six points.
#define TRANSFORM_TAPS(g0, g1, g2, u0, u1, u2, u3, u4, u5)                                                                                   \
    do {                                                                                                                                     \
        const float atP_ = 1.0f / (2.0f * PP * (PP - QQ)), atQ_ = 1.0f / (2.0f * QQ * (QQ - PP));                                            \
        const vf evenP_ = atP_ * (g0) + (PP * atP_) * (g2), evenQ_ = atQ_ * (g0) + (QQ * atQ_) * (g2);                                       \
        (u0) = (1.0f / (PP * QQ)) * (g0);                                                                                                    \
        (u1) = evenP_ + (P * atP_) * (g1);                                                                                                   \
        (u2) = evenP_ - (P * atP_) * (g1);                                                                                                   \
        (u3) = evenQ_ + (Q * atQ_) * (g1);                                                                                                   \
        (u4) = evenQ_ - (Q * atQ_) * (g1);                                                                                                   \
        (u5) = (g2);                                                                                                                         \
    } while (0)

// A'm of one column or row: six points into four outputs.
#define TRANSFORM_SUMS(m0, m1, m2, m3, m4, m5, y0, y1, y2, y3)                                                                               \
    do {                                                                                                                                     \
        const vf evenP_ = (m1) + (m2), oddP_ = (m1) - (m2), evenQ_ = (m3) + (m4), oddQ_ = (m3) - (m4);                                       \
        (y0) = (m0) + evenP_ + evenQ_;                                                                                                       \
        (y1) = P * oddP_ + Q * oddQ_;                                                                                                        \
        (y2) = PP * evenP_ + QQ * evenQ_;                                                                                                    \
        (y3) = (m5) + (P * PP) * oddP_ + (Q * QQ) * oddQ_;                                                                                   \
    } while (0)

// The compiler wants to have seen a function before it makes clones of it.
static void transform_inputs(
    const ck_winograd *s, const float *x, long tile, long tiles, long input, long inputs, float *v, long plane);
static void transform_weights(
    const ck_winograd *s, const float *weights, long output, long outputs, long input, long inputs, float *u, long plane);
static void transform_sums(
    const ck_winograd *s, const float *sums, long plane, long stride, const float *bias, float *y, int accumulate, long tile, long tiles,
    long output, long outputs);

long ck_winograd_tiles(const ck_winograd *s) { return s->batch * ((s->outHeight + 3) / TILE) * ((s->outWidth + 3) / TILE); }

static long input_plane(long tiles) { return tiles * DEPTH + SPREAD; }
static long weight_plane(long outputs) { return ck_rounded(outputs, PANEL) * DEPTH + SPREAD; }
static long sum_plane(long tiles, long outputs) { return tiles * ck_rounded(outputs, PANEL) + SPREAD; }

long ck_winograd_scratch(long tiles, long outputs) {
    return POINTS * (input_plane(tiles) + weight_plane(outputs) + sum_plane(tiles, outputs));
}

// Tiles `tile`... of inputs `input`... into v[point][tile][DEPTH].
CK_CLONES static void transform_inputs(
    const ck_winograd *s, const float *x, long tile, long tiles, long input, long inputs, float *v, long plane) {
    static const float zeros[DEPTH] = {0};
    const long across = (s->outWidth + 3) / TILE, down = (s->outHeight + 3) / TILE;
    for (long t = 0; t < tiles; t++, v += DEPTH) {
        const long b = (tile + t) / (across * down), h0 = (tile + t) / across % down * TILE - s->padding;
        const long w0 = (tile + t) % across * TILE - s->padding;
        const float *image = x + b * s->height * s->width * s->inputs + input;
        const float *from[PATCH][PATCH];
        for (long i = 0; i < PATCH; i++)
            for (long j = 0; j < PATCH; j++) {
                const long h = h0 + i, w = w0 + j;
                from[i][j] = h < 0 || h >= s->height || w < 0 || w >= s->width ? zeros : image + (h * s->width + w) * s->inputs;
            }
        for (long c = 0; c < inputs; c += CK_LANES) {
            vf half[PATCH][PATCH];
            if (inputs - c >= CK_LANES) {
#pragma clang loop unroll(full)
                for (int j = 0; j < PATCH; j++)
                    TRANSFORM_INPUT(
                        CK_LOAD(from[0][j] + c), CK_LOAD(from[1][j] + c), CK_LOAD(from[2][j] + c), CK_LOAD(from[3][j] + c),
                        CK_LOAD(from[4][j] + c), CK_LOAD(from[5][j] + c), half[0][j], half[1][j], half[2][j], half[3][j], half[4][j],
                        half[5][j]);
            } else {
                for (int j = 0; j < PATCH; j++) {
                    vf d[PATCH];
                    for (int i = 0; i < PATCH; i++) CK_LOAD_PART(d[i], from[i][j] + c, inputs - c, 0.0f);
                    TRANSFORM_INPUT(
                        d[0], d[1], d[2], d[3], d[4], d[5], half[0][j], half[1][j], half[2][j], half[3][j], half[4][j], half[5][j]);
                }
            }
#pragma clang loop unroll(full)
            for (int i = 0; i < PATCH; i++) {
                vf p[PATCH];
                TRANSFORM_INPUT(
                    half[i][0], half[i][1], half[i][2], half[i][3], half[i][4], half[i][5], p[0], p[1], p[2], p[3], p[4], p[5]);
#pragma clang loop unroll(full)
                for (int j = 0; j < PATCH; j++) CK_STORE(v + (i * PATCH + j) * plane + c, p[j]);
            }
        }
    }
}

// Weights from inputs `input`... to outputs `output`... into u[point][panel][DEPTH][PANEL]; columns behind the outputs hold anything finite.
CK_CLONES static void transform_weights(
    const ck_winograd *s, const float *weights, long output, long outputs, long input, long inputs, float *u, long plane) {
    const int byInput = s->inputStride > s->outputStride;
    const long groups = (outputs + CK_LANES - 1) / CK_LANES;
    // The inner loop walks along memory.
    for (long outer = 0; outer < (byInput ? inputs : groups); outer++)
        for (long inner = 0; inner < (byInput ? groups : inputs); inner++) {
            const long k = byInput ? outer : inner, first = (byInput ? inner : outer) * CK_LANES;
            const float *rows[CK_LANES];
            for (long l = 0; l < CK_LANES; l++) {
                const long o = output + (first + l < outputs ? first + l : outputs - 1);
                rows[l] = weights + o * s->outputStride + (input + k) * s->inputStride;
            }
            vf g[9], half[PATCH][3], unused0, unused1, unused2;
            TURN(rows, 0, g[0], g[1], g[2], g[3]);
            TURN(rows, 4, g[4], g[5], g[6], g[7]);
            TURN(rows, 5, unused0, unused1, unused2, g[8]);
            (void)unused0, (void)unused1, (void)unused2;
            if (s->flipped) {
                for (int i = 0; i < 4; i++) {
                    const vf swap = g[i];
                    g[i] = g[8 - i];
                    g[8 - i] = swap;
                }
            }
#pragma clang loop unroll(full)
            for (int j = 0; j < 3; j++)
                TRANSFORM_TAPS(g[j], g[3 + j], g[6 + j], half[0][j], half[1][j], half[2][j], half[3][j], half[4][j], half[5][j]);
            float *into = u + first / PANEL * PANEL * DEPTH + k * PANEL + first % PANEL;
#pragma clang loop unroll(full)
            for (int i = 0; i < PATCH; i++) {
                vf p[PATCH];
                TRANSFORM_TAPS(half[i][0], half[i][1], half[i][2], p[0], p[1], p[2], p[3], p[4], p[5]);
#pragma clang loop unroll(full)
                for (int j = 0; j < PATCH; j++) CK_STORE(into + (i * PATCH + j) * plane, p[j]);
            }
        }
}

CK_CLONES static void transform_sums(
    const ck_winograd *s, const float *sums, long plane, long stride, const float *bias, float *y, int accumulate, long tile, long tiles,
    long output, long outputs) {
    const long across = (s->outWidth + 3) / TILE, down = (s->outHeight + 3) / TILE;
    for (long t = 0; t < tiles; t++, sums += stride) {
        const long b = (tile + t) / (across * down), h0 = (tile + t) / across % down * TILE, w0 = (tile + t) % across * TILE;
        const long height = s->outHeight - h0 < TILE ? s->outHeight - h0 : TILE, width = s->outWidth - w0 < TILE ? s->outWidth - w0 : TILE;
        float *image = y + ((b * s->outHeight + h0) * s->outWidth + w0) * s->outputs + output;
        for (long c = 0; c < outputs; c += CK_LANES) {
            const long n = outputs - c < CK_LANES ? outputs - c : CK_LANES;
            vf half[TILE][PATCH];
#pragma clang loop unroll(full)
            for (int j = 0; j < PATCH; j++) {
                const float *m = sums + j * plane + c;
                TRANSFORM_SUMS(
                    CK_LOAD(m), CK_LOAD(m + PATCH * plane), CK_LOAD(m + 2 * PATCH * plane), CK_LOAD(m + 3 * PATCH * plane),
                    CK_LOAD(m + 4 * PATCH * plane), CK_LOAD(m + 5 * PATCH * plane), half[0][j], half[1][j], half[2][j], half[3][j]);
            }
            vf shift = CK_SPLAT(0.0f);
            if (bias && n == CK_LANES) shift = CK_LOAD(bias + output + c);
            else if (bias) CK_LOAD_PART(shift, bias + output + c, n, 0.0f);
            for (long i = 0; i < height; i++) {
                vf o[TILE];
                TRANSFORM_SUMS(half[i][0], half[i][1], half[i][2], half[i][3], half[i][4], half[i][5], o[0], o[1], o[2], o[3]);
                for (long j = 0; j < width; j++) {
                    float *into = image + (i * s->outWidth + j) * s->outputs + c;
                    vf v = o[j] + shift;
                    if (n == CK_LANES) {
                        if (accumulate) v += CK_LOAD(into);
                        CK_STORE(into, v);
                    } else {
                        vf old = CK_SPLAT(0.0f);
                        if (accumulate) CK_LOAD_PART(old, into, n, 0.0f);
                        v += old;
                        CK_STORE_PART(into, v, n);
                    }
                }
            }
        }
    }
}

void ck_winograd_part(
    const ck_winograd *s, const float *x, const float *weights, const float *bias, float *y, int accumulate, long tile, long tiles,
    long output, long outputs, float *scratch) {
    const long inputPlane = input_plane(tiles), weightPlane = weight_plane(outputs), sumPlane = sum_plane(tiles, outputs);
    const long stride = ck_rounded(outputs, PANEL);
    float *v = scratch, *u = v + POINTS * inputPlane, *sums = u + POINTS * weightPlane;
    for (long input = 0; input < s->inputs; input += DEPTH) {
        const long depth = s->inputs - input < DEPTH ? s->inputs - input : DEPTH;
        transform_inputs(s, x, tile, tiles, input, depth, v, inputPlane);
        transform_weights(s, weights, output, outputs, input, depth, u, weightPlane);
        for (long p = 0; p < POINTS; p++)
            ck_block_products(
                v + p * inputPlane, u + p * weightPlane, depth, sums + p * sumPlane, stride, tiles, outputs, input > 0);
    }
    transform_sums(s, sums, sumPlane, stride, bias, y, accumulate, tile, tiles, output, outputs);
}
