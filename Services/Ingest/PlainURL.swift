/// Tells at a glance that a text is a well-formed URL, as nearly all are. Of a bulk body's decoding, parsing every URL was a third.
enum PlainURL {
    private static let beginnings = ["http://", "https://"].map { Array($0.utf8) }

    /// `http` or `https`, a host of letters, digits, dots and dashes, perhaps a port, and a path of unreserved characters without dot segments,
    /// perhaps with a query. Of anything else nothing is known: it may be well-formed all the same.
    static func isOne(_ text: String) -> Bool {
        var text = text
        return text.withUTF8 { bytes in
            guard let beginning = beginnings.first(where: bytes.starts), bytes.count > beginning.count else { return false }
            var position = beginning.count
            let host = position
            while position < bytes.count, isLetterOrDigit(bytes[position]) || bytes[position] == dot || bytes[position] == dash {
                position += 1
            }
            guard position > host else { return false }
            if position < bytes.count, bytes[position] == UInt8(ascii: ":") {
                position += 1
                var port = 0
                while position < bytes.count, (0x30...0x39).contains(bytes[position]), port < 65536 {
                    port = 10 * port + Int(bytes[position] - 0x30)
                    position += 1
                }
                guard (1...65535).contains(port) else { return false }
            }
            guard position < bytes.count, bytes[position] == slash else { return false }
            while position < bytes.count, bytes[position] != UInt8(ascii: "?") {
                let byte = bytes[position]
                // A dot behind a slash may begin a dot segment.
                guard
                    isLetterOrDigit(byte) || byte == slash || byte == dash || byte == UInt8(ascii: "_") || byte == UInt8(ascii: "~")
                        || byte == dot && bytes[position - 1] != slash
                else { return false }
                position += 1
            }
            return bytes[position...].allSatisfy {
                $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\\") && $0 != UInt8(ascii: "#")
            }
        }
    }

    private static let slash = UInt8(ascii: "/")
    private static let dot = UInt8(ascii: ".")
    private static let dash = UInt8(ascii: "-")

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x61...0x7a).contains(byte | 0x20) && byte < 0x80
    }
}
