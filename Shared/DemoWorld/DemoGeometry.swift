/// The world's sizes and its drawing of a shape into a frame.
public enum DemoGeometry {
    /// Frames a clip.
    public static let frames = 6
    /// Pixels a side.
    public static let size = 16
    /// Pixels a side of the box that a shape fills.
    public static let box = 6
    /// Pixels a side of a latent cell; also the distance that a shape moves in a frame.
    public static let cell = 2
    /// [3, 6, 16, 16].
    public static let clipShape = [3, frames, size, size]
    /// [12, 6, 8, 8].
    public static let latentShape = [12, frames, size / cell, size / cell]
    /// The value of every channel where nothing is.
    public static let background: Float = 0.1

    static let pixels = size * size
    static let clipCount = 3 * frames * pixels
    static let latentCount = 12 * frames * 64

    /// A colour's distance from the background, a value a channel.
    static func deviation(_ colour: DemoPrompt.Colour) -> [Float] {
        (0..<3).map { ($0 == colour.rawValue ? 0.9 : 0.2) - background }
    }

    /// Widths of the shape's six rows, centred in the box.
    static func rowWidths(_ shape: DemoPrompt.Shape) -> [Int] {
        shape == .diamond ? [2, 4, 6, 6, 4, 2] : [6, 4, 2, 2, 4, 6]
    }

    /// Calls `body` with the frame's pixel indices that the shape covers when its box's corner lies at (`top`, `left`);
    /// what falls outside the frame is cut off.
    @inline(__always)
    static func forEachPixel(_ shape: DemoPrompt.Shape, top: Int, left: Int, _ body: (Int) -> Void) {
        for (row, width) in rowWidths(shape).enumerated() {
            let y = top + row
            guard y >= 0, y < size else { continue }
            let first = max(0, left + 3 - width / 2)
            let last = min(size, left + 3 + width / 2)
            var x = first
            while x < last {
                body(y * size + x)
                x += 1
            }
        }
    }
}
