public import Foundation

/// A job's settings by name, as an operator typed them (`--set key=value`) or a program posted them.
///
/// A number may come as a JSON number or as text; every reader names the setting and what it expected. Unknown settings are refused by
/// ``refuseUnknown(_:)``, because a misspelt `learning_rat` that is silently ignored costs a training run.
public struct JobSettings: Sendable {
    private enum Value: Sendable {
        case text(String)
        case number(Double)
        case flag(Bool)
    }

    private let values: [String: Value]

    /// Reads a flat JSON object; nested values are kept as their JSON text.
    public init(json: Data) throws {
        guard let object = try JSONSerialization.jsonObject(with: json) as? [String: Any] else {
            throw JobSettingsError(setting: "", expected: "a JSON object of settings")
        }
        var values: [String: Value] = [:]
        for (name, any) in object {
            switch any {
            case let text as String: values[name] = .text(text)
            case let number as NSNumber where isBoolean(number): values[name] = .flag(number.boolValue)
            case let number as NSNumber: values[name] = .number(number.doubleValue)
            case is NSNull: continue
            default:
                let data = try JSONSerialization.data(withJSONObject: any, options: [.sortedKeys, .fragmentsAllowed])
                values[name] = .text(String(decoding: data, as: UTF8.self))
            }
        }
        self.values = values
    }

    /// The names that were set.
    public var names: [String] { values.keys.sorted() }

    /// Throws for the first setting that is not among `known`.
    public func refuseUnknown(_ known: Set<String>) throws {
        if let stranger = names.first(where: { !known.contains($0) }) {
            throw JobSettingsError(setting: stranger, expected: "one of " + known.sorted().joined(separator: ", "))
        }
    }

    /// A text, or nil when it was not set or is empty.
    public func optionalString(_ name: String) throws -> String? {
        switch values[name] {
        case nil: return nil
        case .text(let text): return text.isEmpty ? nil : text
        case .number(let number): return number == number.rounded() ? String(Int(number)) : String(number)
        case .flag(let flag): return String(flag)
        }
    }

    /// A text that must be there unless there is a default.
    public func string(_ name: String, default fallback: String? = nil) throws -> String {
        if let text = try optionalString(name) ?? fallback { return text }
        throw JobSettingsError(setting: name, expected: "a text; it is required")
    }

    /// A text that must be one of `choices`.
    public func choice(_ name: String, _ choices: [String], default fallback: String) throws -> String {
        let text = try string(name, default: fallback)
        guard choices.contains(text) else { throw JobSettingsError(setting: name, expected: "one of " + choices.joined(separator: ", ")) }
        return text
    }

    /// A whole number within `range`.
    public func integer(_ name: String, default fallback: Int, in range: ClosedRange<Int>) throws -> Int {
        let value = try double(name, default: Double(fallback), in: Double(range.lowerBound)...Double(range.upperBound))
        guard value == value.rounded() else { throw JobSettingsError(setting: name, expected: "a whole number") }
        return Int(value)
    }

    /// A number within `range`.
    public func double(_ name: String, default fallback: Double, in range: ClosedRange<Double>) throws -> Double {
        let value: Double
        switch values[name] {
        case nil: return fallback
        case .number(let number): value = number
        case .text(let text):
            guard let number = Double(text) else { throw JobSettingsError(setting: name, expected: "a number, not “\(text)”") }
            value = number
        case .flag: throw JobSettingsError(setting: name, expected: "a number")
        }
        guard range.contains(value) else {
            throw JobSettingsError(setting: name, expected: "a number from \(range.lowerBound) to \(range.upperBound), not \(value)")
        }
        return value
    }
}

/// A setting that is missing, unknown, or not what its job needs. The job cannot succeed by being tried again.
public struct JobSettingsError: Error, CustomStringConvertible, Sendable {
    public let setting: String
    public let expected: String

    /// - Parameters:
    ///   - setting: the setting's name; empty for the settings as a whole.
    ///   - expected: what it takes, with what was found where that helps.
    public init(setting: String, expected: String) {
        self.setting = setting
        self.expected = expected
    }

    public var description: String { setting.isEmpty ? "settings: expected \(expected)" : "setting \(setting): expected \(expected)" }
}

/// Foundation on Linux hands booleans out as numbers; only their Objective-C type tells them apart.
private func isBoolean(_ number: NSNumber) -> Bool { String(cString: number.objCType) == "c" }
