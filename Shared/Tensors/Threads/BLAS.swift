import CKernels
import COpenBLAS

/// The one door to OpenBLAS: always single-threaded, always called from parts that this module chose.
enum BLAS {
    private static let ready: Bool = {
        ck_prepare_blas()
        // Already one since the process started (startup.c); asking again would start the threads that were ended there.
        if openblas_get_num_threads() != 1 { openblas_set_num_threads(1) }
        return true
    }()

    /// Before any BLAS call; cheap after the first time.
    @inline(__always)
    static func prepare() { _ = ready }

    static var coreName: String {
        prepare()
        return openblas_get_corename().map { String(cString: $0) } ?? "unknown"
    }

    /// C = alpha op(A) op(B) + beta C, row-major; op(A) is [m, k], op(B) is [k, n]; ld* are row strides of the matrices as stored.
    @inline(__always)
    static func multiply(
        transposeA: Bool = false, transposeB: Bool = false, m: Int, n: Int, k: Int, alpha: Float = 1, _ a: UnsafePointer<Float>, lda: Int,
        _ b: UnsafePointer<Float>, ldb: Int, beta: Float, _ c: UnsafeMutablePointer<Float>, ldc: Int
    ) {
        guard m > 0, n > 0 else { return }
        if Precision.current == .bfloat16x3, alpha != 0, beta == 0 || beta == 1 {
            let product = SplitProduct(rows: m, columns: n, depth: k)
            if product.isWorthwhile,
                product(
                    alpha: alpha, .init(pointer: a, stride: lda, transposed: transposeA),
                    .init(pointer: b, stride: ldb, transposed: transposeB), into: c, stride: ldc, adds: beta == 1)
            {
                return
            }
        }
        prepare()
        cblas_sgemm(
            CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans, Int32(m), Int32(n), Int32(k),
            alpha,
            a, Int32(lda), b, Int32(ldb), beta, c, Int32(ldc))
    }
}

/// What computes here, for logs: the CPU, OpenBLAS's kernels, the precision of large products and the number of threads.
public var machine: String {
    let cpu = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { String(cString: ck_describe_cpu($0.baseAddress!, 512)) }
    return "\(cpu); OpenBLAS \(BLAS.coreName); \(Precision.description); \(NumericThreads.count) threads"
}
