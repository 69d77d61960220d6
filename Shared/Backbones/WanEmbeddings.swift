import Foundation
import Synchronization
import Tensors

/// The sinusoidal timestep embedding of diffusers' `Timesteps(flip_sin_to_cos=True, downscale_freq_shift=0)`: [B] -> [B,width],
/// cosines first. Float32 throughout, as there: the angles reach 1000, and their rounding is part of the number.
func sinusoidalEmbedding(_ timestep: [Float], width: Int) -> Tensor {
    let half = width / 2
    let frequencies = (0..<half).map { expf(-logf(10000) * Float($0) / Float(half)) }
    var values: [Float] = []
    values.reserveCapacity(timestep.count * width)
    for t in timestep {
        let angles = frequencies.map { t * $0 }
        values += angles.map(cosf) + angles.map(sinf) + [Float](repeating: 0, count: width - 2 * half)
    }
    return Tensor(values, shape: [timestep.count, width])
}

/// Cosines and sines [N,head_dim/2] for the tokens of one grid.
struct RotaryTable: Sendable {
    let cos: Tensor
    let sin: Tensor

    /// Frames get what rows and columns leave of the head's width; angles in double precision, as diffusers has them.
    init(grid: [Int], headDim: Int) {
        let side = 2 * (headDim / 6)
        let widths = [headDim - 2 * side, side, side]
        let angles = zip(grid, widths).map { extent, width in
            (0..<extent).map { position in (0..<width / 2).map { Double(position) / pow(10000, Double(2 * $0) / Double(width)) } }
        }
        var cosines: [Float] = []
        var sines: [Float] = []
        for f in 0..<grid[0] {
            for h in 0..<grid[1] {
                for w in 0..<grid[2] {
                    for angle in angles[0][f] + angles[1][h] + angles[2][w] {
                        cosines.append(Float(Foundation.cos(angle)))
                        sines.append(Float(Foundation.sin(angle)))
                    }
                }
            }
        }
        let shape = [grid.reduce(1, *), headDim / 2]
        cos = Tensor(cosines, shape: shape)
        sin = Tensor(sines, shape: shape)
    }
}

/// The last grid's table, shared by a model and its replicas.
final class RotaryTableCache: Sendable {
    private let last = Mutex<(grid: [Int], table: RotaryTable)?>(nil)

    func table(grid: [Int], configuration: WanConfiguration) -> RotaryTable {
        last.withLock { last in
            if let last, last.grid == grid { return last.table }
            let table = RotaryTable(grid: grid, headDim: configuration.attentionHeadDim)
            last = (grid, table)
            return table
        }
    }
}
