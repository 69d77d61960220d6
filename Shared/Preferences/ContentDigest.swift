import CLibcrypto

/// Digests over everything that was posted of pairs: the same pair has the same in any database, and another digest than the stored one tells
/// a conflict from a replay.
///
/// SHA-256 over the fields in UTF-8, each followed by a zero byte, which no field can hold; one that is not there is empty, which none that is
/// there can be: source, external_id, prompt, dimension, outcome, rater, a's url and sha256, b's url and sha256, votes as `a/b/tie/both_bad`,
/// soft_label, margin, strength, presentation. Taken here and not in SQL, where it was the dearest part of a bulk insert.
struct ContentDigester {
    private var bytes: [UInt8] = []

    init() { bytes.reserveCapacity(2048) }

    /// The digest as 64 lower-case hexadecimal digits.
    mutating func digest(of pair: NewPair) -> String {
        bytes.removeAll(keepingCapacity: true)
        let label = pair.label
        add(pair.source)
        add(pair.externalID)
        add(pair.prompt)
        add(pair.dimension)
        add(label.outcome.rawValue)
        add(pair.rater)
        add(pair.a.url)
        add(pair.a.sha256)
        add(pair.b.url)
        add(pair.b.sha256)
        add(label.votes.map { "\($0.a)/\($0.b)/\($0.tie)/\($0.bothBad)" })
        add(label.softLabel.map(\.description))
        add(label.margin.map(\.description))
        add(label.strength.map(String.init))
        add(label.presentation?.rawValue)
        return Self.sha256(bytes)
    }

    private mutating func add(_ text: String?) {
        if var text { text.withUTF8 { bytes.append(contentsOf: $0) } }
        bytes.append(0)
    }

    private static func sha256(_ bytes: [UInt8]) -> String {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 32) { digest in
            // Fails only without memory.
            precondition(EVP_Digest(bytes, bytes.count, digest.baseAddress, nil, EVP_sha256(), nil) == 1)
            return hexadecimal(UnsafeBufferPointer(digest))
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
func hexadecimal(_ bytes: UnsafeBufferPointer<UInt8>) -> String {
    func digit(_ value: UInt8) -> UInt8 { value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") - 10 + value }
    return String(unsafeUninitializedCapacity: 2 * bytes.count) { text in
        for (index, byte) in bytes.enumerated() {
            text[2 * index] = digit(byte >> 4)
            text[2 * index + 1] = digit(byte & 15)
        }
        return 2 * bytes.count
    }
}
