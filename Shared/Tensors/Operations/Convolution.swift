import CKernels

/// Two-dimensional convolution (correlation, as in torch) of channels-last images.
///
/// - Parameters:
///   - x: [B, H, W, Cin]
///   - weight: [Cout, Cin, kh, kw], the order torch stores it in
///   - bias: [Cout]
///   - padding: zeros added on every side
/// - Returns: [B, H', W', Cout] with H' = (H + 2 padding - kh) / stride + 1
public func conv2d(_ x: Variable, _ weight: Variable, _ bias: Variable? = nil, stride: Int = 1, padding: Int = 1) -> Variable {
    let shape = ConvolutionShape(x, weight, bias, stride: stride, padding: padding)
    if shape.isPointwise { return linear(x, reshape(weight, [shape.outputs, shape.inputs]), bias) }
    let result = Profile.measure("conv2d", flops: shape.flops) { shape.forward(x.tensor, weight.tensor, bias?.tensor) }
    let input = weight.requiresGradient ? x.tensor : nil
    let matrix = x.requiresGradient ? weight.tensor : nil
    return .operation(result, inputs: [x, weight] + (bias.map { [$0] } ?? [])) { gradient, inputs in
        let flops = shape.flops * Double((input == nil ? 0 : 1) + (matrix == nil ? 0 : 1))
        Profile.measure("conv2d backward", flops: flops) { shape.backward(gradient, input: input, matrix: matrix, inputs) }
    }
}

/// The sizes of a convolution, and its passes over plain tensors.
struct ConvolutionShape {
    let batch: Int
    let height: Int
    let width: Int
    let inputs: Int
    let outputs: Int
    let kernelHeight: Int
    let kernelWidth: Int
    let stride: Int
    let padding: Int
    let outHeight: Int
    let outWidth: Int

    init(_ x: Variable, _ weight: Variable, _ bias: Variable?, stride: Int, padding: Int) {
        precondition(x.shape.count == 4, "conv2d: x is [B, H, W, C], not \(x.shape)")
        precondition(weight.shape.count == 4, "conv2d: a weight is [out, in, height, width], not \(weight.shape)")
        precondition(x.shape[3] == weight.shape[1], "conv2d: x \(x.shape) does not fit the weight \(weight.shape)")
        precondition(stride > 0 && padding >= 0, "conv2d: stride \(stride), padding \(padding)")
        batch = x.shape[0]
        height = x.shape[1]
        width = x.shape[2]
        inputs = x.shape[3]
        outputs = weight.shape[0]
        kernelHeight = weight.shape[2]
        kernelWidth = weight.shape[3]
        self.stride = stride
        self.padding = padding
        precondition(
            kernelHeight > 0 && kernelWidth > 0 && height + 2 * padding >= kernelHeight && width + 2 * padding >= kernelWidth,
            "conv2d: a kernel \(weight.shape) is larger than x \(x.shape) with padding \(padding)")
        outHeight = (height + 2 * padding - kernelHeight) / stride + 1
        outWidth = (width + 2 * padding - kernelWidth) / stride + 1
        if let bias { precondition(bias.shape == [outputs], "conv2d: a bias of shape \(bias.shape) for \(outputs) outputs") }
    }

    var taps: Int { kernelHeight * kernelWidth }
    /// Output pixels of one image.
    var pixels: Int { outHeight * outWidth }
    var isPointwise: Bool { taps == 1 && stride == 1 && padding == 0 }
    /// Of one pass, by the definition (whatever the algorithm needs).
    var flops: Double { 2 * Double(batch * pixels) * Double(inputs * taps) * Double(outputs) }

    private var sizes: ck_convolution {
        ck_convolution(
            batch: batch, height: height, width: width, inputs: inputs, outputs: outputs, kernelHeight: kernelHeight,
            kernelWidth: kernelWidth, stride: stride, padding: padding, outHeight: outHeight, outWidth: outWidth)
    }

    func forward(_ x: Tensor, _ weight: Tensor, _ bias: Tensor?) -> Tensor {
        let result = Tensor(uninitialized: [batch, outHeight, outWidth, outputs])
        convolve(x, weight, bias, result.mutablePointer, adjoint: false, adds: false)
        return result
    }

    /// target (+)= the convolution of x (+ bias), or its adjoint: the gradient of the input for a gradient x of the output.
    private func convolve(
        _ x: Tensor, _ weight: Tensor, _ bias: Tensor?, _ target: UnsafeMutablePointer<Float>, adjoint: Bool, adds: Bool
    ) {
        defer { withExtendedLifetime((x, weight, bias)) {} }
        if let plan = WinogradPlan(self, adjoint: adjoint) {
            return plan.run(x.pointer, weight.pointer, bias?.pointer, target, adds: adds)
        }
        var sizes = sizes
        withUnsafePointer(to: &sizes) { sizes in
            let adjointFlag: Int32 = adjoint ? 1 : 0
            let cells = ck_convolution_cells(sizes, adjointFlag)
            let results = adjoint ? inputs : outputs
            // What a part gathers, and its sums, fit the second cache. Few channels (an image's, a latent's) are gathered for many results.
            let few = (adjoint ? outputs : inputs) * taps <= Int(CK_CONVOLUTION_DEPTH)
            let cellsPerPart = max(16, min(few ? 128 : 256, 2304 / taps, adjoint ? 1024 / (stride * stride) : 1024))
            let resultsPerPart = few ? 512 : 128
            let cellParts = (cells + cellsPerPart - 1) / cellsPerPart
            let resultParts = (results + resultsPerPart - 1) / resultsPerPart
            forEachIndex(cellParts * resultParts) { index in
                let cell = index % cellParts * cellsPerPart
                let result = index / cellParts * resultsPerPart
                let (cells, results) = (min(cellsPerPart, cells - cell), min(resultsPerPart, results - result))
                let scratch = Tensor(uninitialized: [ck_convolution_scratch(sizes, adjointFlag, cells, results)])
                ck_convolve_part(
                    sizes, adjointFlag, x.pointer, weight.pointer, bias?.pointer, target, adds ? 1 : 0, cell, cells, result, results,
                    scratch.mutablePointer)
                withExtendedLifetime(scratch) {}
            }
        }
    }

    /// `input` and `matrix` are nil where the gradient that needs them is not wanted.
    func backward(_ gradient: Tensor, input: Tensor?, matrix: Tensor?, _ variables: [Node]) {
        if let matrix { variables[0].accumulateInPlace { convolve(gradient, matrix, nil, $0, adjoint: true, adds: $1) } }
        if let input { variables[1].accumulateInPlace { weightGradient(gradient, input, $0, adds: $1) } }
        if variables.count > 2 {
            variables[2].accumulateInPlace { ck_column_sums(gradient.pointer, $0, batch * pixels, outputs, $1 ? 1 : 0) }
        }
        withExtendedLifetime(gradient) {}
    }

    /// A part is a range of input channels, whose weights no other part writes; blocks of at most this many floats of patches are made for it.
    private static let patchBlock = 1 << 17

    private func weightGradient(_ gradient: Tensor, _ input: Tensor, _ target: UnsafeMutablePointer<Float>, adds: Bool) {
        let channelsPerPart = max(4, min(inputs, 288 / taps))
        let pixelsPerBlock = max(32, min(pixels, Self.patchBlock / (channelsPerPart * taps)))
        forEachIndex((inputs + channelsPerPart - 1) / channelsPerPart) { part in
            let channel = part * channelsPerPart
            let channels = min(channelsPerPart, inputs - channel)
            let row = channels * taps
            let scratch = Tensor(uninitialized: [pixelsPerBlock + outputs, row])
            let (patches, sums) = (scratch.mutablePointer, scratch.mutablePointer + pixelsPerBlock * row)
            var shape = sizes
            ck_fill(sums, 0, outputs * row)
            for b in 0..<batch {
                for pixel in Swift.stride(from: 0, to: pixels, by: pixelsPerBlock) {
                    let count = min(pixelsPerBlock, pixels - pixel)
                    ck_patches(&shape, input.pointer + b * height * width * inputs, channel, channels, pixel, count, patches)
                    BLAS.multiply(
                        transposeA: true, m: outputs, n: row, k: count, gradient.pointer + (b * pixels + pixel) * outputs, lda: outputs,
                        patches, ldb: row, beta: 1, sums, ldc: row)
                }
            }
            ck_add_taps(sums, outputs, taps, channels, target + channel * taps, inputs * taps, adds ? 1 : 0)
            withExtendedLifetime(scratch) {}
        }
        withExtendedLifetime((gradient, input)) {}
    }
}
