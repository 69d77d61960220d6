/// Calls `body` with an array of C strings, nil for NULL.
func withCStrings<Result>(_ strings: [String?], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> Result) -> Result {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(strings.reduce(0) { $0 + ($1?.utf8.count ?? 0) + 1 })
    var offsets: [Int?] = []
    offsets.reserveCapacity(strings.count)
    for string in strings {
        guard var string else {
            offsets.append(nil)
            continue
        }
        offsets.append(bytes.count)
        string.withUTF8 { bytes.append(contentsOf: $0) }
        bytes.append(0)
    }
    return bytes.withUnsafeBytes { buffer in
        let start = buffer.bindMemory(to: CChar.self).baseAddress
        let pointers = offsets.map { offset in offset.flatMap { offset in start.map { UnsafePointer($0 + offset) } } }
        return pointers.withUnsafeBufferPointer { pointers in
            var nothing: UnsafePointer<CChar>?
            return pointers.baseAddress.map(body) ?? body(&nothing)
        }
    }
}
