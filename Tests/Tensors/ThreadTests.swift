import Glibc
import Synchronization
import Testing

@testable import Tensors

/// Serialized: these tests set the number of threads.
@Suite(.serialized) struct ThreadTests {
    func withThreads<R>(_ count: Int, _ body: () throws -> R) rethrows -> R {
        let before = NumericThreads.count
        NumericThreads.count = count
        defer { NumericThreads.count = before }
        return try body()
    }

    @Test(arguments: [1, 2, 3, 8]) func everyIndexIsCalledOnce(_ threads: Int) {
        withThreads(threads) {
            for count in [0, 1, 2, 7, 1000] {
                let calls = (0..<max(count, 1)).map { _ in Counter() }
                NumericThreads.parallelFor(count) { calls[$0].increase() }
                #expect(calls.prefix(count).allSatisfy { $0.value == 1 })
            }
        }
    }

    @Test func nestedLoopsRunInline() {
        withThreads(3) {
            let total = Counter()
            NumericThreads.parallelFor(5) { _ in
                #expect(NumericThreads.isInsideLoop)
                let thread = pthread_self()
                NumericThreads.parallelFor(7) { _ in
                    #expect(pthread_equal(thread, pthread_self()) != 0)
                    NumericThreads.parallelFor(3) { _ in total.increase() }
                }
            }
            #expect(total.value == 105)
            #expect(!NumericThreads.isInsideLoop)
        }
    }

    @Test func manyCallersAtOnceAllFinish() async throws {
        let total = Counter()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<12 {
                group.addTask {
                    try await NumericThreads.run { for _ in 0..<300 { NumericThreads.parallelFor(5) { _ in total.increase() } } }
                }
            }
            try await group.waitForAll()
        }
        #expect(total.value == 12 * 300 * 5)
    }

    @Test func mapKeepsTheOrderAndThrowsTheFirstError() {
        withThreads(3) {
            #expect(NumericThreads.parallelMap(100) { $0 * $0 } == (0..<100).map { $0 * $0 })
            #expect(throws: Failed(index: 3)) {
                try NumericThreads.parallelMap(10) { (index: Int) throws(Failed) -> Int in
                    if index % 4 == 3 { throw Failed(index: index) }
                    return index
                }
            }
        }
    }

    @Test func workRunsOnAnotherThreadAndCarriesItsError() async throws {
        let here = UInt(pthread_self())
        #expect(try await NumericThreads.run { UInt(pthread_self()) } != here)
        await #expect(throws: Failed(index: 1)) { try await NumericThreads.run { throw Failed(index: 1) } }
    }

    @Test func cancellationReachesTheWork() async throws {
        let task = Task {
            try await NumericThreads.run { while true { try NumericThreads.checkCancellation() } }
        }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        #expect(!NumericThreads.isCancelled)
    }

    /// A training step over every kind of operation, large enough that its loops are split.
    func step() -> [Tensor] {
        let (b, n, d, h) = (3, 400, 128, 4)
        var stream = RandomStream(seed: 5)
        func normal(_ shape: [Int], _ size: Float = 1) -> Variable {
            Variable(Tensor.normal(shape: shape, &stream) * size, requiresGradient: true)
        }
        let x = normal([b, n, d])
        let weights = (0..<4).map { _ in normal([d, d], 0.1) }
        let up = normal([3 * d, d], 0.1)
        let down = normal([d, 3 * d], 0.1)
        let bias = normal([3 * d])
        let modulation = (0..<3).map { _ in normal([b, d]) }
        let norm = normal([d])
        let angles = Tensor.normal(shape: [n, d / h / 2], &stream)
        let (cosines, sines) = (angles.map { cosf($0) }, angles.map { sinf($0) })
        let y = layerNormModulate(x, shift: modulation[0], scale: modulation[1], eps: 1e-6)
        let q = rotary(rmsNorm(linear(y, weights[0]), norm, eps: 1e-6), cos: cosines, sin: sines, heads: h)
        let k = rmsNorm(linear(y, weights[1]), norm, eps: 1e-6)
        let z = gatedResidual(x, linear(attention(q, k, linear(y, weights[2]), heads: h), weights[3]), gate: modulation[2])
        let w = linear(linear(layerNorm(z, norm, nil, eps: 1e-6), up, bias, activation: .gelu), down)
        meanSquaredError(add(z, silu(w)), softmax(x)).backward()
        let parameters = [x] + weights + [up, down, bias] + modulation + [norm]
        return [z.tensor] + parameters.map { $0.gradient! }
    }

    @Test func resultsDoNotDependOnTheNumberOfThreads() {
        let one = withThreads(1) { step() }
        for threads in [2, 3] {
            let several = withThreads(threads) { step() }
            for (i, (a, b)) in zip(one, several).enumerated() { #expect(a == b, "tensor \(i) with \(threads) threads") }
        }
        let nested = withThreads(2) { NumericThreads.parallelMap(2) { _ in step() } }
        #expect(nested[0] == one && nested[1] == one)
    }

    @Test func tensorsMadeOnSeveralThreadsDoNotMixMemory() {
        withThreads(4) {
            NumericThreads.parallelFor(64) { index in
                for round in 0..<50 {
                    let value = Float(index * 100 + round)
                    let tensors = (1...8).map { Tensor(full: value, shape: [$0 * 37]) }
                    #expect(tensors.allSatisfy { $0.array.allSatisfy { $0 == value } })
                }
            }
        }
    }

    @Test func attentionsMemoryGrowsWithTheTokensOnly() {
        // 6,000 tokens: a 6,000 x 6,000 matrix of one head alone would be 144 MB.
        Memory.trim()
        let t = normals([1, 6000, 32])
        let x = Variable(t[0], requiresGradient: true)
        sum(attention(x, x, x, heads: 1)).backward()
        #expect(x.gradient!.isFinite)
        #expect(Memory.pooledBytes < 60 << 20)
    }
}

private struct Failed: Error, Equatable { let index: Int }

private final class Counter: Sendable {
    private let count = Atomic<Int>(0)
    var value: Int { count.load(ordering: .relaxed) }
    func increase() { count.add(1, ordering: .relaxed) }
}
