import Artifacts
import Preferences
import Safetensors
import ServiceKit

/// Reads one posted pair strictly: every problem is named by the JSON Pointer of its field, all of them at once.
struct PairDecoder: Sendable {
    /// Limits in bytes of UTF-8.
    static let sourceLimit = 200
    static let keyLimit = 500
    static let promptLimit = 100_000
    static let dimensionLimit = 64
    static let raterLimit = 200
    /// A document with many unknown fields is not worth an answer of the same size.
    static let unknownLimit = 10

    private static let fields = ["source", "external_id", "prompt", "dimension", "outcome", "rater", "a", "b"]
    private static let sideFields = ["url", "sha256"]
    /// Allows nothing, and so tells a URL that is malformed from one that is only forbidden. The latter is the verifier's business.
    private let syntax: ArtifactPolicy

    init() {
        // An empty list has nothing that could be malformed.
        syntax = try! ArtifactPolicy(allow: [])
    }

    enum Result {
        case pair(NewPair)
        case errors([ProblemDocument.FieldError])
    }

    func decode(_ json: some Collection<UInt8>) -> Result {
        let object: StrictJSON
        do {
            object = try StrictJSON.parse(Array(json))
        } catch let error as SafetensorsError {
            return .errors([.init(pointer: "", detail: "is not valid JSON: \(error.description.trimmingPrefix("JSON: "))")])
        } catch {
            return .errors([.init(pointer: "", detail: "is not valid JSON")])
        }
        guard case .object = object else {
            return .errors([.init(pointer: "", detail: "expected a JSON object, found \(object.kind)")])
        }
        return decode(object)
    }

    private func decode(_ object: StrictJSON) -> Result {
        var problems = Problems()
        let source = name(object, "source", limit: Self.sourceLimit, &problems)
        let key = name(object, "external_id", limit: Self.keyLimit, &problems)
        let prompt = text(object, "prompt", at: "/prompt", limit: Self.promptLimit, &problems)
        let dimension = dimension(object, &problems)
        let outcome = outcome(object, &problems)
        let rater = name(object, "rater", limit: Self.raterLimit, &problems)
        let a = side(object, "a", &problems)
        let b = side(object, "b", &problems)
        problems.unknown(object, known: Self.fields, at: "")
        guard problems.errors.isEmpty, let source, let key, let prompt, let dimension, let outcome, let rater, let a, let b else {
            return .errors(problems.errors)
        }
        return .pair(
            NewPair(source: source, externalID: key, prompt: prompt, dimension: dimension, outcome: outcome, rater: rater, a: a, b: b))
    }

    private func dimension(_ object: StrictJSON, _ problems: inout Problems) -> String? {
        guard let text = text(object, "dimension", at: "/dimension", limit: Self.dimensionLimit, &problems) else { return nil }
        guard text.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9_.-]*/) != nil else {
            problems.add(
                "/dimension", "expected letters, digits, '_', '.' and '-', such as overall, vq, mq or ta; found \(Self.shown(text))")
            return nil
        }
        return text
    }

    private func outcome(_ object: StrictJSON, _ problems: inout Problems) -> Outcome? {
        guard let text = text(object, "outcome", at: "/outcome", limit: 100, &problems) else { return nil }
        guard let outcome = Outcome(rawValue: text) else {
            problems.add("/outcome", "expected one of a, b, tie; found \(Self.shown(text))")
            return nil
        }
        return outcome
    }

    private func side(_ object: StrictJSON, _ field: String, _ problems: inout Problems) -> PairSide? {
        guard let value = object[field], value != .null else {
            problems.add("/\(field)", "is required: an object with url and sha256")
            return nil
        }
        guard case .object = value else {
            problems.add("/\(field)", "expected an object with url and sha256, found \(value.kind)")
            return nil
        }
        let url = url(value, at: "/\(field)/url", &problems)
        let digest = digest(value, at: "/\(field)/sha256", &problems)
        problems.unknown(value, known: Self.sideFields, at: "/\(field)")
        guard let url, let digest else { return nil }
        return PairSide(url: url, sha256: digest)
    }

    private func url(_ side: StrictJSON, at pointer: String, _ problems: inout Problems) -> String? {
        guard let text = text(side, "url", at: pointer, limit: 8192, &problems) else { return nil }
        do {
            try syntax.check(text)
        } catch ArtifactError.invalid(_, let reason) {
            problems.add(pointer, "expected a file:, http:, https: or s3: URL; \(reason)")
            return nil
        } catch {
            // Forbidden by the empty list, so well-formed.
        }
        return text
    }

    private func digest(_ side: StrictJSON, at pointer: String, _ problems: inout Problems) -> String? {
        guard let text = text(side, "sha256", at: pointer, limit: 200, &problems) else { return nil }
        guard text.utf8.count == 64, text.utf8.allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }) else {
            problems.add(pointer, "expected the SHA-256 of the file's bytes as 64 hexadecimal digits; found \(Self.shown(text))")
            return nil
        }
        return text.lowercased()
    }

    /// A text that identifies something: no control characters.
    private func name(_ object: StrictJSON, _ field: String, limit: Int, _ problems: inout Problems) -> String? {
        guard let text = text(object, field, at: "/\(field)", limit: limit, &problems) else { return nil }
        guard !text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7f }) else {
            problems.add("/\(field)", "has a control character")
            return nil
        }
        return text
    }

    private func text(
        _ object: StrictJSON, _ field: String, at pointer: String, limit: Int, _ problems: inout Problems
    ) -> String? {
        guard let value = object[field], value != .null else {
            problems.add(pointer, "is required")
            return nil
        }
        guard case .string(let text) = value else {
            problems.add(pointer, "expected a string, found \(value.kind)")
            return nil
        }
        guard !text.isEmpty else {
            problems.add(pointer, "is empty")
            return nil
        }
        guard text.utf8.count <= limit else {
            problems.add(pointer, "has \(text.utf8.count) bytes, more than the \(limit) that are accepted")
            return nil
        }
        guard !text.utf8.contains(0) else {
            problems.add(pointer, "has a NUL character")
            return nil
        }
        return text
    }

    private struct Problems {
        var errors: [ProblemDocument.FieldError] = []

        mutating func add(_ pointer: String, _ detail: String) { errors.append(.init(pointer: pointer, detail: detail)) }

        mutating func unknown(_ object: StrictJSON, known: [String], at parent: String) {
            guard case .object(let members) = object else { return }
            let strangers = members.map(\.key).filter { !known.contains($0) }
            for field in strangers.prefix(PairDecoder.unknownLimit) {
                let step = String(field.prefix(100)).replacing("~", with: "~0").replacing("/", with: "~1")
                add("\(parent)/\(step)", "is not a field that is known here; known are \(known.joined(separator: ", "))")
            }
        }
    }

    private static func shown(_ text: String) -> String { "'\(text.prefix(80))'" }
}
