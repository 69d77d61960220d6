/// The statements of a script, split at semicolons outside quotes, dollar quotes and comments.
///
/// Needed only where statements must not share the implicit transaction of one message, as `CREATE INDEX CONCURRENTLY` must not.
func sqlStatements(_ script: String) -> [String] {
    let bytes = Array(script.utf8)
    var statements: [String] = []
    var start = 0
    var hasText = false
    var index = 0
    func matches(_ text: [UInt8], at position: Int) -> Bool {
        position + text.count <= bytes.count && bytes[position..<(position + text.count)].elementsEqual(text)
    }
    /// The index behind the next occurrence of `text`, or the end.
    func skip(past text: [UInt8], from position: Int) -> Int {
        var position = position
        while position < bytes.count {
            if matches(text, at: position) { return position + text.count }
            position += 1
        }
        return bytes.count
    }
    func finish(at end: Int) {
        if hasText { statements.append(String(decoding: bytes[start..<end], as: UTF8.self)) }
        start = end + 1
        hasText = false
    }
    while index < bytes.count {
        let byte = bytes[index]
        switch byte {
        case UInt8(ascii: ";"):
            finish(at: index)
            index += 1
        case UInt8(ascii: "-") where matches(Array("--".utf8), at: index):
            index = skip(past: [UInt8(ascii: "\n")], from: index)
        case UInt8(ascii: "/") where matches(Array("/*".utf8), at: index):
            index = skip(past: Array("*/".utf8), from: index + 2)
        case UInt8(ascii: "'"), UInt8(ascii: "\""):
            hasText = true
            index = skip(past: [byte], from: index + 1)
        case UInt8(ascii: "$"):
            hasText = true
            // A dollar quote is `$tag$`; `$1` is a parameter.
            var end = index + 1
            while end < bytes.count, isTagByte(bytes[end], first: end == index + 1) { end += 1 }
            if end < bytes.count, bytes[end] == UInt8(ascii: "$") {
                index = skip(past: Array(bytes[index...end]), from: end + 1)
            } else {
                index += 1
            }
        default:
            if byte > UInt8(ascii: " ") { hasText = true }
            index += 1
        }
    }
    finish(at: bytes.count)
    return statements
}

private func isTagByte(_ byte: UInt8, first: Bool) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"), 128...: true
    case UInt8(ascii: "0")...UInt8(ascii: "9"): !first
    default: false
    }
}
