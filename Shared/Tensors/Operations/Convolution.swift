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
            height: height, width: width, inputs: inputs, outputs: outputs, kernelHeight: kernelHeight, kernelWidth: kernelWidth,
            stride: stride, padding: padding, outHeight: outHeight, outWidth: outWidth)
    }

    // The products with the matrix of patches, of which a block of at most this many floats exists at a time (in a thread).
    private static let patchBlock = 1 << 19
    /// About 20 MFLOP are worth a part of their own.
    private static let partWork = 10_000_000

    func forward(_ x: Tensor, _ weight: Tensor, _ bias: Tensor?) -> Tensor {
        let result = Tensor(uninitialized: [batch, outHeight, outWidth, outputs])
        if let plan = WinogradPlan(self, gradient: false) {
            plan.run(x.pointer, weight.pointer, bias?.pointer, result.mutablePointer, adds: false)
            withExtendedLifetime((x, weight, bias)) {}
            return result
        }
        let row = inputs * taps
        let pixelsPerPart = min(pixels, max(32, min(Self.patchBlock, max(Self.partWork / max(outputs, 1), row * 32)) / max(row, 1)))
        let pixelParts = (pixels + pixelsPerPart - 1) / pixelsPerPart
        // Small images: the outputs are divided as well, down to as many as keep the patches cheap beside the product.
        let outputsPerPart = max(min(outputs, 128), (outputs * batch * pixelParts + 15) / 16)
        let outputParts = (outputs + outputsPerPart - 1) / outputsPerPart
        forEachIndex(batch * pixelParts * outputParts) { index in
            let b = index / (pixelParts * outputParts)
            let pixel = index / outputParts % pixelParts * pixelsPerPart
            let count = min(pixelsPerPart, pixels - pixel)
            let output = index % outputParts * outputsPerPart
            let width = min(outputsPerPart, outputs - output)
            let patches = Tensor(uninitialized: [count, row])
            var shape = sizes
            ck_patches(&shape, x.pointer + b * height * self.width * inputs, 0, inputs, pixel, count, patches.mutablePointer)
            let target = result.mutablePointer + (b * pixels + pixel) * outputs + output
            if let bias {
                for p in 0..<count { (target + p * outputs).update(from: bias.pointer + output, count: width) }
            }
            BLAS.multiply(
                transposeB: true, m: count, n: width, k: row, patches.pointer, lda: row, weight.pointer + output * row, ldb: row,
                beta: bias == nil ? 0 : 1, target, ldc: outputs)
        }
        withExtendedLifetime((x, weight, bias)) {}
        return result
    }

    /// `input` and `matrix` are nil where the gradient that needs them is not wanted.
    func backward(_ gradient: Tensor, input: Tensor?, matrix: Tensor?, _ variables: [Variable]) {
        if let matrix { variables[0].accumulateInPlace { inputGradient(gradient, matrix, $0, adds: $1) } }
        if let input { variables[1].accumulateInPlace { weightGradient(gradient, input, $0, adds: $1) } }
        if variables.count > 2 {
            variables[2].accumulateInPlace { ck_column_sums(gradient.pointer, $0, batch * pixels, outputs, $1 ? 1 : 0) }
        }
        withExtendedLifetime(gradient) {}
    }

    /// A part is a range of input channels, which no other part writes; patches are made for it alone.
    private func forChannelParts(_ body: (_ channel: Int, _ channels: Int, _ pixelsPerBlock: Int) -> Void) {
        let work = batch * pixels * outputs * taps
        let channelsPerPart = min(max(8, Self.partWork / max(work, 1)), 128)
        let pixelsPerBlock = max(32, min(pixels, Self.patchBlock / (channelsPerPart * taps)))
        forEachIndex((inputs + channelsPerPart - 1) / channelsPerPart) { part in
            let channel = part * channelsPerPart
            body(channel, min(channelsPerPart, inputs - channel), pixelsPerBlock)
        }
    }

    private func inputGradient(_ gradient: Tensor, _ weight: Tensor, _ target: UnsafeMutablePointer<Float>, adds: Bool) {
        if let plan = WinogradPlan(self, gradient: true) {
            plan.run(gradient.pointer, weight.pointer, nil, target, adds: adds)
            return
        }
        if !adds { forElements(batch * height * width * inputs) { ck_fill(target + $0.lowerBound, 0, $0.count) } }
        forChannelParts { channel, channels, pixelsPerBlock in
            let row = channels * taps
            let patches = Tensor(uninitialized: [pixelsPerBlock, row])
            var shape = sizes
            for b in 0..<batch {
                for pixel in Swift.stride(from: 0, to: pixels, by: pixelsPerBlock) {
                    let count = min(pixelsPerBlock, pixels - pixel)
                    BLAS.multiply(
                        m: count, n: row, k: outputs, gradient.pointer + (b * pixels + pixel) * outputs, lda: outputs,
                        weight.pointer + channel * taps, ldb: inputs * taps, beta: 0, patches.mutablePointer, ldc: row)
                    ck_add_patches(&shape, patches.pointer, channel, channels, pixel, count, target + b * height * width * inputs)
                }
            }
        }
        withExtendedLifetime((gradient, weight)) {}
    }

    private func weightGradient(_ gradient: Tensor, _ input: Tensor, _ target: UnsafeMutablePointer<Float>, adds: Bool) {
        forChannelParts { channel, channels, pixelsPerBlock in
            let row = channels * taps
            let patches = Tensor(uninitialized: [pixelsPerBlock, row])
            var shape = sizes
            for b in 0..<batch {
                for pixel in Swift.stride(from: 0, to: pixels, by: pixelsPerBlock) {
                    let count = min(pixelsPerBlock, pixels - pixel)
                    ck_patches(&shape, input.pointer + b * height * width * inputs, channel, channels, pixel, count, patches.mutablePointer)
                    BLAS.multiply(
                        transposeA: true, m: outputs, n: row, k: count, gradient.pointer + (b * pixels + pixel) * outputs, lda: outputs,
                        patches.pointer, ldb: row, beta: adds || b > 0 || pixel > 0 ? 1 : 0, target + channel * taps, ldc: inputs * taps)
                }
            }
        }
        withExtendedLifetime((gradient, input)) {}
    }
}
