import Foundation
import NIOCore

/// Cuts a stream of pieces into lines.
struct LineSplitter {
    private var rest = ByteBuffer()

    /// The whole lines that a piece completes, without their ends.
    mutating func add(_ piece: ByteBuffer) -> [ByteBuffer] {
        var piece = piece
        var lines: [ByteBuffer] = []
        while let length = piece.withUnsafeReadableBytes({ offset(of: UInt8(ascii: "\n"), in: $0) }) {
            var line = piece.readSlice(length: length)!
            piece.moveReaderIndex(forwardBy: 1)
            if rest.readableBytes > 0 {
                rest.writeBuffer(&line)
                line = rest
                rest = ByteBuffer()
            }
            lines.append(line)
        }
        rest.writeBuffer(&piece)
        return lines
    }

    /// The last line, which needs no end.
    mutating func finish() -> ByteBuffer {
        defer { rest = ByteBuffer() }
        return rest
    }
}

/// Where a byte first stands.
func offset(of byte: UInt8, in bytes: UnsafeRawBufferPointer) -> Int? {
    guard let start = bytes.baseAddress, let found = memchr(start, CInt(byte), bytes.count) else { return nil }
    return UnsafeRawPointer(found) - start
}
