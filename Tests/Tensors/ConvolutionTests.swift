import Testing

@testable import Tensors

@Suite struct ConvolutionTests {
    /// A layer of images, for the naive sums below.
    struct Layer: Sendable, CustomTestStringConvertible {
        var batch = 1
        let height, width, inputs, outputs: Int
        var kernel = [3, 3]
        var stride = 1
        var padding = 1

        var testDescription: String {
            "\(batch)x\(height)x\(width), \(inputs) to \(outputs), \(kernel), stride \(stride), padding \(padding)"
        }
        var outHeight: Int { (height + 2 * padding - kernel[0]) / stride + 1 }
        var outWidth: Int { (width + 2 * padding - kernel[1]) / stride + 1 }
        var tensors: [Tensor] {
            normals([batch, height, width, inputs], [outputs, inputs] + kernel, [outputs], [batch, outHeight, outWidth, outputs])
        }

        /// Calls body(index into x, index into the weight, index into y) for every product of the definition.
        func forEachProduct(_ body: (Int, Int, Int) -> Void) {
            for b in 0..<batch {
                for oh in 0..<outHeight {
                    for ow in 0..<outWidth {
                        for kh in 0..<kernel[0] {
                            for kw in 0..<kernel[1] {
                                let (h, w) = (oh * stride + kh - padding, ow * stride + kw - padding)
                                if h < 0 || h >= height || w < 0 || w >= width { continue }
                                for o in 0..<outputs {
                                    for i in 0..<inputs {
                                        body(
                                            ((b * height + h) * width + w) * inputs + i,
                                            ((o * inputs + i) * kernel[0] + kh) * kernel[1] + kw,
                                            ((b * outHeight + oh) * outWidth + ow) * outputs + o)
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The definition in double precision: the result for x, weight, bias, and the gradients for a gradient of the result.
    static func naive(_ layer: Layer, _ t: [Tensor]) -> [Tensor] {
        let (x, w, bias, d) = (t[0].array, t[1].array, t[2].array, t[3].array)
        var y = d.indices.map { Double(bias[$0 % layer.outputs]) }
        var dx = [Double](repeating: 0, count: x.count)
        var dw = [Double](repeating: 0, count: w.count)
        var db = [Double](repeating: 0, count: bias.count)
        layer.forEachProduct { i, k, o in
            y[o] += Double(x[i]) * Double(w[k])
            dx[i] += Double(w[k]) * Double(d[o])
            dw[k] += Double(x[i]) * Double(d[o])
        }
        for (o, value) in d.enumerated() { db[o % layer.outputs] += Double(value) }
        return zip([y, dx, dw, db], [t[3], t[0], t[1], t[2]]).map { Tensor($0.map { Float($0) }, shape: $1.shape) }
    }

    static func expectTheDefinition(_ layer: Layer, within tolerance: Float = 3e-6, sourceLocation: SourceLocation = #_sourceLocation) {
        let t = layer.tensors
        let expected = naive(layer, t)
        let v = t[..<3].map { Variable($0, requiresGradient: true) }
        let y = conv2d(v[0], v[1], v[2], stride: layer.stride, padding: layer.padding)
        y.backward(t[3])
        let found = [y.tensor] + v.map { $0.gradient! }
        for (name, pair) in zip(["result", "input gradient", "weight gradient", "bias gradient"], zip(found, expected)) {
            let error = pair.0.relativeError(to: pair.1)
            #expect(error < tolerance, "\(name) of \(layer.testDescription): \(error)", sourceLocation: sourceLocation)
        }
    }

    @Test(arguments: [
        Layer(batch: 2, height: 8, width: 8, inputs: 32, outputs: 48), Layer(height: 13, width: 9, inputs: 20, outputs: 33),
        Layer(height: 16, width: 16, inputs: 64, outputs: 64), Layer(batch: 3, height: 5, width: 7, inputs: 40, outputs: 24),
        Layer(height: 33, width: 31, inputs: 16, outputs: 16), Layer(height: 1, width: 1, inputs: 17, outputs: 18),
        Layer(height: 12, width: 12, inputs: 4, outputs: 32), Layer(height: 12, width: 12, inputs: 32, outputs: 4),
        Layer(height: 10, width: 11, inputs: 24, outputs: 32, padding: 0), Layer(height: 6, width: 5, inputs: 24, outputs: 32, padding: 2),
        Layer(height: 8, width: 8, inputs: 150, outputs: 200),
    ])
    func aKernelOfThreeByThreeMeetsItsDefinition(_ layer: Layer) { Self.expectTheDefinition(layer) }

    /// Winograd's transforms cost less than a digit: a U-Net's convolutions one after another stay within 1e-4 of torch's.
    @Test func manyChannelsKeepSixDigits() {
        Self.expectTheDefinition(Layer(height: 8, width: 8, inputs: 320, outputs: 64), within: 1.5e-6)
        Self.expectTheDefinition(Layer(height: 4, width: 5, inputs: 64, outputs: 320), within: 1.5e-6)
    }

    @Test(arguments: [
        Layer(height: 2, width: 2, inputs: 32, outputs: 32), Layer(batch: 2, height: 16, width: 16, inputs: 32, outputs: 48, stride: 2),
        Layer(height: 15, width: 9, inputs: 12, outputs: 20, stride: 2),
        Layer(height: 14, width: 14, inputs: 16, outputs: 8, kernel: [1, 1], stride: 2, padding: 0),
        Layer(batch: 2, height: 9, width: 7, inputs: 12, outputs: 20, kernel: [1, 1], padding: 0),
        Layer(height: 9, width: 7, inputs: 12, outputs: 20, kernel: [1, 1], padding: 1),
        Layer(height: 11, width: 12, inputs: 6, outputs: 10, kernel: [5, 3], padding: 2),
        Layer(height: 11, width: 12, inputs: 6, outputs: 10, kernel: [4, 4], stride: 3, padding: 1),
        Layer(height: 64, width: 60, inputs: 40, outputs: 24, stride: 2),
    ])
    func otherKernelsAndStridesMeetTheirDefinition(_ layer: Layer) { Self.expectTheDefinition(layer) }

    /// Differences of the whole operation, each input alone and all at once, and twice (see `checkGradients`).
    @Test func gradientsWithAndWithoutBias() {
        checkGradients(normals([2, 5, 6, 3], [4, 3, 3, 3], [4])) { conv2d($0[0], $0[1], $0[2]) }
        checkGradients(normals([1, 4, 5, 16], [17, 16, 3, 3]).map { $0 * 0.3 }) { conv2d($0[0], $0[1]) }
        checkGradients(normals([1, 7, 6, 3], [4, 3, 3, 3], [4])) { conv2d($0[0], $0[1], $0[2], stride: 2) }
        checkGradients(normals([2, 3, 4, 5], [4, 5, 1, 1], [4])) { conv2d($0[0], $0[1], $0[2], padding: 0) }
    }

    /// Several parts in every direction, and the same bits whatever the number of threads.
    @Test func resultsDoNotDependOnTheNumberOfThreads() {
        for layer in [
            Layer(batch: 2, height: 32, width: 32, inputs: 96, outputs: 160),
            Layer(height: 64, width: 64, inputs: 48, outputs: 64, stride: 2),
        ] {
            let t = layer.tensors
            func pass(_ threads: Int) -> [Tensor] {
                let before = NumericThreads.count
                NumericThreads.count = threads
                defer { NumericThreads.count = before }
                let v = t[..<3].map { Variable($0, requiresGradient: true) }
                let y = conv2d(v[0], v[1], v[2], stride: layer.stride)
                y.backward(t[3])
                return [y.tensor] + v.map { $0.gradient! }
            }
            #expect(pass(1) == pass(3))
        }
    }
}
