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
                while index < bytes.count, !endsPassword(bytes[index]) { index += 1 }
            } else {
                result.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: result, as: UTF8.self)
    }

    /// Copies what follows `://` without its secrets; answers where it stopped. Where a URL may end is not always where it does: a query may have
    /// commas, quotes and brackets in it. So a query is taken out up to the next space or double quote, and what may be punctuation stays.
    private static func redactURL(_ bytes: [UInt8], from start: Int, into result: inout [UInt8]) -> Int {
        func isAny(_ byte: UInt8, _ characters: StaticString) -> Bool {
            (0..<characters.utf8CodeUnitCount).contains { characters.utf8Start[$0] == byte }
        }
        var end = start
        while end < bytes.count, bytes[end] > 0x20, !isAny(bytes[end], "\"<>") { end += 1 }
        var authority = start
        while authority < end, !isAny(bytes[authority], "/?#") { authority += 1 }
        var rest = start
        if let at = bytes[start..<authority].lastIndex(of: UInt8(ascii: "@")) {
            result += "***@".utf8
            rest = at + 1
        }
        // Another URL behind a comma is looked at by itself.
        guard let query = (rest..<end).first(where: { isAny(bytes[$0], "?#") || matches(bytes, at: $0, "://") }) else {
            result += bytes[rest..<end]
            return end
        }
        guard isAny(bytes[query], "?#") else {
            result += bytes[rest..<query]
            return query
        }
        var punctuation = end
        while punctuation > query + 1, isAny(bytes[punctuation - 1], "')]},.:;") { punctuation -= 1 }
        result += bytes[rest...query]
        result += "***".utf8
        result += bytes[punctuation..<end]
        return end
    }

    private static func endsPassword(_ byte: UInt8) -> Bool {
        byte <= 0x20 || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") || byte == UInt8(ascii: ")") || byte == UInt8(ascii: "]")
            || byte == UInt8(ascii: ">") || byte == UInt8(ascii: "}") || byte == UInt8(ascii: ",") || byte == UInt8(ascii: "&")
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
