import Glibc
import Testing

@testable import Tensors

@Suite struct ImageOperationTests {
    @Test func groupNormGradients() {
        checkGradients(normals([2, 2, 3, 6], [6], [6]), tolerance: 1e-2) { groupNorm($0[0], $0[1], $0[2], groups: 3, eps: 1e-5) }
        checkGradients(normals([2, 2, 3, 6], [6], [6]), tolerance: 1e-2) {
            groupNorm($0[0], $0[1], $0[2], groups: 2, eps: 1e-5, activation: .silu)
        }
        checkGradients(normals([1, 4, 40], [40], [40]), tolerance: 1e-2) {
            groupNorm($0[0], $0[1], $0[2], groups: 4, eps: 1e-5, activation: .silu)
        }
        checkGradients(normals([2, 16], [16], [16]), tolerance: 1e-2) {
            groupNorm($0[0], $0[1], $0[2], groups: 2, eps: 1e-5, activation: .sigmoid)
        }
    }

    /// Large enough for several parts; a mean far from zero, where single precision sums of squares would fail.
    @Test(arguments: [Float(0), 100]) func groupNormMeetsItsFormula(_ mean: Float) {
        let (batch, positions, channels, groups) = (2, 900, 96, 32)
        let t = normals([batch, 30, 30, channels], [channels], [channels]).enumerated().map { $0 == 0 ? $1 + mean : $1 }
        let (x, w, b) = (t[0].array, t[1].array, t[2].array)
        let width = channels / groups
        let expected = Tensor(shape: t[0].shape) { out in
            for n in 0..<batch {
                for g in 0..<groups {
                    let places = (0..<positions * width).map { (n * positions + $0 / width) * channels + g * width + $0 % width }
                    let mean = places.reduce(0.0) { $0 + Double(x[$1]) } / Double(places.count)
                    let spread = places.reduce(0.0) { $0 + (Double(x[$1]) - mean) * (Double(x[$1]) - mean) } / Double(places.count)
                    for p in places {
                        let v = (Double(x[p]) - mean) / (spread + 1e-6).squareRoot() * Double(w[p % channels]) + Double(b[p % channels])
                        out[p] = Float(v / (1 + exp(-v)))
                    }
                }
            }
        }
        let v = t.map { Variable($0) }
        let fused = groupNorm(v[0], v[1], v[2], groups: groups, eps: 1e-6, activation: .silu).tensor
        #expect(fused.relativeError(to: expected) < (mean == 0 ? 1e-6 : 2e-5))
        #expect(silu(groupNorm(v[0], v[1], v[2], groups: groups, eps: 1e-6)).tensor.relativeError(to: fused) < 1e-6)
    }

    @Test func groupNormDoesNotDependOnTheNumberOfThreads() {
        let t = normals([2, 40, 40, 64], [64], [64], [2, 40, 40, 64])
        func pass(_ threads: Int) -> [Tensor] {
            let before = NumericThreads.count
            NumericThreads.count = threads
            defer { NumericThreads.count = before }
            let v = t[..<3].map { Variable($0, requiresGradient: true) }
            let y = groupNorm(v[0], v[1], v[2], groups: 32, eps: 1e-5, activation: .silu)
            y.backward(t[3])
            return [y.tensor] + v.map { $0.gradient! }
        }
        #expect(pass(1) == pass(3))
    }

    @Test func upsamplingRepeatsPixels() {
        let x = Variable(Tensor([1, 2, 3, 4, 5, 6], shape: [1, 2, 3, 1]))
        #expect(
            upsampleNearest(x, height: 4, width: 6).tensor.array.map(Int.init) == [
                1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 4, 4, 5, 5, 6, 6,
            ])
        // floor(i * 3 / 5), floor(i * 2 / 3), as torch.nn.functional.interpolate has it.
        #expect(upsampleNearest(x, height: 3, width: 5).tensor.array.map(Int.init) == [1, 1, 2, 2, 3, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6])
        checkGradients(normals([2, 3, 4, 5])) { upsampleNearest($0[0], height: 6, width: 8) }
        checkGradients(normals([1, 3, 2, 17])) { upsampleNearest($0[0], height: 7, width: 3) }
        checkGradients(normals([1, 4, 4, 3])) { upsampleNearest($0[0], height: 2, width: 3) }
    }

    @Test func gegluMultipliesByTheExactGELU() {
        checkGradients(normals([2, 3, 10])) { geglu($0[0]) }
        checkGradients(normals([4, 38])) { geglu($0[0]) }
        let x = normals([50, 80])[0]
        let y = geglu(Variable(x)).tensor
        let expected = Tensor(shape: [50, 40]) { out in
            for i in out.indices {
                let b = Double(x[i / 40, 40 + i % 40])
                out[i] = Float(Double(x[i / 40, i % 40]) * b * 0.5 * (1 + erf(b / 2.0.squareRoot())))
            }
        }
        #expect(y.relativeError(to: expected) < 1e-6)
    }
}
