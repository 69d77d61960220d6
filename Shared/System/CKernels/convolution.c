#include "CKernels.h"
#include "vector.h"

// The image row or column that tap k of output o meets.
#define PLACE(o, k) ((o) * s->stride + (k) - s->padding)

CK_CLONES void ck_patches(const ck_convolution *s, const float *x, long channel, long channels, long pixel, long pixels, float *columns) {
    const long taps = s->kernelHeight * s->kernelWidth;
    for (long p = 0; p < pixels; p++, columns += channels * taps) {
        const long oh = (pixel + p) / s->outWidth, ow = (pixel + p) % s->outWidth;
        for (long kh = 0; kh < s->kernelHeight; kh++)
            for (long kw = 0; kw < s->kernelWidth; kw++) {
                const long h = PLACE(oh, kh), w = PLACE(ow, kw);
                float *into = columns + kh * s->kernelWidth + kw;
                if (h < 0 || h >= s->height || w < 0 || w >= s->width) {
                    for (long c = 0; c < channels; c++) into[c * taps] = 0.0f;
                } else {
                    const float *from = x + (h * s->width + w) * s->inputs + channel;
                    for (long c = 0; c < channels; c++) into[c * taps] = from[c];
                }
            }
    }
}

CK_CLONES void ck_add_patches(
    const ck_convolution *s, const float *columns, long channel, long channels, long pixel, long pixels, float *x) {
    const long taps = s->kernelHeight * s->kernelWidth;
    for (long p = 0; p < pixels; p++, columns += channels * taps) {
        const long oh = (pixel + p) / s->outWidth, ow = (pixel + p) % s->outWidth;
        for (long kh = 0; kh < s->kernelHeight; kh++)
            for (long kw = 0; kw < s->kernelWidth; kw++) {
                const long h = PLACE(oh, kh), w = PLACE(ow, kw);
                if (h < 0 || h >= s->height || w < 0 || w >= s->width) continue;
                const float *from = columns + kh * s->kernelWidth + kw;
                float *into = x + (h * s->width + w) * s->inputs + channel;
                for (long c = 0; c < channels; c++) into[c] += from[c * taps];
            }
    }
}
