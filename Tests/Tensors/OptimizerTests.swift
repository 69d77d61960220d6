import Testing

@testable import Tensors

@Suite struct OptimizerTests {
    let start = Tensor([0.5, -1.0, 2.0, 1.5, 0.25, -0.75], shape: [2, 3])
    let gradients = [
        Tensor([0.1, -0.2, 0.3, 0.4, -0.5, 0.6], shape: [2, 3]), Tensor([-0.3, 0.2, 0.1, 0.0, 0.5, -0.4], shape: [2, 3]),
        Tensor([0.2, 0.2, -0.6, 1.0, -1.0, 0.05], shape: [2, 3]),
    ]

    /// Numbers of torch.optim.AdamW (torch 2.15), lr 0.1, betas (0.9, 0.99), weight decay 0.1.
    @Test func adamWStepsAsTorchDoes() {
        let parameter = Variable(start, requiresGradient: true)
        var optimizer = AdamW(beta2: 0.99, weightDecay: 0.1)
        for gradient in gradients { optimizer.step(parameters: [parameter], gradients: [gradient], learningRate: 0.1) }
        let torch = Tensor(
            [0.434099018573761, -0.9177209138870239, 1.7812827825546265, 1.2126682996749878, 0.38508594036102295, -0.8556699156761169],
            shape: [2, 3])
        #expect(parameter.tensor.relativeError(to: torch) < 1e-6)
    }

    /// Numbers of the reference's formulas in double precision (NumPy-style, no bfloat16), learning rate 0.1, momentum 0.95, decay 0.01.
    @Test func muonStepsAsTheReferenceDoes() {
        func run(_ turn: (Tensor) -> Tensor) -> Tensor {
            let parameter = Variable(turn(start), requiresGradient: true)
            var optimizer = Muon(weightDecay: 0.01)
            for gradient in gradients { optimizer.step(parameters: [parameter], gradients: [turn(gradient)], learningRate: 0.1) }
            return parameter.tensor
        }
        let wide = Tensor(
            [0.5884942412376404, -1.0488027334213257, 1.9513380527496338, 1.3299968242645264, 0.2697087228298187, -0.7403885126113892],
            shape: [2, 3])
        let tall = Tensor(
            [0.6087196469306946, 1.2927998304367065, -1.0604444742202759, 0.2743065655231476, 1.9417486190795898, -0.7387335300445557],
            shape: [3, 2])
        #expect(run { $0 }.relativeError(to: wide) < 1e-5)
        #expect(run { $0.permuted([1, 0]) }.relativeError(to: tall) < 1e-5)
    }

    @Test func newtonSchulzBringsSingularValuesNearOne() {
        let matrix = normals([24, 60])[0]
        let x = Muon.orthogonalized(matrix, iterations: 5)
        let gram = matmul(Variable(x), Variable(x), transposeB: true).tensor
        for i in 0..<24 { #expect(gram[i, i] > 0.4 && gram[i, i] < 1.5) }
    }

    @Test func aRestoredOptimizerContinuesBitForBit() throws {
        func adamW(_ interrupted: Bool) throws -> Tensor {
            let parameter = Variable(start)
            var optimizer = AdamW()
            for (i, gradient) in gradients.enumerated() {
                if interrupted, i == 2 {
                    let state = optimizer.state
                    optimizer = AdamW()
                    try optimizer.restore(state)
                }
                optimizer.step(parameters: [parameter], gradients: [gradient], learningRate: 0.01)
            }
            return parameter.tensor
        }
        func muon(_ interrupted: Bool) throws -> Tensor {
            let parameter = Variable(start)
            var optimizer = Muon()
            for (i, gradient) in gradients.enumerated() {
                if interrupted, i == 2 {
                    let state = optimizer.state
                    optimizer = Muon()
                    try optimizer.restore(state)
                }
                optimizer.step(parameters: [parameter], gradients: [gradient], learningRate: 0.01)
            }
            return parameter.tensor
        }
        #expect(try adamW(true) == adamW(false))
        #expect(try muon(true) == muon(false))
    }

    @Test func aDamagedStateIsRefused() {
        var optimizer = AdamW()
        let m = Tensor(zeros: [2])
        #expect(throws: OptimizerError.self) { try optimizer.restore([("first.0", m), ("second.0", m)]) }
        #expect(throws: OptimizerError.self) { try optimizer.restore([("step", Tensor(scalar: 1)), ("first.0", m)]) }
        #expect(throws: OptimizerError.self) { try optimizer.restore([("step", Tensor(scalar: 1)), ("first.1", m), ("second.1", m)]) }
        #expect(throws: OptimizerError.self) { try optimizer.restore([("step", Tensor(scalar: 1.5))]) }
    }

    @Test func clippingScalesTheJointNorm() {
        var gradients = [Tensor([3, 0], shape: [2]), Tensor([4], shape: [1])]
        #expect(clipGradientNorm(&gradients, maximum: 10) == 5)
        #expect(gradients[0].array == [3, 0])
        #expect(clipGradientNorm(&gradients, maximum: 1) == 5)
        #expect(abs(gradients[0].array[0] - 0.6) < 1e-5 && abs(gradients[1].array[0] - 0.8) < 1e-5)
    }
}
