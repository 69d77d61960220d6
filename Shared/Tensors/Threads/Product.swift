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
        let packs = ck_packs() != 0 && rows > 1 && depth > 0
        let part = packs ? parts : Parts(rows: rowsForOpenBLAS, columns: columns)
        // A matrix that fits the second cache is read where it lies: packing it would cost more than its strides do.
        let direct = !b.transposed && columns % 32 == 0 && rows <= 1024 && columns * depth <= 1 << 19
        let packed = packs && !direct ? pack(b) : nil
        let across = (columns + part.columns - 1) / part.columns
        forEachIndex((rows + part.rows - 1) / part.rows * across) { index in
            let (row, column) = (index / across * part.rows, index % across * part.columns)
            let (height, width) = (min(part.rows, rows - row), min(part.columns, columns - column))
            let left = a.pointer + row * (a.transposed ? 1 : a.stride)
            let target = c + row * stride + column
            let activated = epilogue.activated.map { $0 + row * stride + column }
            if packs {
                ck_multiply_packed(
                    left, a.stride, a.transposed ? 1 : 0, packed.map { $0.pointer + column * depth } ?? (b.pointer + column),
                    direct ? b.stride : 0, height, width, depth, target, stride, adds ? 1 : 0, epilogue.bias.map { $0 + column },
                    epilogue.activation, activated)
            } else {
                BLAS.multiply(
                    transposeA: a.transposed, transposeB: b.transposed, m: height, n: width, k: depth, left, lda: a.stride, b.pointer,
                    ldb: b.stride, beta: adds ? 1 : 0, target, ldc: stride)
                finish(target, activated, stride: stride, rows: height, epilogue)
            }
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

    /// What one part computes.
    private struct Parts {
        let rows: Int
        let columns: Int
    }

    /// A part of a large product has some 768 rows, so that a piece of op(B), fetched from memory into the second cache, is used often enough
    /// to be paid for; columns are parted as well until there are sixteen parts. Columns are whole panels of 32.
    private var parts: Parts {
        guard rows * columns * depth > 40_000_000 else { return Parts(rows: rowsForOpenBLAS, columns: columns) }
        let down = max(1, (rows + 384) / 768)
        let across = max(1, min(columns / 256, (15 + down) / down))
        return Parts(rows: ((rows + down - 1) / down + 11) / 12 * 12, columns: ((columns + across - 1) / across + 31) / 32 * 32)
    }

    /// About 20 MFLOP a part (a tenth of a millisecond), and rows enough that packing op(B), which OpenBLAS does anew for each part, costs
    /// little beside the arithmetic.
    private var rowsForOpenBLAS: Int {
        let work = columns * max(depth, 1)
        let wanted = max(rows >= 1536 ? 768 : 192, 10_000_000 / max(work, 1))
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
