import CZlib
import NIOCore

/// Unpacks a gzip stream piece by piece, and never further than a limit: what is held is bounded, whatever the stream claims.
struct Inflater: ~Copyable {
    /// The largest piece that comes out at a time.
    static let piece = 65536

    private let stream: UnsafeMutablePointer<z_stream>
    private var total = 0
    /// zlib filled a piece to its end: it may hold more without further input.
    private var isFull = false
    /// Whether the last byte so far ended a member; more may follow.
    private(set) var isComplete = false

    init() {
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        // 16: gzip, with its checksum; nothing else.
        let code = inflateInit2_(stream, 16 + MAX_WBITS, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        precondition(code == Z_OK, "zlib cannot start: \(code)")
    }

    deinit {
        inflateEnd(stream)
        stream.deinitialize(count: 1)
        stream.deallocate()
    }

    /// Takes from `input` and answers the next piece; nil when more input is needed.
    ///
    /// - Parameter limit: how many bytes may come out in all; 413 for more, 400 for a damaged stream.
    mutating func next(_ input: inout ByteBuffer, upTo limit: Int) throws(Problem) -> ByteBuffer? {
        while input.readableBytes > 0 || isFull {
            if isComplete {
                // RFC 1952 lets members stand one behind the other.
                guard inflateReset(stream) == Z_OK else { throw Self.damaged }
                isComplete = false
            }
            // One byte more than may come tells too long from just as long.
            let room = min(Self.piece, limit - total + 1)
            var output = ByteBuffer()
            var (code, taken) = (Z_OK, 0)
            let stream = stream
            let waiting = input
            output.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { space in
                waiting.withUnsafeReadableBytes { bytes in
                    stream.pointee.next_in = UnsafeMutablePointer(mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
                    stream.pointee.avail_in = UInt32(bytes.count)
                    stream.pointee.next_out = space.bindMemory(to: UInt8.self).baseAddress
                    stream.pointee.avail_out = UInt32(room)
                    code = inflate(stream, Z_NO_FLUSH)
                    taken = bytes.count - Int(stream.pointee.avail_in)
                    return room - Int(stream.pointee.avail_out)
                }
            }
            input.moveReaderIndex(forwardBy: taken)
            isFull = stream.pointee.avail_out == 0 && code == Z_OK
            switch code {
            case Z_STREAM_END: isComplete = true
            case Z_OK: break
            case Z_BUF_ERROR where taken == 0 && output.readableBytes == 0 && waiting.readableBytes == 0: return nil
            default: throw Self.damaged
            }
            total += output.readableBytes
            if total > limit { throw Problem.tooLarge(limit: limit) }
            if output.readableBytes > 0 { return output }
        }
        return nil
    }

    private static let damaged = Problem.badRequest("The body is declared as gzip, but it is not, or it is damaged.")
}
