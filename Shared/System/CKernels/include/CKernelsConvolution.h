// Kernels of the channels-last image operations: images are [height, width, channels], weights [outputs, inputs, kernelHeight, kernelWidth].
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// ---- convolution.c: any convolution as products of pixels with the weights of a tap
/// The sizes of a two-dimensional convolution: images [batch, height, width, inputs] to [batch, outHeight, outWidth, outputs].
typedef struct {
    long batch, height, width, inputs, outputs, kernelHeight, kernelWidth, stride, padding, outHeight, outWidth;
} ck_convolution;
/// Channels of the source that are multiplied together. Where all taps of a pixel have fewer, they make one row.
enum { CK_CONVOLUTION_DEPTH = 48 };
/// Pixels of the results of `ck_convolve_part` that are computed together, a block of `stride` squared where it is the adjoint.
long ck_convolution_cells(const ck_convolution *shape, int adjoint);
/// Floats of scratch that `ck_convolve_part` needs for so many cells and results.
long ck_convolution_scratch(const ck_convolution *shape, int adjoint, long cells, long results);
/// The convolution: y (+)= conv(x) (+ bias, unless null), results being outputs; or its adjoint: the gradient y of the input (+)= that of the
/// output x, results being inputs. Some cells and results of the batch.
void ck_convolve_part(
    const ck_convolution *shape, int adjoint, const float *x, const float *weights, const float *bias, float *y, int accumulate, long cell,
    long cells, long result, long results, float *scratch);
/// columns[p, (tap, c)] = the input that a tap of output pixel `pixel + p` of an image meets in channel `channel + c`, zero outside the image.
void ck_patches(const ck_convolution *shape, const float *x, long channel, long channels, long pixel, long pixels, float *columns);
/// weights[r * stride + (c, tap)] (+)= sums[r, (tap, c)]
void ck_add_taps(const float *sums, long rows, long taps, long channels, float *weights, long stride, int accumulate);

// ---- winograd.c: kernels of three by three with stride one, four by four outputs at a time
/// Such a convolution, or its input gradient (whose inputs are the outputs of the convolution).
typedef struct {
    long batch, height, width, inputs, outputs, padding, outHeight, outWidth;
    /// Tap t of the weight from input i to output o is weights[o * outputStride + i * inputStride + (flipped ? 8 - t : t)].
    long outputStride, inputStride;
    int flipped;
} ck_winograd;
/// Tiles of four by four outputs that a batch has.
long ck_winograd_tiles(const ck_winograd *shape);
/// Tiles and outputs that a part may have: as many as keep what it transforms in the second cache (1.5 MB).
enum { CK_WINOGRAD_TILES = 64, CK_WINOGRAD_OUTPUTS = 64 };
/// Floats of scratch that `ck_winograd_part` needs.
long ck_winograd_scratch(void);
/// y (+)= the convolution of x (+ bias, unless null) for some tiles and outputs of the batch.
void ck_winograd_part(
    const ck_winograd *shape, const float *x, const float *weights, const float *bias, float *y, int accumulate, long tile, long tiles,
    long output, long outputs, float *scratch);

// ---- groupnorm.c: x is rows of `channels`; groups are neighbouring channels
/// sums[c] = sum of x[r, c], squares[c] = sum of x[r, c]^2
void ck_channel_sums(const float *x, double *sums, double *squares, long rows, long channels);
/// y[r, c] = f(x[r, c] * scales[c] + shifts[c]) with f the identity, or x sigmoid(x) where silu != 0
void ck_scale_shift(const float *x, const float *scales, const float *shifts, int silu, float *y, long rows, long channels);
/// With g = dy f'(x * scales + shifts):  sums[c] = sum of g,  products[c] = sum of g x
void ck_scale_shift_sums(
    const float *x, const float *dy, const float *scales, const float *shifts, int silu, double *sums, double *products, long rows,
    long channels);
/// dx[r, c] (+)= g scales[c] + x[r, c] slopes[c] + offsets[c]
void ck_group_norm_backward(
    const float *x, const float *dy, const float *scales, const float *shifts, int silu, const float *slopes, const float *offsets,
    float *dx, int accumulate, long rows, long channels);

#ifdef __cplusplus
}
#endif
