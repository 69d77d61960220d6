public import Hummingbird

/// The query of a request whose parameters are known, each at most once.
public struct Query: Sendable {
    private var values: [String: String] = [:]

    /// - Throws: 400 for a stranger, a repetition, or a NUL character.
    public init(_ request: Request, known: Set<String>) throws {
        for (key, value) in request.uri.queryParameters {
            let (key, value) = (String(key), String(value))
            guard known.contains(key) else {
                throw Problem.badRequest(
                    "Unknown parameter '\(key.prefix(80))'; "
                        + (known.isEmpty ? "none is known here." : "known are \(known.sorted().joined(separator: ", "))."))
            }
            guard values.updateValue(value, forKey: key) == nil else {
                throw Problem.badRequest("The parameter \(key) stands there twice.")
            }
            guard !value.utf8.contains(0) else { throw Problem.badRequest("The parameter \(key) has a NUL character.") }
        }
    }

    /// A parameter's value, nil when it is not there.
    public subscript(name: String) -> String? { values[name] }

    /// - Throws: 400 for what is no whole number in the range.
    public func integer(_ name: String, in range: ClosedRange<Int>) throws -> Int? {
        guard let text = self[name] else { return nil }
        guard let number = Int(text), range.contains(number) else {
            throw Problem.badRequest(
                "\(name) is '\(text.prefix(80))'; expected a whole number from \(range.lowerBound) to \(range.upperBound).")
        }
        return number
    }

    /// True or false, false when it is not there.
    /// - Throws: 400 for anything else.
    public func flag(_ name: String) throws -> Bool {
        switch self[name] {
        case "true", "1": return true
        case nil, "false", "0": return false
        case let text?: throw Problem.badRequest("\(name) is '\(text.prefix(80))'; expected true or false.")
        }
    }

    /// One of a few words.
    /// - Throws: 400 for any other.
    public func word<Word: RawRepresentable & CaseIterable>(_ name: String, _ type: Word.Type) throws -> Word?
    where Word.RawValue == String {
        guard let text = self[name] else { return nil }
        guard let word = Word(rawValue: text) else {
            throw Problem.badRequest(
                "\(name) is '\(text.prefix(80))'; expected one of \(Word.allCases.map(\.rawValue).joined(separator: ", ")).")
        }
        return word
    }
}
