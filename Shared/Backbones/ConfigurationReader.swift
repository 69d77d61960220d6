import Foundation
import Safetensors

/// One key's value of a `config.json` with the checks that its type needs; every message names the key.
struct ConfigurationReader {
    let key: String
    let value: StrictJSON

    /// Reads a regular file of at most a mebibyte (or a link to one, as in the hub's cache); what `parse` throws is given the file's path.
    static func read<Configuration>(_ path: String, _ parse: ([UInt8]) throws -> Configuration) throws -> Configuration {
        let attributes = try? FileManager.default.attributesOfItem(atPath: URL(fileURLWithPath: path).resolvingSymlinksInPath().path)
        guard let attributes else { throw BackboneError("\(path): there is no such file") }
        // A pipe would be waited for, and a device has no end.
        guard attributes[.type] as? FileAttributeType == .typeRegular else { throw BackboneError("\(path) is not a regular file") }
        let size = attributes[.size] as? Int ?? 0
        guard size <= 1 << 20 else { throw BackboneError("\(path): \(size) bytes are too many for a configuration") }
        guard let data = FileManager.default.contents(atPath: path) else { throw BackboneError("\(path) cannot be read") }
        do { return try parse(Array(data)) } catch { throw BackboneError("\(path): \(error)") }
    }

    /// The members of the text's object, in its order.
    static func members(_ json: [UInt8]) throws -> [StrictJSON.Member] {
        guard case .object(let members) = try StrictJSON.parse(json) else { throw BackboneError("the configuration is not a JSON object") }
        return members
    }

    func failure(_ what: String) -> BackboneError { BackboneError("\(key) \(what)") }

    func integer(in range: ClosedRange<Int>) throws -> Int {
        guard case .integer(let integer) = value else { throw failure("must be a whole number, not \(value.kind)") }
        guard range.contains(integer) else {
            throw failure("is \(integer), outside of \(range.lowerBound) to \(range.upperBound)")
        }
        return integer
    }

    func optional(in range: ClosedRange<Int>) throws -> Int? { value == .null ? nil : try integer(in: range) }

    /// A list of whole numbers, of just so many or of at most 64.
    func integers(count: Int? = nil, in range: ClosedRange<Int>) throws -> [Int] {
        let items = try list(count: count)
        return try items.map { try ConfigurationReader(key: key, value: $0).integer(in: range) }
    }

    /// A list's items, just so many or one to 64.
    func list(count: Int? = nil) throws -> [StrictJSON] {
        guard case .array(let items) = value, count.map({ items.count == $0 }) ?? (1...64).contains(items.count) else {
            throw failure("must be a list of \(count.map { "\($0)" } ?? "1 to 64") values")
        }
        return items
    }

    func bool() throws -> Bool {
        guard case .bool(let bool) = value else { throw failure("must be true or false, not \(value.kind)") }
        return bool
    }

    func string() throws -> String {
        guard case .string(let string) = value else { throw failure("must be a text, not \(value.kind)") }
        return string
    }

    /// A text that is one of those given.
    func string(oneOf known: [String]) throws -> String {
        let text = try string()
        guard known.contains(text) else { throw failure("is '\(text.prefix(64))', expected \(known.joined(separator: " or "))") }
        return text
    }

    func number(in range: ClosedRange<Double>) throws -> Double {
        let number: Double
        switch value {
        case .integer(let integer): number = Double(integer)
        case .number(let double): number = double
        default: throw failure("must be a number, not \(value.kind)")
        }
        guard range.contains(number) else {
            throw failure("is \(number), outside of \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    func epsilon() throws -> Float {
        guard case .number(let number) = value, number > 0, number <= 0.1, Float(number) > 0 else {
            throw failure("must be a number above 0 and at most 0.1")
        }
        return Float(number)
    }
}
