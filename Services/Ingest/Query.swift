import Hummingbird
import ServiceKit

/// The query of a request whose parameters are known, each at most once.
struct Query {
    private var values: [String: String] = [:]

    /// - Throws: 400 for a stranger, a repetition, or a NUL character.
    init(_ request: Request, known: Set<String>) throws {
        for (key, value) in request.uri.queryParameters {
            let (key, value) = (String(key), String(value))
            guard known.contains(key) else {
                throw Problem.badRequest("Unknown parameter '\(key.prefix(80))'; known are \(known.sorted().joined(separator: ", ")).")
            }
            guard values.updateValue(value, forKey: key) == nil else {
                throw Problem.badRequest("The parameter \(key) stands there twice.")
            }
            guard !value.utf8.contains(0) else { throw Problem.badRequest("The parameter \(key) has a NUL character.") }
        }
    }

    subscript(name: String) -> String? { values[name] }

    /// - Throws: 400 for what is no whole number in the range.
    func integer(_ name: String, in range: ClosedRange<Int>) throws -> Int? {
        guard let text = self[name] else { return nil }
        guard let number = Int(text), range.contains(number) else {
            throw Problem.badRequest(
                "\(name) is '\(text.prefix(80))'; expected a whole number from \(range.lowerBound) to \(range.upperBound).")
        }
        return number
    }
}
