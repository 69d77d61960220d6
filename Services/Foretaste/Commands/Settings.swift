import ArgumentParser
import Foundation

/// `--set KEY=VALUE` as a JSON object: numbers and booleans by their looks, everything else as text.
enum Settings {
    static func json(_ settings: [String]) throws -> String {
        var object: [String: Any] = [:]
        for setting in settings {
            guard let equals = setting.firstIndex(of: "="), equals > setting.startIndex else {
                throw ValidationError("--set \(setting): expected KEY=VALUE")
            }
            let key = String(setting[..<equals]), value = String(setting[setting.index(after: equals)...])
            guard object[key] == nil else { throw ValidationError("--set \(key): given twice") }
            if let whole = Int(value) {
                object[key] = whole
            } else if let number = Double(value), number.isFinite {
                object[key] = number
            } else if value == "true" || value == "false" {
                object[key] = value == "true"
            } else {
                object[key] = value
            }
        }
        return String(
            decoding: try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes]), as: UTF8.self)
    }
}

extension Settings {
    /// One of a few words.
    static func choice<Choice: RawRepresentable & CaseIterable>(_ word: String) throws -> Choice where Choice.RawValue == String {
        guard let choice = Choice(rawValue: word) else {
            throw ValidationError("“\(word)” is not one of \(Choice.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        return choice
    }
}

/// Columns for people.
enum Table {
    static func render(header: [String], rows: [[String]]) -> String {
        let widths = header.indices.map { column in ([header] + rows).map { $0[column].count }.max() ?? 0 }
        return ([header] + rows).map { row in
            zip(row, widths).map { $0.padding(toLength: max($1, $0.count), withPad: " ", startingAt: 0) }.joined(separator: "  ")
                .trimmingCharacters(in: .whitespaces)
        }.joined(separator: "\n")
    }
}
