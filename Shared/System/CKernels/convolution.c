// Convolutions of any size and stride, and their adjoints, as products of blocks of pixels with the weights of one tap after another.
#include "convolution.h"

// A cell is one output pixel; for the adjoint, the stride x stride pixels of the input that lie between the same output pixels. Of those,
// each pixel (a phase of the cell) meets taps of its own: it is a small convolution with stride one.
typedef struct {
    const ck_convolution *shape;
    int adjoint;
    long down, across;              // cells of an image
    long phases;                    // pixels of a cell on a side
    long height, width, channels;   // of the source
    long outHeight, outWidth, results;  // of the target
    long resultStride, channelStride;   // of the weights
    long taps;
    int merged;  // few channels: all taps of a pixel stand in one row
} plan;

static plan make_plan(const ck_convolution *s, int adjoint) {
    plan p = {.shape = s, .adjoint = adjoint, .taps = s->kernelHeight * s->kernelWidth};
    if (adjoint) {
        p.phases = s->stride;
        p.down = (s->height + s->stride - 1) / s->stride, p.across = (s->width + s->stride - 1) / s->stride;
        p.height = s->outHeight, p.width = s->outWidth, p.channels = s->outputs;
        p.outHeight = s->height, p.outWidth = s->width, p.results = s->inputs;
        p.resultStride = p.taps, p.channelStride = s->inputs * p.taps;
    } else {
        p.phases = 1;
        p.down = s->outHeight, p.across = s->outWidth;
        p.height = s->height, p.width = s->width, p.channels = s->inputs;
        p.outHeight = s->outHeight, p.outWidth = s->outWidth, p.results = s->outputs;
        p.resultStride = s->inputs * p.taps, p.channelStride = p.taps;
    }
    p.merged = p.channels * p.taps <= DEPTH;
    return p;
}

// Where on one axis the tap k meets the source for the phase f of the first cell (of the next cells: source_step further each); 0 where it
// never does.
static int first_source(const plan *p, long f, long k, long *source) {
    const long stride = p->shape->stride, padding = p->shape->padding;
    if (!p->adjoint) {
        *source = k - padding;
        return 1;
    }
    const long shifted = f + padding - k;
    *source = (shifted - ((shifted % stride) + stride) % stride) / stride;
    return shifted % stride == 0;
}
static long source_step(const plan *p) { return p->adjoint ? 1 : p->shape->stride; }

long ck_convolution_cells(const ck_convolution *s, int adjoint) {
    const plan p = make_plan(s, adjoint);
    return s->batch * p.down * p.across;
}

static long source_plane(long cells) { return cells * DEPTH; }
static long weight_plane(long results) { return ck_rounded(results, PANEL) * DEPTH; }

long ck_convolution_scratch(const ck_convolution *s, int adjoint, long cells, long results) {
    const plan p = make_plan(s, adjoint);
    const long planes = p.merged ? 1 : p.taps;
    return planes * (source_plane(cells) + weight_plane(results)) + p.phases * p.phases * cells * ck_rounded(results, PANEL);
}

// The compiler wants to have seen a function before it makes clones of it.
static int gather(
    const plan *p, const float *x, long cell, long cells, long channel, long channels, long fh, long fw, long kh, long kw, float *v);
static void turn_weights(
    const plan *p, const float *weights, long result, long results, long channel, long channels, float *u, long plane);
static void write_results(const float *sums, const float *bias, float *y, int accumulate, long results);

// The channels `channel`... that the cells meet at a tap, into rows of v; returns 0 where no cell meets any.
CK_CLONES static int gather(
    const plan *p, const float *x, long cell, long cells, long channel, long channels, long fh, long fw, long kh, long kw, float *v) {
    const long step = source_step(p);
    long top, left;
    if (!first_source(p, fh, kh, &top) || !first_source(p, fw, kw, &left)) return 0;
    long a = (cell / p->across) % p->down, b = cell % p->across, image = cell / (p->across * p->down);
    for (long i = 0; i < cells; i++, v += DEPTH) {
        const long h = top + a * step, w = left + b * step;
        if (h < 0 || h >= p->height || w < 0 || w >= p->width) {
            for (long c = 0; c < channels; c++) v[c] = 0.0f;
        } else {
            const float *from = x + ((image * p->height + h) * p->width + w) * p->channels + channel;
            if (channels == DEPTH)
                for (long c = 0; c < DEPTH; c += CK_LANES) CK_STORE(v + c, CK_LOAD(from + c));
            else
                for (long c = 0; c < channels; c++) v[c] = from[c];
        }
        if (++b == p->across) {
            b = 0;
            if (++a == p->down) a = 0, image++;
        }
    }
    return 1;
}

// Weights of the channels `channel`... and results `result`... into u[tap][panel][DEPTH][PANEL], where the taps are `plane` apart.
CK_CLONES static void turn_weights(
    const plan *p, const float *weights, long result, long results, long channel, long channels, float *u, long plane) {
    const int byChannel = p->channelStride > p->resultStride;
    const long groups = (results + CK_LANES - 1) / CK_LANES;
    // The inner loop walks along memory.
    for (long outer = 0; outer < (byChannel ? channels : groups); outer++)
        for (long inner = 0; inner < (byChannel ? groups : channels); inner++) {
            const long k = byChannel ? outer : inner, first = (byChannel ? inner : outer) * CK_LANES;
            const float *rows = weights + (result + first) * p->resultStride + (channel + k) * p->channelStride;
            const long left = results - first < CK_LANES ? results - first : CK_LANES;
            float *into = u + first / PANEL * PANEL * DEPTH + k * PANEL + first % PANEL;
            if (p->taps < 4 || left < CK_LANES) {
                for (long t = 0; t < p->taps; t++)
                    for (long l = 0; l < CK_LANES; l++) into[t * plane + l] = l < left ? rows[l * p->resultStride + t] : 0.0f;
                continue;
            }
            for (long t = 0; t < p->taps; t += 4) {
                vf g[4];
                const long from = t + 4 <= p->taps ? t : p->taps - 4;
                TURN(rows, p->resultStride, from, g[0], g[1], g[2], g[3]);
                for (long i = t - from; i < 4; i++) CK_STORE(into + (from + i) * plane, g[i]);
            }
        }
}

CK_CLONES static void write_results(const float *sums, const float *bias, float *y, int accumulate, long results) {
    for (long c = 0; c < results; c++) y[c] = sums[c] + (bias ? bias[c] : 0.0f) + (accumulate ? y[c] : 0.0f);
}

void ck_convolve_part(
    const ck_convolution *s, int adjoint, const float *x, const float *weights, const float *bias, float *y, int accumulate, long cell,
    long cells, long result, long results, float *scratch) {
    const plan p = make_plan(s, adjoint);
    const long planes = p.merged ? 1 : p.taps, stride = ck_rounded(results, PANEL), phases = p.phases * p.phases;
    const long sourcePlane = source_plane(cells), weightPlane = weight_plane(results);
    float *v = scratch, *u = v + planes * sourcePlane, *sums = u + planes * weightPlane;
    // A phase that meets no tap at all is zero.
    memset(sums, 0, sizeof(float) * (size_t)(phases * cells * stride));
    for (long channel = 0; channel < p.channels; channel += DEPTH) {
        const long channels = p.channels - channel < DEPTH ? p.channels - channel : DEPTH;
        turn_weights(&p, weights, result, results, channel, channels, u, p.merged ? channels * PANEL : weightPlane);
        for (long phase = 0; phase < phases; phase++) {
            const long fh = phase / p.phases, fw = phase % p.phases;
            float *into = sums + phase * cells * stride;
            for (long tap = 0; tap < p.taps; tap++) {
                const long kh = tap / s->kernelWidth, kw = tap % s->kernelWidth;
                float *row = v + tap * (p.merged ? channels : sourcePlane);
                const int meets = gather(&p, x, cell, cells, channel, channels, fh, fw, kh, kw, row);
                if (!p.merged) {
                    if (meets) ck_block_products(row, u + tap * weightPlane, channels, into, stride, cells, results, 1);
                } else if (!meets) {
                    for (long i = 0; i < cells; i++) memset(row + i * DEPTH, 0, sizeof(float) * (size_t)channels);
                }
            }
            if (p.merged) ck_block_products(v, u, channels * p.taps, into, stride, cells, results, 1);
        }
    }
    for (long phase = 0; phase < phases; phase++)
        for (long i = 0; i < cells; i++) {
            const long at = cell + i, image = at / (p.across * p.down);
            const long h = at / p.across % p.down * p.phases + phase / p.phases, w = at % p.across * p.phases + phase % p.phases;
            if (h < p.outHeight && w < p.outWidth)
                write_results(
                    sums + (phase * cells + i) * stride, bias ? bias + result : 0,
                    y + ((image * p.outHeight + h) * p.outWidth + w) * p.results + result, accumulate, results);
        }
}

CK_CLONES void ck_patches(const ck_convolution *s, const float *x, long channel, long channels, long pixel, long pixels, float *columns) {
    for (long p = 0; p < pixels; p++) {
        const long top = (pixel + p) / s->outWidth * s->stride - s->padding, left = (pixel + p) % s->outWidth * s->stride - s->padding;
        for (long h = top; h < top + s->kernelHeight; h++)
            for (long w = left; w < left + s->kernelWidth; w++, columns += channels) {
                const int inside = h >= 0 && h < s->height && w >= 0 && w < s->width;
                const float *from = x + (h * s->width + w) * s->inputs + channel;
                long c = 0;
                if (inside)
                    for (; c + CK_LANES <= channels; c += CK_LANES) CK_STORE(columns + c, CK_LOAD(from + c));
                else
                    for (; c + CK_LANES <= channels; c += CK_LANES) CK_STORE(columns + c, CK_SPLAT(0.0f));
                for (; c < channels; c++) columns[c] = inside ? from[c] : 0.0f;
            }
    }
}

CK_CLONES void ck_add_taps(const float *sums, long rows, long taps, long channels, float *weights, long stride, int accumulate) {
    for (long r = 0; r < rows; r++, sums += taps * channels, weights += stride)
        for (long c = 0; c < channels; c++)
            for (long t = 0; t < taps; t++) {
                const float v = sums[t * channels + c];
                weights[c * taps + t] = accumulate ? weights[c * taps + t] + v : v;
            }
}
