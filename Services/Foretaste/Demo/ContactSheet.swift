/// A grid of short clips as one animated picture: what a person looks at before believing a number.
enum ContactSheet {
    /// One clip: values 0…1, `[3, frames, height, width]` row-major, and whether the annotator calls it good.
    struct Clip {
        var pixels: [Float]
        var good: Bool
    }

    /// Lays `rows` of clips on a grid; a thin frame around each clip says good (green) or flawed (red).
    /// - Parameters:
    ///   - rows: equally long rows.
    ///   - scale: how many picture pixels a clip pixel is wide.
    static func draw(rows: [[Clip]], frames: Int, height: Int, width: Int, scale: Int = 3) -> PNGAnimation {
        let border = 2, gap = 5
        let cellHeight = height * scale + 2 * border, cellWidth = width * scale + 2 * border
        let columns = rows.map(\.count).max() ?? 0
        var sheet = PNGAnimation(width: columns * (cellWidth + gap) - gap, height: rows.count * (cellHeight + gap) - gap)
        for frame in 0..<frames {
            var image = [UInt8](repeating: 250, count: sheet.width * sheet.height * 3)
            for (r, row) in rows.enumerated() {
                for (c, clip) in row.enumerated() {
                    let top = r * (cellHeight + gap), left = c * (cellWidth + gap)
                    for y in 0..<cellHeight {
                        for x in 0..<cellWidth {
                            let at = ((top + y) * sheet.width + left + x) * 3
                            let py = (y - border) >= 0 ? (y - border) / scale : -1
                            let px = (x - border) >= 0 ? (x - border) / scale : -1
                            if py < 0 || px < 0 || py >= height || px >= width {
                                let colour: [UInt8] = clip.good ? [58, 150, 90] : [200, 80, 60]
                                for channel in 0..<3 { image[at + channel] = colour[channel] }
                            } else {
                                for channel in 0..<3 {
                                    let value = clip.pixels[((channel * frames + frame) * height + py) * width + px]
                                    image[at + channel] = UInt8(max(0, min(255, value * 255)))
                                }
                            }
                        }
                    }
                }
            }
            sheet.frames.append(image)
        }
        return sheet
    }
}
