import CKernels
import Testing

@testable import Tensors

/// Products in bfloat16x3. The tests of the arithmetic call it directly, since the choice of a precision concerns the whole process and other
/// tests run beside these; those of the choice run in processes of their own. On a CPU without tiles the same products run in Float32.
@Suite struct PrecisionTests {
    /// A product with everything that may surround its matrices: longer rows than columns, a start to add to.
    struct Case: CustomStringConvertible {
        var m: Int
        var n: Int
        var k: Int
        var transposeA = false
        var transposeB = false
        var adds = false
        var alpha: Float = 1
        var description: String { "\(m)x\(n)x\(k) \(transposeA ? "Aᵀ" : "A") \(transposeB ? "Bᵀ" : "B") adds \(adds) alpha \(alpha)" }
    }

    /// c, and what it should be in double precision; `spread` computes on several threads with the entry that linear layers use.
    func run(_ c: Case, a: (Int, Int) -> Float, b: (Int, Int) -> Float, spread: Bool = false) throws -> (found: [Float], expected: [Double])
    {
        let (lda, ldb, ldc) = ((c.transposeA ? c.m : c.k) + 3, (c.transposeB ? c.k : c.n) + 5, c.n + 7)
        var left = [Float](repeating: .nan, count: (c.transposeA ? c.k : c.m) * lda)
        var right = [Float](repeating: .nan, count: (c.transposeB ? c.n : c.k) * ldb)
        for i in 0..<c.m { for l in 0..<c.k { left[c.transposeA ? l * lda + i : i * lda + l] = a(i, l) } }
        for j in 0..<c.n { for l in 0..<c.k { right[c.transposeB ? j * ldb + l : l * ldb + j] = b(l, j) } }
        let start = (0..<c.m * ldc).map { Float($0 % 17) - 8 }
        var result = start
        let done = left.withUnsafeBufferPointer { left in
            right.withUnsafeBufferPointer { right in
                result.withUnsafeMutableBufferPointer { result in
                    let matrices = (
                        Product.Matrix(pointer: left.baseAddress!, stride: lda, transposed: c.transposeA),
                        Product.Matrix(pointer: right.baseAddress!, stride: ldb, transposed: c.transposeB)
                    )
                    let product = SplitProduct(rows: c.m, columns: c.n, depth: c.k)
                    if !Precision.hasTiles {
                        BLAS.multiply(
                            transposeA: c.transposeA, transposeB: c.transposeB, m: c.m, n: c.n, k: c.k, alpha: c.alpha,
                            left.baseAddress!, lda: lda, right.baseAddress!, ldb: ldb, beta: c.adds ? 1 : 0, result.baseAddress!, ldc: ldc)
                        return true
                    }
                    return spread
                        ? product.spread(
                            matrices.0, matrices.1, into: result.baseAddress!, stride: ldc, adds: c.adds, epilogue: Product.Epilogue())
                        : product(alpha: c.alpha, matrices.0, matrices.1, into: result.baseAddress!, stride: ldc, adds: c.adds)
                }
            }
        }
        try #require(done, "\(c)")
        var found: [Float] = []
        var expected: [Double] = []
        for i in 0..<c.m {
            #expect(
                Array(result[i * ldc + c.n..<(i + 1) * ldc]) == Array(start[i * ldc + c.n..<(i + 1) * ldc]), "\(c) writes beside row \(i)")
            for j in 0..<c.n {
                var sum = 0.0
                for l in 0..<c.k { sum += Double(a(i, l)) * Double(b(l, j)) }
                expected.append(Double(c.alpha) * sum + (c.adds ? Double(start[i * ldc + j]) : 0))
                found.append(result[i * ldc + j])
            }
        }
        return (found, expected)
    }

    func error<S: Sequence<Int>>(_ pair: (found: [Float], expected: [Double]), _ places: S) -> Double {
        var (difference, size) = (0.0, 0.0)
        for i in places {
            difference += (Double(pair.found[i]) - pair.expected[i]) * (Double(pair.found[i]) - pair.expected[i])
            size += pair.expected[i] * pair.expected[i]
        }
        return size > 0 ? (difference / size).squareRoot() : difference.squareRoot()
    }

    /// Standard normal numbers by index.
    func noise(_ item: UInt32) -> [Float] {
        var stream = RandomStream(seed: 5, item: item)
        return Tensor.normal(shape: [4093], &stream).array
    }

    @Test func oddSizesAndTransposesAgreeWithDoublePrecision() throws {
        let (x, y) = (noise(0), noise(1))
        var worst = 0.0
        for (m, n, k) in [
            (1, 1, 1), (1, 40, 3), (40, 1, 33), (15, 17, 31), (16, 16, 32), (17, 33, 2), (32, 32, 64), (33, 31, 65), (47, 96, 100),
            (64, 80, 40),
            (300, 50, 801), (50, 100, 1600),
        ] {
            for index in 0..<8 {
                let c = Case(
                    m: m, n: n, k: k, transposeA: index & 1 != 0, transposeB: index & 2 != 0, adds: index & 4 != 0,
                    alpha: index == 3 ? -0.7 : 1)
                let pair = try run(c, a: { x[($0 * 61 + $1) % 4093] }, b: { y[($0 * 67 + $1) % 4093] })
                // Next to nothing is summed in the smallest: a digit less.
                let found = error(pair, pair.found.indices)
                #expect(found < (m * n * k < 1000 ? 4e-5 : 1e-5), "\(c)")
                worst = max(worst, found)
            }
        }
        print("bfloat16x3 \(Precision.hasTiles ? "on AMX" : "as float32 (no AMX)"): worst relative error of a product \(worst)")
    }

    /// Every row and every column of the result is right by its own measure.
    @Test func scalesThatDifferAMillionfoldDoNotMix() throws {
        let (x, y) = (noise(2), noise(3))
        let c = Case(m: 40, n: 48, k: 200, transposeB: true)
        func scale(_ i: Int) -> Float { [1e-6, 1, 1e6, 3e-3, 1e12][i % 5] }
        let pair = try run(c, a: { x[($0 * 61 + $1) % 4093] * scale($0) }, b: { y[($0 * 67 + $1) % 4093] * scale($1 + 2) })
        for i in 0..<c.m { for s in 0..<5 { #expect(error(pair, stride(from: i * c.n + s, to: (i + 1) * c.n, by: 5)) < 3e-5, "row \(i)") } }
        // Along k the small ones drown, as they should.
        let mixed = try run(c, a: { x[($0 * 61 + $1) % 4093] * scale($1) }, b: { y[($0 * 67 + $1) % 4093] })
        #expect(error(mixed, mixed.found.indices) < 1e-5)
    }

    @Test func denormalsCountAsZero() throws {
        let (x, y, tiny) = (noise(4), noise(5), Float.leastNormalMagnitude / 256)
        let c = Case(m: 33, n: 20, k: 70)
        let pair = try run(c, a: { x[($0 * 61 + $1) % 4093] * ($1 % 2 == 0 ? tiny : 1) }, b: { y[($0 * 67 + $1) % 4093] })
        #expect(error(pair, pair.found.indices) < 1e-5)
        let lost = try run(c, a: { x[($0 * 61 + $1) % 4093] * tiny }, b: { y[($0 * 67 + $1) % 4093] })
        #expect(zip(lost.found, lost.expected).allSatisfy { abs(Double($0) - $1) < 1e-37 })
    }

    /// What bfloat16 cannot hold is refused wherever it stands, sums that would be added to are left as they were, and the caller's Float32
    /// gives the infinities and NaN that belong there.
    @Test(
        .enabled(if: Precision.hasTiles, "without tiles everything is computed in Float32"),
        arguments: [Float.infinity, -.infinity, .nan, 3.4e38])
    func whatBFloat16CannotHoldIsRefused(_ value: Float) {
        for (rows, columns, depth) in [(300, 40, 900), (5, 7, 3)] {
            for spoiled in 0..<3 {
                for transposed in [false, true] {
                    var a = Tensor(shape: [rows, depth]) { for i in $0.indices { $0[i] = Float(i % 7) } }
                    var b = Tensor(shape: [depth, columns]) { for i in $0.indices { $0[i] = Float(i % 5) } }
                    if spoiled == 0 { a.withUnsafeMutableBufferPointer { $0[$0.count - 1] = value } }
                    if spoiled == 1 { b.withUnsafeMutableBufferPointer { $0[$0.count / 2] = value } }
                    let c = Tensor(zeros: [rows, columns])
                    let product = SplitProduct(rows: rows, columns: columns, depth: depth)
                    let done = product(
                        alpha: 1, .init(pointer: a.pointer, stride: transposed ? rows : depth, transposed: transposed),
                        .init(pointer: b.pointer, stride: transposed ? depth : columns, transposed: transposed), into: c.mutablePointer,
                        stride: columns, adds: true)
                    #expect(done == (spoiled == 2))
                    if !done { #expect(c.array.allSatisfy { $0 == 0 }) }
                }
            }
        }
        // In a linear layer's product the part that is refused comes out in Float32, bias, activation and all.
        let t = normals([600, 64], [50, 64], [50])
        var x = t[0]
        x.withUnsafeMutableBufferPointer { $0[299 * 64] = value }
        let (found, activated) = (Tensor(uninitialized: [600, 50]), Tensor(uninitialized: [600, 50]))
        let epilogue = Product.Epilogue(bias: t[2].pointer, activated: activated.mutablePointer, activation: Activation.relu.kind)
        let taken = SplitProduct(rows: 600, columns: 50, depth: 64).spread(
            .init(pointer: x.pointer, stride: 64), .init(pointer: t[1].pointer, stride: 64, transposed: true), into: found.mutablePointer,
            stride: 50, adds: false, epilogue: epilogue)
        #expect(taken)
        let expected = linear(Variable(x), Variable(t[1]), Variable(t[2])).tensor
        for row in [0, 298, 299, 300, 599] {
            for (one, other) in zip(found.array[row * 50..<(row + 1) * 50], expected.array[row * 50..<(row + 1) * 50]) {
                #expect(one == other || (one.isNaN && other.isNaN) || abs(one - other) < 1e-3, "row \(row)")
            }
        }
        #expect(activated.array[0..<100] == relu(Variable(found)).tensor.array[0..<100])
    }

    @Test func biasAndActivationAreApplied() {
        let t = normals([600, 64], [50, 64], [50])
        let (found, activated) = (Tensor(uninitialized: [600, 50]), Tensor(uninitialized: [600, 50]))
        let epilogue = Product.Epilogue(bias: t[2].pointer, activated: activated.mutablePointer, activation: Activation.gelu.kind)
        let taken = SplitProduct(rows: 600, columns: 50, depth: 64).spread(
            .init(pointer: t[0].pointer, stride: 64), .init(pointer: t[1].pointer, stride: 64, transposed: true),
            into: found.mutablePointer,
            stride: 50, adds: false, epilogue: epilogue)
        #expect(taken == Precision.hasTiles)
        guard taken else { return }
        let expected = linear(Variable(t[0]), Variable(t[1]), Variable(t[2]))
        #expect(found.relativeError(to: expected.tensor) < 1e-5)
        #expect(activated.relativeError(to: gelu(expected).tensor) < 1e-5)
    }

    @Test func resultsDoNotDependOnTheNumberOfThreads() throws {
        let (x, y) = (noise(6), noise(7))
        let before = NumericThreads.count
        defer { NumericThreads.count = before }
        let c = Case(m: 700, n: 90, k: 64, transposeB: true)
        var results: [[Float]] = []
        for threads in [1, 2, 5] {
            NumericThreads.count = threads
            let pair = try run(c, a: { x[($0 * 61 + $1) % 4093] }, b: { y[($0 * 67 + $1) % 4093] }, spread: true)
            #expect(error(pair, pair.found.indices) < 1e-5)
            results.append(pair.found)
        }
        #expect(results[0] == results[1] && results[0] == results[2])
    }

    @Test func theChoiceIsForTheProcessAndCanBeTakenBack() async {
        await #expect(processExitsWith: .success) {
            let t = normals([300, 200], [200, 100])
            func product() -> Tensor { matmul(Variable(t[0]), Variable(t[1])).tensor }
            #expect(Precision.current == .float32)
            #expect(machine.contains("; float32;"))
            let exact = product()
            Precision.current = .bfloat16x3
            #expect(Precision.current == .bfloat16x3)
            #expect(machine.contains(Precision.hasTiles ? "; bfloat16x3 on AMX;" : "; bfloat16x3 as float32 (no AMX);"))
            let split = product()
            #expect(split.relativeError(to: exact) < 1e-5)
            #expect((split == exact) == !Precision.hasTiles)
            // Products too small to gain are left alone, unless a test asks for them.
            let small = normals([4, 8], [8, 5]).map { Variable($0) }
            let before = matmul(small[0], small[1]).tensor
            Precision.takesSmall = true
            let after = matmul(small[0], small[1]).tensor
            #expect(after.relativeError(to: before) < 4e-5)
            #expect((after == before) == !Precision.hasTiles)
            Precision.takesSmall = false
            #expect(matmul(small[0], small[1]).tensor == before)
            Precision.current = .float32
            #expect(product() == exact)
        }
    }

    @Test func operationsKeepTheirGradients() async {
        await #expect(processExitsWith: .success) {
            Precision.current = .bfloat16x3
            Precision.takesSmall = true
            checkGradients(normals([2, 3, 7], [5, 7], [5])) { linear($0[0], $0[1], $0[2]) }
            checkGradients(normals([2, 3, 7], [19, 7], [19]).map { $0 * 0.5 }) { linear($0[0], $0[1], $0[2], activation: .gelu) }
            checkGradients(normals([2, 3, 4], [2, 5, 4])) { matmul($0[0], $0[1], transposeB: true) }
            checkGradients(normals([2, 3, 4], [4, 5])) { matmul($0[0], $0[1]) }
            checkGradients(normals([1, 5, 6], [1, 4, 6], [1, 4, 6])) { attention($0[0], $0[1], $0[2], heads: 2) }
        }
    }

    /// Ragged ends, several tiles of queries and keys, keys hidden behind lengths; scores so large that references move.
    @Test func attentionOnTilesEqualsTheNaiveOne() async {
        await #expect(processExitsWith: .success) {
            Precision.current = .bfloat16x3
            Precision.takesSmall = true
            for (b, n, m, h, d) in [
                (1, 1, 1, 1, 8), (2, 3, 5, 2, 4), (2, 96, 96, 4, 32), (1, 300, 600, 2, 16), (1, 33, 257, 1, 72), (1, 260, 129, 2, 64),
            ] {
                for size: Float in [1, 12] {
                    let t = normals([b, n, h * d], [b, m, h * d], [b, m, h * d])
                    let q = t[0] * size
                    for lengths in [nil, (0..<b).map { max(1, m - 40 * ($0 + 1)) }] {
                        let shape = AttentionShape(Variable(q), Variable(t[1]), Variable(t[2]), heads: h, scale: nil, keyLengths: lengths)
                        let logs = Tensor(zeros: [b, h, n])
                        let result = shape.forwardOnTiles(q, t[1], t[2], logs)
                        #expect((result == nil) == !Precision.hasTiles)
                        guard let result else { continue }
                        let expected = AttentionTests().naive(q, t[1], t[2], heads: h, lengths: lengths)
                        // Scores of hundreds are right to 5e-6 of that, which exponentials turn into 1e-3.
                        #expect(result.relativeError(to: expected) < (size > 1 ? 2e-3 : 2e-5), "\((b, n, m, h, d)) times \(size)")
                        let exact = Tensor(zeros: [b, h, n])
                        Precision.current = .float32
                        _ = shape.forward(q, t[1], t[2], exact)
                        Precision.current = .bfloat16x3
                        #expect(logs.relativeError(to: exact) < 1e-5)
                    }
                }
            }
            let t = normals([1, 40, 16], [1, 50, 16], [1, 50, 16])
            for spoiled in 0..<3 {
                var inputs = t
                inputs[spoiled].withUnsafeMutableBufferPointer { $0[37] = .infinity }
                let shape = AttentionShape(
                    Variable(inputs[0]), Variable(inputs[1]), Variable(inputs[2]), heads: 2, scale: nil, keyLengths: nil)
                #expect(shape.forwardOnTiles(inputs[0], inputs[1], inputs[2], nil) == nil)
            }
        }
    }

    /// One head's gradients beside those of the Float32 kernel, whose own tests hold them against finite differences.
    @Test func attentionsGradientsOnTilesEqualThoseInFloat32() throws {
        let sizes = [(1, 1, 8), (33, 70, 72), (300, 129, 64), (16, 300, 20), (130, 128, 32)]
        for (n, m, d) in sizes {
            let t = normals([1, n, d], [1, m, d], [1, m, d], [n, d])
            let shape = AttentionShape(Variable(t[0]), Variable(t[1]), Variable(t[2]), heads: 1, scale: nil, keyLengths: nil)
            let logs = Tensor(zeros: [n])
            let y = shape.forward(t[0], t[1], t[2], logs)
            func gradients(queries dq: Bool = true, keys dk: Bool = true, _ run: (inout ck_attention_gradient) -> Void) -> [Tensor] {
                let results = [Tensor(zeros: [n, d]), Tensor(zeros: [m, d]), Tensor(zeros: [m, d])]
                var head = ck_attention_gradient()
                (head.q, head.k, head.v, head.y, head.dy) = (t[0].pointer, t[1].pointer, t[2].pointer, y.pointer, t[3].pointer)
                (head.logs, head.queries, head.keys, head.width) = (logs.pointer, n, m, d)
                (head.queryStride, head.keyStride, head.scale) = (d, d, shape.scale)
                if dq { head.dq = results[0].mutablePointer }
                if dk { head.dk = results[1].mutablePointer }
                head.dv = results[2].mutablePointer
                run(&head)
                withExtendedLifetime((t, y, logs)) {}
                return results
            }
            // The scratch must outlive the call: a tensor that nobody names any more goes back to the pool, and to another test.
            func inFloat32(_ head: inout ck_attention_gradient) {
                let scratch = Tensor(uninitialized: [ck_attention_backward_scratch(&head)])
                ck_attention_backward(&head, scratch.mutablePointer)
                withExtendedLifetime(scratch) {}
            }
            let exact = gradients(inFloat32)
            func onTiles(_ head: inout ck_attention_gradient) {
                let scratch = Tensor(uninitialized: [ck_amx_attention_backward_scratch(&head) / 4])
                let done = ck_amx_attention_backward(&head, scratch.mutablePointer) == 0
                #expect(done == Precision.hasTiles)
                // Without tiles the caller goes on in Float32.
                if !done { inFloat32(&head) }
                withExtendedLifetime(scratch) {}
            }
            let found = gradients(onTiles)
            // A single key has a probability of one, whatever the scores: nothing but rounding is left of dq and dk.
            for (one, other) in zip(found, exact) where m > 1 || one.count != n * d { #expect(one.relativeError(to: other) < 2e-5) }
            for (one, other) in zip(found, exact) { #expect(zip(one.array, other.array).allSatisfy { abs($0 - $1) < 2e-4 }) }
            let some = gradients(queries: false, keys: false, onTiles)
            #expect(some[2] == found[2])
            #expect(some[0].array.allSatisfy { $0 == 0 } && some[1].array.allSatisfy { $0 == 0 })
        }
    }
}
