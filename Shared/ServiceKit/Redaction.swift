/// Takes secrets out of text that is shown or logged: the user and password of URLs, their query and fragment (presigned URLs carry their
/// signature there), and `password=…` of connection strings.
public enum Redaction {
    /// Keys of log metadata whose value is never shown.
    static let secretKeys: Set<String> = ["password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "cookie"]

    /// The text with secrets replaced by `***`.
    public static func redact(_ text: String) -> String {
        let bytes = Array(text.utf8)
        guard contains(bytes, "://") || containsPassword(bytes) else { return text }
        var result: [UInt8] = []
        result.reserveCapacity(bytes.count)
        var index = 0
        while index < bytes.count {
            if matches(bytes, at: index, "://") {
                result += "://".utf8
                index = redactURL(bytes, from: index + 3, into: &result)
            } else if matchesPassword(bytes, at: index) {
                result += bytes[index..<(index + 9)]
                result += "***".utf8
                index += 9
                while index < bytes.count, !endsURL(bytes[index]), bytes[index] != UInt8(ascii: "&") { index += 1 }
            } else {
                result.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: result, as: UTF8.self)
    }

    /// Copies what follows `://` without its secrets; answers where the URL ends.
    private static func redactURL(_ bytes: [UInt8], from start: Int, into result: inout [UInt8]) -> Int {
        var end = start
        while end < bytes.count, !endsURL(bytes[end]) { end += 1 }
        let url = bytes[start..<end]
        let authorityEnd = url.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") || $0 == UInt8(ascii: "#") } ?? url.endIndex
        var rest = url
        if let at = url[..<authorityEnd].lastIndex(of: UInt8(ascii: "@")) {
            result += "***@".utf8
            rest = url[(at + 1)...]
        }
        if let query = rest.firstIndex(where: { $0 == UInt8(ascii: "?") || $0 == UInt8(ascii: "#") }) {
            result += rest[...query]
            result += "***".utf8
        } else {
            result += rest
        }
        return end
    }

    private static func endsURL(_ byte: UInt8) -> Bool {
        byte <= 0x20 || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") || byte == UInt8(ascii: ")") || byte == UInt8(ascii: "]")
            || byte == UInt8(ascii: ">") || byte == UInt8(ascii: "}") || byte == UInt8(ascii: ",")
    }

    private static func contains(_ bytes: [UInt8], _ needle: StaticString) -> Bool {
        bytes.indices.contains { matches(bytes, at: $0, needle) }
    }

    private static func containsPassword(_ bytes: [UInt8]) -> Bool {
        bytes.indices.contains { matchesPassword(bytes, at: $0) }
    }

    private static func matches(_ bytes: [UInt8], at index: Int, _ needle: StaticString) -> Bool {
        guard index + needle.utf8CodeUnitCount <= bytes.count else { return false }
        return (0..<needle.utf8CodeUnitCount).allSatisfy { bytes[index + $0] == needle.utf8Start[$0] }
    }

    private static func matchesPassword(_ bytes: [UInt8], at index: Int) -> Bool {
        let needle: StaticString = "password="
        guard index + needle.utf8CodeUnitCount <= bytes.count else { return false }
        return (0..<needle.utf8CodeUnitCount).allSatisfy { bytes[index + $0] | 0x20 == needle.utf8Start[$0] | 0x20 }
    }
}
