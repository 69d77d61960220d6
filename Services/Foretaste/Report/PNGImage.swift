/// An animated picture in the PNG format (APNG): what a browser shows without any script.
///
/// Source: the PNG specification, third edition (acTL, fcTL, fdAT). The pixels are stored without compression: the contact sheets are a few
/// tens of kilobytes, and this keeps the writer a page long.
struct PNGAnimation {
    let width: Int
    let height: Int
    /// Each frame: `width × height × 3` bytes, RGB, row by row.
    var frames: [[UInt8]] = []
    /// Milliseconds that a frame stays.
    var delay: Int = 220

    init(width: Int, height: Int) {
        self.width = width
        self.height = height
    }

    /// The file's bytes.
    func encoded() -> [UInt8] {
        var file: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]
        append(chunk: "IHDR", bigEndian(UInt32(width)) + bigEndian(UInt32(height)) + [8, 2, 0, 0, 0], to: &file)
        append(chunk: "acTL", bigEndian(UInt32(frames.count)) + bigEndian(0), to: &file)
        var sequence: UInt32 = 0
        for (index, frame) in frames.enumerated() {
            var control = bigEndian(sequence) + bigEndian(UInt32(width)) + bigEndian(UInt32(height)) + bigEndian(0) + bigEndian(0)
            control += [UInt8(delay >> 8), UInt8(delay & 255), UInt8(1000 >> 8), UInt8(1000 & 255), 0, 0]
            append(chunk: "fcTL", control, to: &file)
            sequence += 1
            let data = zlib(filtered(frame))
            if index == 0 {
                append(chunk: "IDAT", data, to: &file)
            } else {
                append(chunk: "fdAT", bigEndian(sequence) + data, to: &file)
                sequence += 1
            }
        }
        append(chunk: "IEND", [], to: &file)
        return file
    }

    /// Each row with the filter byte 0 (none) in front.
    private func filtered(_ frame: [UInt8]) -> [UInt8] {
        var rows: [UInt8] = []
        rows.reserveCapacity(height * (width * 3 + 1))
        for row in 0..<height {
            rows.append(0)
            rows += frame[row * width * 3..<(row + 1) * width * 3]
        }
        return rows
    }

    /// A zlib stream of stored blocks.
    private func zlib(_ data: [UInt8]) -> [UInt8] {
        var stream: [UInt8] = [0x78, 0x01]
        var start = 0
        repeat {
            let length = min(65535, data.count - start)
            let last: UInt8 = start + length == data.count ? 1 : 0
            stream += [last, UInt8(length & 255), UInt8(length >> 8), UInt8(~length & 255), UInt8((~length >> 8) & 255)]
            stream += data[start..<start + length]
            start += length
        } while start < data.count
        var low: UInt32 = 1
        var high: UInt32 = 0
        for byte in data {
            low = (low + UInt32(byte)) % 65521
            high = (high + low) % 65521
        }
        return stream + bigEndian(high << 16 | low)
    }

    private func append(chunk type: String, _ content: [UInt8], to file: inout [UInt8]) {
        let body = Array(type.utf8) + content
        file += bigEndian(UInt32(content.count)) + body + bigEndian(Self.checksum(body))
    }

    private func bigEndian(_ value: UInt32) -> [UInt8] {
        [UInt8(value >> 24), UInt8(value >> 16 & 255), UInt8(value >> 8 & 255), UInt8(value & 255)]
    }

    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? 0xEDB8_8320 ^ (value >> 1) : value >> 1 }
    }

    private static func checksum(_ bytes: [UInt8]) -> UInt32 {
        ~bytes.reduce(~UInt32(0)) { table[Int(($0 ^ UInt32($1)) & 255)] ^ ($0 >> 8) }
    }
}
