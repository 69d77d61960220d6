public import Tensors

/// The world's "VAE": opponent colours times the 2×2 Haar basis, orthonormal, so that decoding an encoded clip gives it back.
public struct DemoCodec: Sendable {
    /// [12, 12]: row = latent channel, column = (colour, pixel row, pixel column) of a cell.
    public let basis: Tensor
    /// A latent is the projection divided by this.
    public static let scale: Float = 0.25

    public init(basis: Tensor) {
        precondition(basis.shape == [12, 12], "the codec's basis is [12, 12], not \(basis.shape)")
        self.basis = basis
    }

    /// [N, 3, 6, 16, 16] in 0…1 → [N, 12, 6, 8, 8].
    public func encode(_ clips: Tensor) -> Tensor {
        precondition(Array(clips.shape.dropFirst()) == DemoGeometry.clipShape, "clips are [N, 3, 6, 16, 16], not \(clips.shape)")
        let count = clips.shape[0]
        return Tensor(shape: [count] + DemoGeometry.latentShape) { latents in
            clips.withUnsafeBufferPointer { pixels in
                basis.withUnsafeBufferPointer { basis in
                    Self.forEachCell(count) { clip, latent, patch in
                        for index in 0..<12 { patch[index] = pixels[clip + Self.offset(index)] - DemoGeometry.background }
                        for channel in 0..<12 {
                            var sum: Float = 0
                            for index in 0..<12 { sum += basis[channel * 12 + index] * patch[index] }
                            latents[latent + channel * Self.plane] = sum / Self.scale
                        }
                    }
                }
            }
        }
    }

    /// [N, 12, 6, 8, 8] → [N, 3, 6, 16, 16], not clamped.
    public func decode(_ latents: Tensor) -> Tensor {
        precondition(Array(latents.shape.dropFirst()) == DemoGeometry.latentShape, "latents are [N, 12, 6, 8, 8], not \(latents.shape)")
        let count = latents.shape[0]
        return Tensor(shape: [count] + DemoGeometry.clipShape) { pixels in
            latents.withUnsafeBufferPointer { latents in
                basis.withUnsafeBufferPointer { basis in
                    Self.forEachCell(count) { clip, latent, patch in
                        for channel in 0..<12 { patch[channel] = latents[latent + channel * Self.plane] * Self.scale }
                        for index in 0..<12 {
                            var sum: Float = 0
                            for channel in 0..<12 { sum += basis[channel * 12 + index] * patch[channel] }
                            pixels[clip + Self.offset(index)] = sum + DemoGeometry.background
                        }
                    }
                }
            }
        }
    }

    /// Elements of one latent channel.
    private static let plane = DemoGeometry.frames * 64

    /// Where component (colour, pixel row, pixel column) of a cell lies, from the cell's first pixel.
    @inline(__always)
    private static func offset(_ index: Int) -> Int {
        (index >> 2) * DemoGeometry.frames * DemoGeometry.pixels + ((index >> 1) & 1) * DemoGeometry.size + (index & 1)
    }

    /// Calls `body` with each cell's first pixel, its first latent element, and scratch for its twelve values.
    private static func forEachCell(_ count: Int, _ body: (Int, Int, UnsafeMutableBufferPointer<Float>) -> Void) {
        withUnsafeTemporaryAllocation(of: Float.self, capacity: 12) { patch in
            for item in 0..<count {
                for frame in 0..<DemoGeometry.frames {
                    for row in 0..<8 {
                        for column in 0..<8 {
                            let clip = item * DemoGeometry.clipCount + frame * DemoGeometry.pixels + row * 32 + column * 2
                            body(clip, item * DemoGeometry.latentCount + frame * 64 + row * 8 + column, patch)
                        }
                    }
                }
            }
        }
    }
}
