import Testing

@testable import Tensors

@Suite struct GraphTests {
    @Test func aVariableUsedTwiceGetsBothGradients() {
        let x = Variable(Tensor([3], shape: [1]), requiresGradient: true)
        let y = multiply(x, x)
        add(multiply(y, y), y).backward()
        #expect(x.gradient!.array == [4 * 27 + 2 * 3])
    }

    @Test func gradientsOfSeveralPassesAddUp() {
        let x = Variable(Tensor([2], shape: [1]), requiresGradient: true)
        scale(x, 3).backward()
        scale(x, 4).backward()
        #expect(x.gradient!.array == [7])
    }

    @Test func aDetachedVariableStopsTheGradient() {
        let x = Variable(Tensor([2], shape: [1]), requiresGradient: true)
        let y = scale(x, 3)
        #expect(!y.detached().requiresGradient)
        multiply(y.detached(), x).backward()
        #expect(x.gradient!.array == [6])
    }

    @Test func theGraphKeepsTheTensorsThatItsRulesNeedAndNoOthers() {
        weak var dropped: TensorStorage?
        weak var kept: TensorStorage?
        let x = Variable(Tensor([2], shape: [1]), requiresGradient: true)
        let y: Variable
        do {
            let first = scale(x, 3)
            dropped = first.tensor.storage
            let second = scale(first, 2)
            kept = second.tensor.storage
            y = multiply(second, x)
        }
        #expect(dropped == nil, "no backward rule reads it")
        #expect(kept != nil, "the product's rule does")
        y.backward()
        #expect(kept == nil)
        #expect(y.isLeaf)
        #expect(x.gradient!.array == [24])
    }

    @Test func inferenceKeepsNothing() {
        weak var inner: Variable?
        let y: Variable
        do {
            let z = scale(Variable(Tensor([2], shape: [1])), 3)
            inner = z
            y = scale(z, 2)
        }
        #expect(inner == nil)
        #expect(y.tensor.array == [12])
    }

    @Test func deepGraphsNeitherRecurseForwardNorBackward() {
        let x = Variable(Tensor([1], shape: [1]), requiresGradient: true)
        func chain() -> Variable {
            var y = x
            for _ in 0..<200_000 { y = shift(y, 0.5) }
            return y
        }
        _ = chain()
        chain().backward()
        #expect(x.gradient!.array == [1])
    }

    @Test func checkpointsGiveTheSameGradients() {
        let t = normals([4, 6], [6, 6], [6])
        func run(_ checkpoint: Bool) -> [Tensor] {
            let v = t.map { Variable($0, requiresGradient: true) }
            let body: ([Variable]) -> Variable = { inputs in gelu(linear(gelu(linear(inputs[0], v[1], v[2])), v[1])) }
            let h = scale(v[0], 0.5)
            sum(multiply(checkpoint ? checkpointed([h], body) : body([h]), h)).backward()
            return v.map { $0.gradient! }
        }
        #expect(run(true) == run(false))
    }

    @Test func aCheckpointOverFrozenInputsStillReachesCapturedParameters() {
        let weight = Variable(normals([3, 3])[0], requiresGradient: true)
        let y = checkpointed([Variable(normals([2, 3], seed: 2)[0])]) { linear($0[0], weight) }
        #expect(y.requiresGradient)
        sum(y).backward()
        #expect(weight.gradient != nil)
        #expect(!checkpointed([Variable(Tensor(scalar: 1))]) { scale($0[0], 2) }.requiresGradient)
    }

    @Test func replicasShareTheMastersMemoryUntilTheyAreGone() {
        let master = Variable(Tensor(zeros: [1024]), requiresGradient: true)
        let address = master.tensor.withUnsafeBufferPointer { $0.baseAddress }
        do {
            let replica = Variable(master.tensor, requiresGradient: true)
            #expect(replica.tensor.withUnsafeBufferPointer { $0.baseAddress } == address)
        }
        var optimizer = AdamW()
        optimizer.step(parameters: [master], gradients: [Tensor(full: 1, shape: [1024])], learningRate: 0.1)
        #expect(master.tensor.withUnsafeBufferPointer { $0.baseAddress } == address, "updated in place")
        let replica = Variable(master.tensor)
        let before = replica.tensor.array
        optimizer.step(parameters: [master], gradients: [Tensor(full: 1, shape: [1024])], learningRate: 0.1)
        #expect(replica.tensor.array == before, "a living replica keeps its values")
        #expect(master.tensor.array != before)
    }

    @Test func gradientsAccumulateInPlace() {
        let w = Variable(normals([64, 64])[0], requiresGradient: true)
        let x = Variable(normals([8, 64])[0])
        sum(linear(x, w)).backward()
        let address = w.gradient!.withUnsafeBufferPointer { $0.baseAddress }
        sum(linear(x, w)).backward()
        #expect(w.gradient!.withUnsafeBufferPointer { $0.baseAddress } == address)
    }
}
