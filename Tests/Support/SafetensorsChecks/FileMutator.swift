import Safetensors
import Tensors

/// Makes damaged files, the same ones from the same seed: half of them from a description of a file, damaged before it is written down (an
/// offset moved, an extent beyond 64 bits, a key twice), half by changing bytes of files that are there already.
public struct FileMutator {
    private var random: RandomStream
    private let corpus: [[UInt8]]

    /// - Parameter corpus: files to change bytes of; may be empty.
    public init(seed: UInt64, corpus: [[UInt8]]) {
        random = RandomStream(seed: seed)
        self.corpus = corpus
    }

    /// The next input.
    public mutating func next() -> [UInt8] {
        let damagesBytes = one(of: 2) == 0
        var bytes = damagesBytes && !corpus.isEmpty ? pick(corpus) : described()
        if damagesBytes || one(of: 6) == 0 { damage(&bytes) }
        return bytes
    }

    private mutating func one(of count: Int) -> Int { random.integer(in: 0..<max(count, 1)) }
    private mutating func pick<Element>(_ items: [Element]) -> Element { items[one(of: items.count)] }

    // MARK: Descriptions

    private struct Item {
        var name: String
        var dtype: String
        var shape: [String]
        var offsets: [String]
        var order = ["dtype", "shape", "data_offsets"]
        var extra = ""
    }

    /// A valid file's description with up to three things wrong, written down.
    private mutating func described() -> [UInt8] {
        var items: [Item] = []
        var position = 0
        for index in 0..<one(of: 5) {
            let type = pick(ElementType.allCases)
            let shape = (0..<one(of: 4)).map { _ in one(of: 4) }
            let size = shape.reduce(type.size, *)
            items.append(
                Item(
                    name: "\"t\(index)\"", dtype: "\"\(type.rawValue)\"", shape: shape.map(String.init),
                    offsets: ["\(position)", "\(position + size)"]))
            position += size
        }
        var metadata = one(of: 2) == 0 ? "" : "\"__metadata__\":{\"format\":\"pt\"},"
        var space = ""
        for _ in 0..<one(of: 4) { damage(&items, &position, &metadata, &space) }
        if one(of: 3) == 0, items.count > 1 { items.swapAt(0, items.count - 1) }
        let members = items.map { item in
            let parts = item.order.map { key -> String in
                switch key {
                case "dtype": "\"dtype\":\(space)\(item.dtype)"
                case "shape": "\"shape\":[\(item.shape.joined(separator: ","))]"
                default: "\"data_offsets\":[\(item.offsets.joined(separator: ","))]"
                }
            }
            return "\(item.name):{\(parts.joined(separator: ",\(space)"))\(item.extra)}"
        }
        var text = Array("{\(metadata)\(members.joined(separator: ","))}\(space)".utf8)
        if metadata.hasSuffix(","), items.isEmpty { text = Array("{\(metadata.dropLast())}".utf8) }
        let data = (0..<max(position, 0)).map { _ in UInt8(one(of: 3) == 0 ? one(of: 256) : one(of: 2)) }
        var length = UInt64(text.count)
        if one(of: 24) == 0 { length = pick(lengths(text.count)) }
        return (0..<8).map { UInt8(truncatingIfNeeded: length >> (8 * UInt64($0))) } + text + data
    }

    private func lengths(_ count: Int) -> [UInt64] {
        [0, 1, UInt64(count + 1), UInt64(max(count, 1) - 1), 100_000_000, 100_000_001, 1 << 31, 1 << 32, 1 << 63, .max, .max - 7]
    }

    private static let numbers = [
        "-1", "0", "1", "2", "3", "4", "8", "255", "1.0", "1e0", "1e999", "-0", "01", "4294967296", "9223372036854775807",
        "9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775808", "null", "true", "\"1\"", "[1]", "{}",
        "",
    ]

    private mutating func damage(_ items: inout [Item], _ position: inout Int, _ metadata: inout String, _ space: inout String) {
        let place = one(of: items.count)
        switch one(of: 15) {
        case 0: space = pick([" ", "\n\t", "\r", "\u{0B}"])
        case 1: position += pick([-8, -1, 1, 8])
        case 2:
            metadata = pick([
                "\"__metadata__\":{},", "\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"},", "\"__metadata__\":{\"a\":1},",
                "\"__metadata__\":[],",
                "\"__metadata__\":{\"\\u0061\":\"\\ud83d\\ude00\"},", "\"__metadata__\":{\"\":\"\"},\"__metadata__\":{},",
                "\"__metadata__\":{\"k\":\"\\ud800\"},", "\"a\":" + String(repeating: "[", count: 1 + one(of: 60)) + ",",
            ])
        case _ where items.isEmpty: return
        case 3:
            items[place].dtype = pick(["\"F8_E4M3\"", "\"BOOL\"", "\"F64\"", "\"U8\"", "\"f32\"", "7", "null", "\"\\u0046\\u0033\\u0032\""])
        case 4, 5:
            if items[place].shape.isEmpty {
                items[place].shape = [pick(Self.numbers)]
            } else {
                items[place].shape[one(of: items[place].shape.count)] = pick(Self.numbers)
            }
        case 6: items[place].shape.append(pick(Self.numbers))
        case 7: if !items[place].offsets.isEmpty { items[place].offsets[one(of: items[place].offsets.count)] = pick(Self.numbers) }
        case 8: items[place].offsets = pick([[], ["0"], ["0", "0", "0"], items[place].offsets.reversed()])
        case 9:
            items[place].name = pick(["\"t0\"", "\"\\u0074\\u0030\"", "\"\"", "\"__metadata__\"", "\"é\"", "\"e\u{301}\"", "t0", "\"\\x\""])
        case 10: items[place].extra = pick([",\"extra\":1", ",", ",\"dtype\":\"F32\"", ",\"shape\":[]", ":1", "}"])
        case 11: _ = items[place].order.popLast()
        case 12: items[place].order.reverse()
        case 13: items.append(items[place])
        default:
            // Everything from here on moves together: a gap or an overlap in a file that is right otherwise.
            let by = pick([-4, -1, 1, 2, 8])
            for index in place..<items.count { items[index].offsets = items[index].offsets.map { Int($0).map { "\($0 &+ by)" } ?? $0 } }
            position += by
        }
    }

    // MARK: Bytes

    private static let letters = Array("0123456789{}[]\",:-.eE\\u \n".utf8)

    private mutating func damage(_ bytes: inout [UInt8]) {
        for _ in 0..<1 + one(of: 4) {
            guard !bytes.isEmpty else { return }
            let place = one(of: bytes.count)
            switch one(of: 9) {
            case 0: bytes[place] = UInt8(one(of: 256))
            case 1: bytes[place] ^= 1 << UInt8(one(of: 8))
            case 2: bytes.remove(at: place)
            case 3: bytes.insert(pick(Self.letters), at: place)
            case 4: bytes.removeLast(min(bytes.count, 1 + one(of: 40)))
            case 5: bytes.insert(contentsOf: Array(bytes[place...].prefix(1 + one(of: 32))), at: place)
            case 6: bytes.replaceSubrange(place..<min(bytes.count, place + 4), with: Array(pick(Self.numbers).utf8))
            case 7 where !corpus.isEmpty:
                let other = pick(corpus)
                bytes.replaceSubrange(place..., with: other[one(of: other.count + 1)...])
            default: bytes += (0..<1 + one(of: 9)).map { _ in UInt8(one(of: 256)) }
            }
            // A header's length that still fits keeps the damage from being refused at the door.
            if one(of: 3) == 0, bytes.count > 8, let end = bytes.lastIndex(of: UInt8(ascii: "}")), end >= 8 {
                for index in 0..<8 { bytes[index] = UInt8(truncatingIfNeeded: (end - 7) >> (8 * index)) }
            }
        }
    }
}
