import COpenBLAS
import Tensors

/// The machine's own matrix products, called as anybody would: `cblas_sgemm` of OpenBLAS at the sizes of the work's linears, each thread
/// with its share of the rows.
struct Sgemm {
    /// Rows of x in all, inputs, outputs: x [rows, inputs] times Wᵀ [inputs, outputs].
    struct Size {
        let rows, inputs, outputs: Int
        var flops: Double { 2 * Double(rows) * Double(inputs) * Double(outputs) }
    }
    let sizes: [Size]
    private let x, weight, y: Tensor

    init(sizes: [Size]) {
        self.sizes = sizes
        x = numbers([sizes.map { $0.rows * $0.inputs }.max()!], seed: 11)
        weight = numbers([sizes.map { $0.inputs * $0.outputs }.max()!], seed: 12, scale: 0.01)
        y = Tensor(zeros: [sizes.map { $0.rows * $0.outputs }.max()!])
    }

    /// The best rate of the sizes, in GFLOP/s of all threads together, by wall time and by CPU time; each is timed for at least a fifth of
    /// a second.
    func best() -> (wall: Double, cpu: Double) {
        var best = (wall: 0.0, cpu: 0.0)
        for size in sizes {
            once(size)
            var (calls, wall, cpu) = (0.0, 0.0, 0.0)
            repeat {
                let spent = measured { once(size) }
                wall += spent.wall
                cpu += spent.cpu
                calls += 1
            } while wall < 0.2
            let work = size.flops * calls * 1e-9
            best = (max(best.wall, work / wall), max(best.cpu, work / cpu * Double(NumericThreads.count)))
        }
        return best
    }

    private func once(_ size: Size) {
        let threads = NumericThreads.count
        let share = (size.rows + threads - 1) / threads
        let pointers = Pointers(x: x, weight: weight, y: y)
        NumericThreads.parallelFor(threads) { index in
            let first = index * share
            let rows = min(share, size.rows - first)
            guard rows > 0 else { return }
            cblas_sgemm(
                CblasRowMajor, CblasNoTrans, CblasTrans, Int32(rows), Int32(size.outputs), Int32(size.inputs), 1,
                pointers.x + first * size.inputs, Int32(size.inputs), pointers.weight, Int32(size.inputs), 0,
                pointers.y + first * size.outputs, Int32(size.outputs))
        }
        withExtendedLifetime((x, weight, y)) {}
    }

    private struct Pointers: @unchecked Sendable {  // every thread writes rows of its own
        let x, weight: UnsafePointer<Float>
        let y: UnsafeMutablePointer<Float>

        init(x: Tensor, weight: Tensor, y: Tensor) {
            self.x = x.withUnsafeBufferPointer { $0.baseAddress! }
            self.weight = weight.withUnsafeBufferPointer { $0.baseAddress! }
            self.y = UnsafeMutablePointer(mutating: y.withUnsafeBufferPointer { $0.baseAddress! })
        }
    }
}
