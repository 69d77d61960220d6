import Foundation
import Tensors

/// Where a patch lies, added to it: diffusers' `PatchEmbed` with a square table of `pos_embed_max_size`² positions, of which an image
/// gets those in the middle.
///
/// A checkpoint carries the table, which is no parameter, as the buffer `pos_embed.pos_embed`. Its values are taken as they are, rounded
/// to the checkpoint's precision; without it they are computed as diffusers does it.
struct SD3PositionTable: Sendable {
    static let name = "pos_embed.pos_embed"
    let side: Int
    let width: Int
    /// [1,side²,width] of the checkpoint.
    private let stored: Tensor?
    /// [side,width/2]: sines, then cosines of a coordinate. The first half of a position is its column's, the second its row's.
    private let axis: [[Float]]

    static func shape(_ configuration: SD3Configuration) -> [Int] {
        [1, configuration.posEmbedMaxSize * configuration.posEmbedMaxSize, configuration.innerDim]
    }

    init(_ configuration: SD3Configuration, stored: Tensor?) {
        side = configuration.posEmbedMaxSize
        width = configuration.innerDim
        self.stored = stored
        axis = stored == nil ? Self.coordinates(configuration) : []
    }

    /// Coordinates are divided in single precision, angles are in double precision, as in `get_2d_sincos_pos_embed`.
    private static func coordinates(_ configuration: SD3Configuration) -> [[Float]] {
        let base = configuration.sampleSize / configuration.patchSize
        let spacing = Float(Double(configuration.posEmbedMaxSize) / Double(base))
        let frequencies = (0..<configuration.innerDim / 4).map { 1 / pow(10000, Double($0) / (Double(configuration.innerDim / 2) / 2)) }
        return (0..<configuration.posEmbedMaxSize).map { place in
            let angles = frequencies.map { Double(Float(place) / spacing) * $0 }
            return angles.map { Float(sin($0)) } + angles.map { Float(cos($0)) }
        }
    }

    /// [1,rows·columns,width] for an image of this many patches.
    func positions(rows: Int, columns: Int) -> Tensor {
        let top = (side - rows) / 2
        let left = (side - columns) / 2
        return Tensor(shape: [1, rows * columns, width]) { target in
            for row in 0..<rows {
                for column in 0..<columns {
                    let place = target.baseAddress! + (row * columns + column) * width
                    if let stored {
                        stored.withUnsafeBufferPointer { table in
                            place.update(from: table.baseAddress! + ((top + row) * side + left + column) * width, count: width)
                        }
                    } else {
                        place.update(from: axis[left + column], count: width / 2)
                        (place + width / 2).update(from: axis[top + row], count: width / 2)
                    }
                }
            }
        }
    }

    /// The whole table, as a checkpoint holds it.
    var tensor: Tensor { stored ?? positions(rows: side, columns: side) }
}

/// What the blocks are modulated by: the timestep and the text as a whole.
struct SD3TimeTextEmbedding {
    /// Fixed in diffusers.
    static let frequencyWidth = 256
    let time1, time2, text1, text2: Linear

    init(_ tree: ParameterTree, _ name: String, _ configuration: SD3Configuration) throws {
        let dim = configuration.innerDim
        time1 = try tree.linear("\(name).timestep_embedder.linear_1", Self.frequencyWidth, dim)
        time2 = try tree.linear("\(name).timestep_embedder.linear_2", dim, dim)
        text1 = try tree.linear("\(name).text_embedder.linear_1", configuration.pooledProjectionDim, dim)
        text2 = try tree.linear("\(name).text_embedder.linear_2", dim, dim)
    }

    /// B timesteps and [B,pooled_projection_dim] -> [B,D].
    func callAsFunction(_ timestep: [Float], pooled: Variable) -> Variable {
        let time = time2(time1(Variable(sinusoidalEmbedding(timestep, width: Self.frequencyWidth)), .silu))
        return add(time, text2(text1(pooled, .silu)))
    }
}
