import Testing

@testable import Tensors

@Suite struct LinearTests {
    @Test func gradientsWithAndWithoutBias() {
        checkGradients(normals([2, 3, 7], [5, 7], [5])) { linear($0[0], $0[1], $0[2]) }
        checkGradients(normals([4, 7], [18, 7])) { linear($0[0], $0[1]) }
        checkGradients(normals([7], [3, 7])) { linear($0[0], $0[1]) }
    }

    @Test(arguments: [Activation.gelu, .silu, .sigmoid])
    func gradientsWithTheActivationFused(_ function: Activation) {
        checkGradients(normals([2, 3, 7], [19, 7], [19]).map { $0 * 0.5 }) { linear($0[0], $0[1], $0[2], activation: function) }
        checkGradients(normals([6, 7], [16, 7]).map { $0 * 0.5 }) { linear($0[0], $0[1], activation: function) }
    }

    @Test func theFusedActivationEqualsTheSeparateOne() {
        let v = normals([500, 96], [200, 96], [200]).map { Variable($0) }
        #expect(linear(v[0], v[1], v[2], activation: .gelu).tensor.relativeError(to: gelu(linear(v[0], v[1], v[2])).tensor) < 1e-6)
    }

    /// Large enough to be split into parts both ways.
    @Test func aLargeLayerEqualsTheNaiveOne() {
        let (rows, inputs, outputs) = (1000, 96, 200)
        let t = normals([rows, inputs], [outputs, inputs], [outputs], [rows, outputs])
        let v = t[..<3].map { Variable($0, requiresGradient: true) }
        let y = linear(v[0], v[1], v[2])
        y.backward(t[3])
        let (x, w, b, d) = (t[0].array, t[1].array, t[2].array, t[3].array)
        func sum(_ n: Int, _ term: (Int) -> Float) -> Float { Float((0..<n).reduce(0.0) { $0 + Double(term($1)) }) }
        let expected = Tensor(shape: [rows, outputs]) { out in
            for i in out.indices { out[i] = b[i % outputs] + sum(inputs) { x[i / outputs * inputs + $0] * w[i % outputs * inputs + $0] } }
        }
        let dx = Tensor(shape: [rows, inputs]) { out in
            for i in out.indices { out[i] = sum(outputs) { d[i / inputs * outputs + $0] * w[$0 * inputs + i % inputs] } }
        }
        let dw = Tensor(shape: [outputs, inputs]) { out in
            for i in out.indices { out[i] = sum(rows) { d[$0 * outputs + i / inputs] * x[$0 * inputs + i % inputs] } }
        }
        let db = Tensor(shape: [outputs]) { out in for i in out.indices { out[i] = sum(rows) { d[$0 * outputs + i] } } }
        #expect(y.tensor.relativeError(to: expected) < 1e-6)
        #expect(v[0].gradient!.relativeError(to: dx) < 1e-6)
        #expect(v[1].gradient!.relativeError(to: dw) < 1e-6)
        #expect(v[2].gradient!.relativeError(to: db) < 1e-6)
    }

    @Test func matrixProducts() {
        checkGradients(normals([2, 3, 4], [2, 4, 5])) { matmul($0[0], $0[1]) }
        checkGradients(normals([2, 3, 4], [2, 5, 4])) { matmul($0[0], $0[1], transposeB: true) }
        checkGradients(normals([2, 3, 4], [4, 5])) { matmul($0[0], $0[1]) }
        checkGradients(normals([2, 3, 4], [5, 4])) { matmul($0[0], $0[1], transposeB: true) }
        let a = Variable(Tensor([1, 2, 3, 4], shape: [2, 2]))
        #expect(matmul(a, a).tensor.array == [7, 10, 15, 22])
        #expect(matmul(a, a, transposeB: true).tensor.array == [5, 11, 11, 25])
    }
}
