import Testing

@testable import Tensors

struct PartsTests {
    private func random(_ shape: [Int], _ seed: UInt64) -> Tensor {
        var stream = RandomStream(seed: seed)
        return Tensor(stream.normals(shape.reduce(1, *)), shape: shape)
    }

    private func relativeDifference(_ a: Tensor, _ b: Tensor) -> Double {
        let squares = zip(a.array, b.array).map { Double($0 - $1) * Double($0 - $1) }.reduce(0, +)
        return (squares / b.array.map { Double($0) * Double($0) }.reduce(0, +)).squareRoot()
    }

    /// A gated feed-forward network over [B,N,D], and every gradient there is.
    private func run(size: Int, live: Bool = true) -> (result: Tensor, gradients: [Tensor?]) {
        let x = Variable(random([2, 7, 6], 1), requiresGradient: live)
        let up = Variable(random([10, 6], 2), requiresGradient: live)
        let down = Variable(random([6, 10], 3), requiresGradient: live)
        let table = Variable(random([2, 6], 4), requiresGradient: live)
        // Not a leaf: what lies above it must be passed through once, after all parts.
        let gate = scale(table, 0.5)
        let result = byParts(scale(x, 2), axis: 1, size: size, others: [gate]) { part, others in
            gatedResidual(part, linear(linear(part, up, nil, activation: .gelu), down), gate: others[0])
        }
        if live { result.backward(random([2, 7, 6], 5)) }
        return (result.tensor, [x, up, down, table].map(\.gradient))
    }

    @Test(arguments: [1, 2, 3, 4, 6, 7, 100])
    func partsGiveWhatTheWholeGivesWithTheSameGradients(size: Int) throws {
        let (whole, parts) = (run(size: 7), run(size: size))
        #expect(relativeDifference(parts.result, whole.result) < 1e-6)
        for (part, expected) in zip(parts.gradients, whole.gradients) {
            #expect(relativeDifference(try #require(part), try #require(expected)) < 1e-6)
        }
    }

    @Test func partsWithoutAGradientKeepNoGraph() {
        let result = run(size: 2, live: false)
        #expect(relativeDifference(result.result, run(size: 7).result) < 1e-6)
        #expect(result.gradients.allSatisfy { $0 == nil })
    }

    @Test func theGradientReachesTheInputPastFrozenWeights() throws {
        func gradient(size: Int) throws -> Tensor {
            let x = Variable(random([1, 5, 4], 7), requiresGradient: true)
            let weight = Variable(random([4, 4], 8))
            byParts(x, axis: 1, size: size) { part, _ in linear(part, weight, nil, activation: .silu) }.backward(random([1, 5, 4], 9))
            return try #require(x.gradient)
        }
        #expect(relativeDifference(try gradient(size: 2), try gradient(size: 5)) < 1e-6)
    }
}
