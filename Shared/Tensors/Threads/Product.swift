import CKernels

/// c (+)= op(A) op(B) + bias, with an activation on top: the product under linear layers and convolutions, split over threads.
///
/// Where the CPU has kernels for packed matrices, op(B) is packed once for all parts, and bias and activation are applied while a part is in
/// the cache; else every part is a call of OpenBLAS. Parts follow from the sizes alone.
struct Product {
    /// op(A) is [rows, depth], op(B) [depth, columns].
    let rows: Int
    let columns: Int
    let depth: Int

    /// A matrix as it lies in memory: `stride` values from row to row.
    struct Matrix {
        let pointer: UnsafePointer<Float>
        let stride: Int
        /// op(M) is the transpose of what lies there.
        var transposed = false
    }

    /// What happens to the product before it is left.
    struct Epilogue {
        /// One value a column.
        var bias: UnsafePointer<Float>?
        /// Where f(c) goes, rows as far apart as those of c; may be c itself.
        var activated: UnsafeMutablePointer<Float>?
        /// Which f.
        var activation: Int32 = 0
    }

    func callAsFunction(
        _ a: Matrix, _ b: Matrix, into c: UnsafeMutablePointer<Float>, stride: Int, adds: Bool = false, epilogue: Epilogue = Epilogue()
    ) {
        guard rows > 0, columns > 0 else { return }
        let split = SplitProduct(rows: rows, columns: columns, depth: depth)
        if split.isWorthwhile, split.spread(a, b, into: c, stride: stride, adds: adds, epilogue: epilogue) { return }
        let part = rowsInPart
        let parts = (rows + part - 1) / part
        guard ck_packs() != 0, rows > 1, depth > 0 else {
            return forEachIndex(parts) { index in
                let start = index * part
                let count = min(part, rows - start)
                let target = c + start * stride
                BLAS.multiply(
                    transposeA: a.transposed, transposeB: b.transposed, m: count, n: columns, k: depth,
                    a.pointer + start * (a.transposed ? 1 : a.stride), lda: a.stride, b.pointer, ldb: b.stride, beta: adds ? 1 : 0, target,
                    ldc: stride)
                finish(target, epilogue.activated.map { $0 + start * stride }, stride: stride, rows: count, epilogue)
            }
        }
        // A matrix that fits the second cache is read where it lies: packing it would cost more than its strides do.
        let direct = !b.transposed && columns % 32 == 0 && rows <= 1024 && columns * depth <= 1 << 19
        let packed = direct ? nil : pack(b)
        forEachIndex(parts) { index in
            let start = index * part
            ck_multiply_packed(
                a.pointer + start * (a.transposed ? 1 : a.stride), a.stride, a.transposed ? 1 : 0, packed?.pointer ?? b.pointer,
                direct ? b.stride : 0, min(part, rows - start), columns, depth, c + start * stride, stride, adds ? 1 : 0, epilogue.bias,
                epilogue.activation, epilogue.activated.map { $0 + start * stride })
        }
        withExtendedLifetime(packed) {}
    }

    private func pack(_ b: Matrix) -> Tensor {
        let packed = Tensor(uninitialized: [ck_packed_count(depth, columns)])
        forParts((columns + 31) / 32, cost: 32 * depth) { panels in
            ck_pack(
                b.pointer, b.stride, b.transposed ? 1 : 0, depth, columns, panels.lowerBound, panels.upperBound, packed.mutablePointer)
        }
        return packed
    }

    /// About 20 MFLOP a part (a tenth of a millisecond), and rows enough that op(B), read once a part, costs little beside the arithmetic.
    private var rowsInPart: Int {
        let work = columns * max(depth, 1)
        let wanted = max(192, 10_000_000 / max(work, 1))
        var parts = max(1, (rows + wanted / 2) / wanted)
        if parts < 4, rows * work > 40_000_000 { parts = min(4, max(1, rows / 48)) }
        return ((rows + parts - 1) / parts + 11) / 12 * 12
    }

    private func finish(
        _ c: UnsafeMutablePointer<Float>, _ activated: UnsafeMutablePointer<Float>?, stride: Int, rows: Int, _ epilogue: Epilogue
    ) {
        guard epilogue.bias != nil || activated != nil else { return }
        if let activated, stride == columns {
            return ck_bias_activate(epilogue.activation, c, epilogue.bias, activated, rows, columns)
        }
        for row in 0..<rows {
            let target = c + row * stride
            if let activated {
                ck_bias_activate(epilogue.activation, target, epilogue.bias, activated + row * stride, 1, columns)
            } else if let bias = epilogue.bias {
                ck_add(target, bias, target, columns)
            }
        }
    }
}
