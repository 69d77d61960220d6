import CKernels
import Synchronization

/// How the products of large matrices are computed.
///
/// Everything else (sums, norms, activations, optimizers) is always Float32, and so are the tensors themselves.
public enum Precision: String, Sendable, CaseIterable {
    /// Float32 throughout.
    case float32
    /// Every operand of a large product is split into two bfloat16 numbers, a = a₁ + a₂, and a b is a₁ b₁ + a₁ b₂ + a₂ b₁, summed in Float32:
    /// about 5e-6 relative to the magnitudes that are multiplied, where Float32 has 4e-7. Runs on the matrix tiles of CPUs that have them
    /// (Intel AMX): linear layers three times as fast as in Float32, attention twice. Elsewhere, and for small products, the same as
    /// `float32`: vector instructions for bfloat16 make two multiplications where Float32 makes one, which does not pay for three products.
    /// Denormal operands count as zero; products of operands that bfloat16 cannot hold (infinities, NaN, magnitudes from 3.39e38) are
    /// computed in Float32.
    case bfloat16x3

    private static let chosen = Atomic<Bool>(false)

    /// The precision of the products of this process from now on; `float32` at first.
    public static var current: Precision {
        get { chosen.load(ordering: .relaxed) ? .bfloat16x3 : .float32 }
        set { chosen.store(newValue == .bfloat16x3, ordering: .relaxed) }
    }

    /// Whether this CPU and this system have what `bfloat16x3` needs; where not, it computes in Float32.
    public static var hasTiles: Bool { ck_amx() != 0 }

    /// What computes large products now, for logs.
    static var description: String {
        switch current {
        case .float32: "float32"
        case .bfloat16x3: hasTiles ? "bfloat16x3 on AMX" : "bfloat16x3 as float32 (no AMX)"
        }
    }

    /// For tests: splits products of every size.
    static var takesSmall: Bool {
        get { small.load(ordering: .relaxed) }
        set { small.store(newValue, ordering: .relaxed) }
    }
    private static let small = Atomic<Bool>(false)
}

/// c (+)= alpha op(A) op(B) + bias in bfloat16x3, with an activation on top. op(A) is [rows, depth], op(B) [depth, columns].
struct SplitProduct {
    let rows: Int
    let columns: Int
    let depth: Int

    /// Whether `bfloat16x3` is asked for, possible, and faster than Float32 for these sizes (measured beside OpenBLAS on an Emerald Rapids).
    var isWorthwhile: Bool {
        guard Precision.current == .bfloat16x3, Precision.hasTiles, rows > 0, columns > 0, depth > 0 else { return false }
        if Precision.takesSmall { return true }
        return rows >= 32 && columns >= 32 && depth >= 32 && rows * columns * depth >= 1 << 20
    }

    /// Rows in a part: the C code packs blocks of 256 rows of op(A), and rereads op(B) for each of them.
    private var rowsInPart: Int {
        let parts = (rows + 255) / 256
        return ((rows + parts - 1) / parts + 31) / 32 * 32
    }

    private var panels: Int { (columns + 31) / 32 }

    /// On the calling thread. False where an operand holds what bfloat16 cannot; c is then as it was if it accumulates, else undefined.
    func callAsFunction(
        alpha: Float, _ a: Product.Matrix, _ b: Product.Matrix, into c: UnsafeMutablePointer<Float>, stride: Int, adds: Bool
    ) -> Bool {
        let bytes = ck_amx_packed_bytes(depth, columns)
        guard let packed = ck_amx_allocate(bytes) else { return false }
        defer { ck_release(packed, bytes) }
        return ck_amx_pack(b.pointer, b.stride, b.transposed ? 1 : 0, depth, columns, 0, panels, packed) == 0
            && ck_amx_multiply_packed(
                alpha, a.pointer, a.stride, a.transposed ? 1 : 0, packed, rows, columns, depth, c, stride, adds ? 1 : 0, nil, 0, nil) == 0
    }

    /// Over the threads; op(B) is packed once for all parts. False, with c untouched, where op(B) holds what bfloat16 cannot; parts of
    /// op(A) that do are multiplied in Float32.
    func spread(
        _ a: Product.Matrix, _ b: Product.Matrix, into c: UnsafeMutablePointer<Float>, stride: Int, adds: Bool, epilogue: Product.Epilogue
    ) -> Bool {
        let bytes = ck_amx_packed_bytes(depth, columns)
        guard let packed = ck_amx_allocate(bytes) else { return false }
        defer { ck_release(packed, bytes) }
        let refused = Atomic<Bool>(false)
        forParts(panels, cost: 32 * depth) { part in
            if ck_amx_pack(b.pointer, b.stride, b.transposed ? 1 : 0, depth, columns, part.lowerBound, part.upperBound, packed) != 0 {
                refused.store(true, ordering: .relaxed)
            }
        }
        if refused.load(ordering: .relaxed) { return false }
        let part = rowsInPart
        forEachIndex((rows + part - 1) / part) { index in
            let start = index * part
            let count = min(part, rows - start)
            let left = a.pointer + start * (a.transposed ? 1 : a.stride)
            let target = c + start * stride
            let activated = epilogue.activated.map { $0 + start * stride }
            if ck_amx_multiply_packed(
                1, left, a.stride, a.transposed ? 1 : 0, packed, count, columns, depth, target, stride, adds ? 1 : 0, epilogue.bias,
                epilogue.activation, activated) == 0
            {
                return
            }
            BLAS.multiply(
                transposeA: a.transposed, transposeB: b.transposed, m: count, n: columns, k: depth, left, lda: a.stride, b.pointer,
                ldb: b.stride, beta: adds ? 1 : 0, target, ldc: stride)
            for row in 0..<count {
                let values = target + row * stride
                if let activated {
                    ck_bias_activate(epilogue.activation, values, epilogue.bias, activated + row * stride, 1, columns)
                } else if let bias = epilogue.bias {
                    ck_add(values, bias, values, columns)
                }
            }
        }
        return true
    }
}
