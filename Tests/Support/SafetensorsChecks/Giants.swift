/// Files whose headers are large and say little: what a parser that builds a tree, or trusts a number, would pay dearly for.
public enum Giants {
    /// Each with a header of about `size` bytes.
    public static func all(size: Int) -> [(name: String, bytes: @Sendable () -> [UInt8])] {
        [
            ("open brackets", { file(start: "{\"a\":", unit: { _ in "[" }, end: "", size: size) }),
            ("open braces", { file(start: "", unit: { _ in "{\"a\":" }, end: "", size: size) }),
            ("numbers in a shape", { file(start: "{\"a\":{\"shape\":[0", unit: { _ in ",0" }, end: "]}}", size: size) }),
            ("white space", { file(start: "{", unit: { _ in " " }, end: "}", size: size) }),
            ("a name", { file(start: "{\"", unit: { _ in "n" }, end: "\":{}}", size: size) }),
            ("an escaped name", { file(start: "{\"", unit: { _ in "\\u006e" }, end: "\":{}}", size: size) }),
            ("a metadata text", { file(start: "{\"__metadata__\":{\"k\":\"", unit: { _ in "v" }, end: "\"}}", size: size) }),
            ("an escaped metadata text", { file(start: "{\"__metadata__\":{\"k\":\"", unit: { _ in "\\n" }, end: "\"}}", size: size) }),
            ("metadata keys", { file(start: "{\"__metadata__\":{\"k\":\"\"", unit: { ",\"\($0)\":\"\"" }, end: "}}", size: size) }),
            ("digits", { file(start: "{\"a\":{\"shape\":[", unit: { _ in "9" }, end: "]}}", size: size) }),
            (
                "tensors",
                {
                    file(
                        start: "{\"t\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}",
                        unit: { ",\"\($0)\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}" }, end: "}", size: size) + [7]
                }
            ),
            ("a dtype", { file(start: "{\"a\":{\"dtype\":\"", unit: { _ in "F" }, end: "\"}}", size: size) }),
        ]
    }

    private static func file(start: String, unit: (Int) -> String, end: String, size: Int) -> [UInt8] {
        var text = [UInt8](repeating: 0, count: 8)
        text.reserveCapacity(size + 200)
        text += Array(start.utf8)
        var number = 0
        while text.count < size {
            text += unit(number).utf8
            number += 1
        }
        text += Array(end.utf8)
        for index in 0..<8 { text[index] = UInt8(truncatingIfNeeded: (text.count - 8) >> (8 * index)) }
        return text
    }
}
