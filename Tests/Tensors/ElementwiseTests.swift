import Glibc
import Testing

@testable import Tensors

@Suite struct ElementwiseTests {
    @Test func sumsDifferencesAndProductsOfOneShape() {
        checkGradients(normals([2, 3, 17], [2, 3, 17])) { add($0[0], $0[1]) }
        checkGradients(normals([2, 3, 17], [2, 3, 17])) { subtract($0[0], $0[1]) }
        checkGradients(normals([2, 3, 17], [2, 3, 17])) { multiply($0[0], $0[1]) }
        checkGradients(normals([5], [5]).map { $0 * 0.2 + 2 }) { divide($0[0], $0[1]) }
    }

    @Test(arguments: [[4], [1, 4], [3, 1], [2, 1, 4], [2, 1, 1], [1], [], [2, 3, 1], [1, 3, 1]])
    func aSmallerShapeIsStretched(_ small: [Int]) {
        checkGradients(normals([2, 3, 4], small)) { add($0[0], $0[1]) }
        checkGradients(normals([2, 3, 4], small)) { subtract($0[1], $0[0]) }
        checkGradients(normals([2, 3, 4], small)) { multiply($0[0], $0[1]) }
    }

    @Test func bothShapesAreStretched() {
        let x = Tensor([1, 2], shape: [2, 1])
        let y = Tensor([10, 20, 30], shape: [3])
        #expect(add(Variable(x), Variable(y)).tensor == Tensor([11, 21, 31, 12, 22, 32], shape: [2, 3]))
        checkGradients(normals([2, 1, 4], [3, 1])) { multiply($0[0], $0[1]) }
    }

    @Test func scalingAndShifting() {
        checkGradients(normals([33])) { scale($0[0], -2.5) }
        checkGradients(normals([33])) { shift($0[0], 3) }
        #expect(shift(Variable(Tensor([1, 2], shape: [2])), 1).tensor.array == [2, 3])
    }

    @Test func gatedResidualIsXPlusGatedY() {
        checkGradients(normals([2, 3, 19], [2, 3, 19], [2, 19])) { gatedResidual($0[0], $0[1], gate: $0[2]) }
        checkGradients(normals([2, 3, 4], [2, 3, 4], [2, 1, 4])) { gatedResidual($0[0], $0[1], gate: $0[2]) }
        let inputs = normals([2, 3, 40], [2, 3, 40], [2, 1, 40])
        let expected = inputs[0] + inputs[1] * inputs[2].broadcast(to: [2, 3, 40])
        #expect(
            gatedResidual(Variable(inputs[0]), Variable(inputs[1]), gate: Variable(inputs[2])).tensor.relativeError(to: expected) < 1e-6)
    }

    @Test(arguments: [Activation.gelu, .geluExact, .silu, .relu, .sigmoid, .softplus])
    func activationsHaveTheirSlope(_ function: Activation) {
        // Away from the kink of relu.
        let x = normals([3, 23])[0].map { abs($0) < 0.05 ? 0.3 : $0 }
        checkGradients([x]) { activate($0[0], function) }
    }

    @Test func activationsMeetTheirFormulas() {
        let x = Tensor((-200...200).map { Float($0) / 10 }, shape: [401])
        func check(_ name: String, _ result: Variable, _ formula: (Double) -> Double) {
            for (value, point) in zip(result.tensor.array, x.array) {
                let expected = formula(Double(point))
                #expect(abs(Double(value) - expected) <= 1e-6 + 2e-6 * abs(expected), "\(name)(\(point))")
            }
        }
        let v = Variable(x)
        check("gelu", gelu(v)) { 0.5 * $0 * (1 + tanh(0.7978845608028654 * ($0 + 0.044715 * $0 * $0 * $0))) }
        check("geluExact", geluExact(v)) { 0.5 * $0 * (1 + erf($0 / 2.0.squareRoot())) }
        check("silu", silu(v)) { $0 / (1 + exp(-$0)) }
        check("relu", relu(v)) { max($0, 0) }
        check("sigmoid", sigmoid(v)) { 1 / (1 + exp(-$0)) }
        check("softplus", softplus(v)) { max($0, 0) + log1p(exp(-abs($0))) }
    }

    @Test func activationsOfHugeInputsStayFinite() {
        let x = Variable(Tensor([-1e30, -1e4, 1e4, 1e30], shape: [4]))
        #expect(sigmoid(x).tensor.array[3] == 1 && abs(sigmoid(x).tensor.array[0]) < 1e-30)
        #expect(silu(x).tensor.array[3] == 1e30 && silu(x).tensor.isFinite)
        #expect(softplus(x).tensor.array[2] == 1e4)
        #expect(abs(gelu(Variable(Tensor([-1e4, 1e4], shape: [2]))).tensor.array[0]) < 1e-20)
    }
}
