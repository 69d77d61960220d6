import NIOCore

/// Cuts a stream of pieces into lines.
struct LineSplitter {
    private var rest = ByteBuffer()

    /// The whole lines that a piece completes, without their ends.
    mutating func add(_ piece: ByteBuffer) -> [ByteBuffer] {
        var piece = piece
        var lines: [ByteBuffer] = []
        while let end = piece.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) {
            var line = piece.readSlice(length: end - piece.readerIndex)!
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
