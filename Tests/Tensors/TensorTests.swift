import Testing

@testable import Tensors

@Suite struct TensorTests {
    @Test func copiesAreIndependent() {
        let a = Tensor([1, 2, 3, 4], shape: [2, 2])
        var b = a
        b.withUnsafeMutableBufferPointer { $0[0] = 9 }
        #expect(a.array == [1, 2, 3, 4])
        #expect(b.array == [9, 2, 3, 4])
        let address = b.withUnsafeBufferPointer { $0.baseAddress }
        b.withUnsafeMutableBufferPointer { $0[1] = 8 }
        #expect(b.withUnsafeBufferPointer { $0.baseAddress } == address, "an unshared tensor is changed in place")
    }

    @Test func rowsAreViewsThatDoNotLeakChanges() {
        let a = Tensor((0..<12).map { Float($0) }, shape: [4, 3])
        var rows = a[1..<3]
        #expect(rows.shape == [2, 3] && rows.array == [3, 4, 5, 6, 7, 8])
        rows += Tensor(full: 1, shape: [2, 3])
        #expect(rows.array == [4, 5, 6, 7, 8, 9])
        #expect(a.array == (0..<12).map { Float($0) })
        #expect(a[2..<4][1..<2].array == [9, 10, 11])
        #expect(a[1, 2] == 5)
    }

    @Test func joiningAndCutting() {
        let a = Tensor([1, 2, 3, 4], shape: [2, 2])
        let b = Tensor([5, 6], shape: [2, 1])
        #expect(Tensor.concatenate([a, b], axis: 1) == Tensor([1, 2, 5, 3, 4, 6], shape: [2, 3]))
        #expect(Tensor.concatenate([a, a]).shape == [4, 2])
        #expect(Tensor.stack([a, a]).shape == [2, 2, 2])
        #expect(a.sliced(axis: 1, 1..<2) == Tensor([2, 4], shape: [2, 1]))
    }

    @Test func permutations() {
        let shape = [2, 3, 4, 5]
        let a = Tensor((0..<120).map { Float($0) }, shape: shape)
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [1, 0, 3, 2], [2, 3, 0, 1], [0, 3, 1, 2]] {
            let p = a.permuted(order)
            #expect(p.shape == order.map { shape[$0] })
            for i in 0..<2 {
                for j in 0..<3 {
                    for k in 0..<4 {
                        for l in 0..<5 {
                            let index = [i, j, k, l]
                            let at = order.map { index[$0] }
                            #expect(p[at[0], at[1], at[2], at[3]] == a[i, j, k, l])
                        }
                    }
                }
            }
        }
    }

    @Test func arithmetic() {
        let a = Tensor([1, -2, 3], shape: [3])
        let b = Tensor([4, 5, -6], shape: [3])
        #expect((a + b).array == [5, 3, -3])
        #expect((a - b).array == [-3, -7, 9])
        #expect((a * b).array == [4, -10, -18])
        #expect((b / a).array == [4, -2.5, -2])
        #expect((2 * a + 1).array == [3, -3, 7])
        #expect((-a).array == [-1, 2, -3])
        #expect(a.sum == 2 && abs(a.mean - 2.0 / 3) < 1e-6)
        #expect(abs(a.norm - Float(14).squareRoot()) < 1e-6)
        #expect(Tensor([1, 2], shape: [2]).relativeError(to: Tensor([1, 1], shape: [2])) == 1 / Float(2).squareRoot())
        #expect(Tensor(scalar: 7).item == 7)
        #expect(Tensor(zeros: [0, 3]).sum == 0)
    }

    @Test func sumsOfManyElementsAreAccurate() {
        let n = 3_000_001
        #expect(abs(Tensor(full: 0.1, shape: [n]).sum - 0.1 * Float(n)) < 0.5, "relative error below 2e-6")
    }

    @Test(arguments: [Float.nan, .infinity, -.infinity]) func oneBadElementIsFound(_ bad: Float) {
        for place in [0, 15, 16, 99, 100] {
            var values = [Float](repeating: 1, count: 101)
            #expect(Tensor(values, shape: [101]).isFinite)
            values[place] = bad
            #expect(!Tensor(values, shape: [101]).isFinite)
        }
    }

    @Test func broadcastingAndItsAdjoint() {
        let row = Tensor([1, 2], shape: [2, 1])
        #expect(row.broadcast(to: [3, 2, 2]).array == [1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2])
        #expect(Tensor(full: 1, shape: [3, 2, 2]).reduced(to: [2, 1]).array == [6, 6])
        #expect(Tensor(full: 1, shape: [3, 2, 2]).reduced(to: []).item == 12)
    }

    @Test func theMachineIsDescribed() {
        #expect(Tensors.machine.contains("OpenBLAS") && Tensors.machine.contains("threads"))
    }
}
