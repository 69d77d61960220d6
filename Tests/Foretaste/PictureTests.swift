import Testing

@testable import Foretaste

/// The animated picture's file, read back by the specification's words.
@Suite struct PictureTests {
    private struct Chunk {
        let type: String
        let content: [UInt8]
    }

    private func number(_ bytes: some Sequence<UInt8>) -> UInt32 { bytes.reduce(0) { $0 << 8 | UInt32($1) } }

    /// CRC-32 bit by bit, as the specification's annex defines it.
    private func checksum(_ bytes: [UInt8]) -> UInt32 {
        var crc: UInt32 = 0xFFFF_FFFF
        for byte in bytes {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? 0xEDB8_8320 ^ (crc >> 1) : crc >> 1 }
        }
        return crc ^ 0xFFFF_FFFF
    }

    private func chunks(_ file: [UInt8]) throws -> [Chunk] {
        try #require(file.starts(with: [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]))
        var chunks: [Chunk] = []
        var at = 8
        while at < file.count {
            let length = Int(number(file[at..<at + 4]))
            let body = Array(file[at + 4..<at + 8 + length])
            #expect(number(file[at + 8 + length..<at + 12 + length]) == checksum(body), "chunk at \(at)")
            chunks.append(Chunk(type: String(decoding: body.prefix(4), as: UTF8.self), content: Array(body.dropFirst(4))))
            at += 12 + length
        }
        return chunks
    }

    /// The bytes inside a zlib stream of stored blocks.
    private func stored(_ stream: [UInt8]) throws -> [UInt8] {
        #expect(number(stream.prefix(2)) % 31 == 0 && stream[0] & 15 == 8)
        var data: [UInt8] = []
        var at = 2
        while true {
            let (last, length) = (stream[at], Int(stream[at + 1]) | Int(stream[at + 2]) << 8)
            try #require(last <= 1 && Int(stream[at + 3]) | Int(stream[at + 4]) << 8 == ~length & 0xFFFF)
            data += stream[at + 5..<at + 5 + length]
            at += 5 + length
            if last == 1 { break }
        }
        var (low, high): (UInt32, UInt32) = (1, 0)
        for byte in data {
            low = (low + UInt32(byte)) % 65521
            high = (high + low) % 65521
        }
        #expect(Array(stream[at...]).count == 4 && number(stream[at...]) == high << 16 | low)
        return data
    }

    @Test func theFileHoldsEachFrameUnchanged() throws {
        // Wide enough that a frame takes more than one stored block.
        var picture = PNGAnimation(width: 210, height: 120)
        picture.frames = (0..<3).map { frame in (0..<210 * 120 * 3).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ frame) } }
        let file = picture.encoded()
        // What every PNG file ends with.
        #expect(file.suffix(12) == [0, 0, 0, 0, 0x49, 0x45, 0x4E, 0x44, 0xAE, 0x42, 0x60, 0x82])
        let chunks = try chunks(file)
        #expect(chunks.map(\.type) == ["IHDR", "acTL", "fcTL", "IDAT", "fcTL", "fdAT", "fcTL", "fdAT", "IEND"])
        #expect(chunks[0].content == [0, 0, 0, 210, 0, 0, 0, 120, 8, 2, 0, 0, 0])
        #expect(chunks[1].content == [0, 0, 0, 3, 0, 0, 0, 0])
        // Frame controls and the later frames' data are counted as one sequence.
        let numbered = chunks.filter { $0.type == "fcTL" || $0.type == "fdAT" }
        #expect(numbered.map { number($0.content.prefix(4)) } == [0, 1, 2, 3, 4])
        let streams =
            chunks.filter { $0.type == "IDAT" }.map(\.content) + chunks.filter { $0.type == "fdAT" }.map { Array($0.content.dropFirst(4)) }
        for (frame, stream) in streams.enumerated() {
            let rows = try stored(stream)
            let pixels = (0..<120).flatMap { row in
                let start = row * 631
                #expect(rows[start] == 0)
                return rows[start + 1..<start + 631]
            }
            #expect(pixels == picture.frames[frame])
        }
    }

    @Test func aSheetLaysItsClipsOnAGridWithTheirVerdict() throws {
        let clip = { (value: Float, good: Bool) in ContactSheet.Clip(pixels: [Float](repeating: value, count: 3 * 2 * 4 * 4), good: good) }
        let sheet = ContactSheet.draw(rows: [[clip(1, true), clip(0, false)]], frames: 2, height: 4, width: 4, scale: 2)
        #expect(sheet.frames.count == 2 && sheet.width == 2 * 12 + 5 && sheet.height == 12)
        func pixel(_ x: Int, _ y: Int) -> [UInt8] { Array(sheet.frames[0][(y * sheet.width + x) * 3..<(y * sheet.width + x) * 3 + 3]) }
        #expect(pixel(6, 6) == [255, 255, 255] && pixel(17 + 6, 6) == [0, 0, 0])
        let (good, flawed) = (pixel(0, 0), pixel(17, 0))
        #expect(good[1] > good[0] && flawed[0] > flawed[1], "a green frame and a red one")
    }
}
