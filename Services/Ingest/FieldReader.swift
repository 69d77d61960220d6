import Artifacts
import Foundation
import NIOCore
import Preferences
import Safetensors
import ServiceKit

/// Reads the fields of one JSON object and gathers what is wrong with them, each thing under the JSON Pointer of its field.
struct FieldReader {
    /// A document with many unknown fields is not worth an answer of the same size.
    static let unknownLimit = 10
    /// Allows nothing, and so tells a URL that is malformed from one that is only forbidden. The latter is the verifier's business.
    /// An empty list has nothing that could be malformed.
    private static let syntax = try! ArtifactPolicy(allow: [])

    let object: StrictJSON
    /// Where the object stands in the document.
    let path: String
    private(set) var errors: [ProblemDocument.FieldError] = []

    init(_ object: StrictJSON, at path: String = "") {
        self.object = object
        self.path = path
    }

    /// The body of a request.
    ///
    /// - Throws: 422 for what is no JSON object.
    init(_ body: ByteBuffer) throws {
        switch PairDecoder.object(Array(body.readableBytesView)) {
        case .failure(let problem): throw Problem.invalid([problem.error])
        case .success(let object): self.init(object)
        }
    }

    subscript(field: String) -> StrictJSON? {
        guard let value = object[field], value != .null else { return nil }
        return value
    }

    mutating func add(_ pointer: String, _ detail: String) { errors.append(.init(pointer: path + pointer, detail: detail)) }

    /// Takes over what was wrong with an object inside this one.
    mutating func take(_ inner: FieldReader) { errors += inner.errors }

    /// Notes members that are not `known`.
    mutating func unknown(besides known: [String]) {
        guard case .object(let members) = object else { return }
        let strangers = members.map(\.key).filter { !known.contains($0) }
        for field in strangers.prefix(Self.unknownLimit) {
            let step = String(field.prefix(100)).replacing("~", with: "~0").replacing("/", with: "~1")
            add("/\(step)", "is not a field that is known here; known are \(known.joined(separator: ", "))")
        }
    }

    /// A text that is required.
    mutating func text(_ field: String, limit: Int) -> String? {
        guard let value = self[field] else {
            add("/\(field)", "is required")
            return nil
        }
        guard case .string(var text) = value else {
            add("/\(field)", "expected a string, found \(value.kind)")
            return nil
        }
        guard !text.isEmpty else {
            add("/\(field)", "is empty")
            return nil
        }
        guard text.utf8.count <= limit else {
            add("/\(field)", "has \(text.utf8.count) bytes, more than the \(limit) that are accepted")
            return nil
        }
        guard text.withUTF8({ offset(of: 0, in: UnsafeRawBufferPointer($0)) }) == nil else {
            add("/\(field)", "has a NUL character")
            return nil
        }
        return text
    }

    /// A text that identifies something: no control characters.
    mutating func name(_ field: String, limit: Int) -> String? {
        guard let text = text(field, limit: limit) else { return nil }
        guard !text.utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) else {
            add("/\(field)", "has a control character")
            return nil
        }
        return text
    }

    /// A word out of a few; nil without a word about it where the field is missing.
    mutating func word<Word: RawRepresentable & CaseIterable>(_ field: String, _ type: Word.Type) -> Word? where Word.RawValue == String {
        guard self[field] != nil, let text = text(field, limit: 100) else { return nil }
        guard let word = Word(rawValue: text) else {
            let known = Word.allCases.map(\.rawValue).joined(separator: ", ")
            add("/\(field)", "expected one of \(known); found \(Self.shown(text))")
            return nil
        }
        return word
    }

    /// A number in a range; nil without a word about it where the field is missing.
    mutating func number(_ field: String, in range: ClosedRange<Double>) -> Double? {
        guard let value = self[field] else { return nil }
        let number: Double
        switch value {
        case .integer(let whole): number = Double(whole)
        case .number(let fraction): number = fraction
        default:
            add("/\(field)", "expected a number, found \(value.kind)")
            return nil
        }
        guard range.contains(number) else {
            add("/\(field)", "expected a number from \(Self.shown(range.lowerBound)) to \(Self.shown(range.upperBound))")
            return nil
        }
        return number
    }

    /// A whole number in a range; nil without a word about it where the field is missing.
    mutating func integer(_ field: String, in range: ClosedRange<Int>) -> Int? {
        guard let value = self[field] else { return nil }
        guard case .integer(let number) = value, range.contains(number) else {
            add("/\(field)", "expected a whole number from \(range.lowerBound) to \(range.upperBound)")
            return nil
        }
        return number
    }

    /// The object in a field, to be read by itself and given back to ``take(_:)``.
    mutating func object(_ field: String, of what: String) -> FieldReader? {
        guard let value = self[field] else {
            add("/\(field)", "is required: \(what)")
            return nil
        }
        guard case .object = value else {
            add("/\(field)", "expected \(what), found \(value.kind)")
            return nil
        }
        return FieldReader(value, at: "\(path)/\(field)")
    }

    /// An object with `url` and `sha256`.
    mutating func artifact(_ field: String) -> PairSide? {
        guard var inner = object(field, of: "an object with url and sha256") else { return nil }
        let side = inner.artifact()
        inner.unknown(besides: ["url", "sha256"])
        take(inner)
        return side
    }

    /// The `url` and `sha256` of this object.
    mutating func artifact() -> PairSide? {
        let (url, digest) = (url(), digest())
        guard let url, let digest else { return nil }
        return PairSide(url: url, sha256: digest)
    }

    private mutating func url() -> String? {
        guard let text = text("url", limit: 8192) else { return nil }
        if PlainURL.isOne(text) { return text }
        do {
            try Self.syntax.check(text)
        } catch ArtifactError.invalid(_, let reason) {
            add("/url", "expected a file:, http:, https: or s3: URL; \(reason)")
            return nil
        } catch {
            // Forbidden by the empty list, so well-formed.
        }
        return text
    }

    private mutating func digest() -> String? {
        guard let text = text("sha256", limit: 200) else { return nil }
        if SHA256.isHexDigest(text) { return text }
        let lower = text.lowercased()
        guard SHA256.isHexDigest(lower) else {
            add("/sha256", "expected the SHA-256 of the file's bytes as 64 hexadecimal digits; found \(Self.shown(text))")
            return nil
        }
        return lower
    }

    static func shown(_ text: String) -> String { "'\(text.prefix(80))'" }

    static func shown(_ number: Double) -> String { number == number.rounded() && abs(number) < 1e15 ? "\(Int(number))" : "\(number)" }
}
