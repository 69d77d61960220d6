import Glibc
import Testing

@testable import Tensors

@Suite struct NormTests {
    @Test(arguments: [5, 16, 37]) func layerNormGradients(_ width: Int) {
        checkGradients(normals([2, 3, width], [width], [width]), tolerance: 1e-2) { layerNorm($0[0], $0[1], $0[2], eps: 1e-5) }
        checkGradients(normals([6, width], [width]), tolerance: 1e-2) { layerNorm($0[0], $0[1], nil, eps: 1e-5) }
        checkGradients(normals([6, width], [width]), tolerance: 1e-2) { layerNorm($0[0], nil, $0[1], eps: 1e-5) }
        checkGradients(normals([6, width]), tolerance: 1e-2) { layerNorm($0[0], eps: 1e-5) }
    }

    @Test(arguments: [5, 32]) func modulatedLayerNormGradients(_ width: Int) {
        checkGradients(normals([2, 3, width], [2, width], [2, width]), tolerance: 1e-2) {
            layerNormModulate($0[0], shift: $0[1], scale: $0[2], eps: 1e-6)
        }
        checkGradients(normals([2, 3, width], [2, 1, width], [2, 1, width]), tolerance: 1e-2) {
            layerNormModulate($0[0], shift: $0[1], scale: $0[2], eps: 1e-6)
        }
    }

    @Test(arguments: [5, 16, 37]) func rmsNormGradients(_ width: Int) {
        checkGradients(normals([2, 3, width], [width]), tolerance: 1e-2) { rmsNorm($0[0], $0[1], eps: 1e-6) }
        checkGradients(normals([6, width]), tolerance: 1e-2) { rmsNorm($0[0], eps: 1e-6) }
    }

    @Test func normsMeetTheirFormulas() {
        let (rows, width) = (700, 130)
        let t = normals([rows, width], [width], [width])
        let (x, w, b) = (t[0].array, t[1].array, t[2].array)
        func expected(centred: Bool) -> Tensor {
            Tensor(shape: [rows, width]) { out in
                for r in 0..<rows {
                    let row = x[r * width..<(r + 1) * width].map(Double.init)
                    let mean = centred ? row.reduce(0, +) / Double(width) : 0
                    let spread = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width)
                    for c in 0..<width {
                        out[r * width + c] = Float(
                            (row[c] - mean) / (spread + 1e-5).squareRoot() * Double(w[c]) + (centred ? Double(b[c]) : 0))
                    }
                }
            }
        }
        let v = t.map { Variable($0) }
        #expect(layerNorm(v[0], v[1], v[2], eps: 1e-5).tensor.relativeError(to: expected(centred: true)) < 1e-6)
        #expect(rmsNorm(v[0], v[1], eps: 1e-5).tensor.relativeError(to: expected(centred: false)) < 1e-6)
        let shifted = layerNormModulate(
            reshape(v[0], [1, rows, width]), shift: reshape(v[2], [1, width]), scale: Variable((t[1] - 1).reshaped([1, width])), eps: 1e-5)
        #expect(shifted.tensor.reshaped([rows, width]).relativeError(to: expected(centred: true)) < 1e-6)
    }

    @Test func softmaxAndItsGradient() {
        checkGradients(normals([3, 21])) { softmax($0[0]) }
        let y = softmax(Variable(Tensor([1000, 1000, -1000, 0, 0, 0], shape: [2, 3]))).tensor.array
        #expect(abs(y[0] - 0.5) < 1e-6 && y[2] < 1e-30 && abs(y[4] - 1.0 / 3) < 1e-6)
    }

    @Test func rotaryTurnsPairs() {
        let angles = normals([3, 4])[0]
        let (cosines, sines) = (angles.map { cosf($0) }, angles.map { sinf($0) })
        checkGradients(normals([2, 3, 16])) { rotary($0[0], cos: cosines, sin: sines, heads: 2) }
        let x = normals([1, 3, 8])[0]
        let y = rotary(Variable(x), cos: cosines, sin: sines, heads: 1).tensor
        let expected = x[0, 1, 4] * sines[1, 2] + x[0, 1, 5] * cosines[1, 2]
        #expect(abs(y[0, 1, 5] - expected) < 1e-6)
    }

    @Test func reductions() {
        checkGradients(normals([3, 7])) { sum($0[0]) }
        checkGradients(normals([3, 7])) { mean($0[0]) }
        checkGradients(normals([3, 7], [3, 7])) { meanSquaredError($0[0], $0[1]) }
        for axis in 0..<3 {
            checkGradients(normals([2, 3, 4])) { sum($0[0], axis: axis) }
            checkGradients(normals([2, 3, 4])) { mean($0[0], axis: axis, keepingAxis: true) }
        }
        #expect(sum(Variable(Tensor([1, 2, 3, 4, 5, 6], shape: [2, 3])), axis: 0).tensor.array == [5, 7, 9])
        #expect(mean(Variable(Tensor([1, 2, 3, 4, 5, 6], shape: [2, 3])), axis: 1).tensor.array == [2, 5])
    }

    @Test func movedElementsComeBack() {
        checkGradients(normals([2, 3, 4])) { permute($0[0], [2, 0, 1]) }
        checkGradients(normals([2, 3, 4])) { reshape($0[0], [4, 6]) }
        checkGradients(normals([2, 3, 4], [2, 1, 4])) { concatenate([$0[0], $0[1]], axis: 1) }
        for axis in 0..<3 { checkGradients(normals([3, 3, 4])) { slice($0[0], axis: axis, range: 1..<3) } }
        checkGradients(normals([3, 1])) { broadcast($0[0], to: [2, 3, 4]) }
    }
}
