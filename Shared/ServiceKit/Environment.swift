import Foundation

/// Reads configuration from environment variables; nothing else in the project does.
///
/// A getter answers `nil` (or the default) for a variable that is unset or empty, and throws a `ConfigurationError` that names the variable,
/// what was found and what was expected. A secret may stand in a file instead: with `NAME_FILE=/run/secrets/x` set, `secret("NAME")` is that
/// file's content without its trailing newline.
public struct Environment: Sendable {
    /// The variables, by name.
    public let variables: [String: String]

    /// An environment for a test, or one that a launcher prepared.
    public init(_ variables: [String: String]) {
        self.variables = variables
    }

    /// This process's environment.
    public static var process: Environment {
        Environment(ProcessInfo.processInfo.environment)
    }

    /// The same environment with some variables replaced.
    public func merging(_ changes: [String: String]) -> Environment {
        Environment(variables.merging(changes) { _, new in new })
    }

    /// The value as it stands, `nil` when unset or empty.
    public func string(_ name: String) -> String? {
        guard let value = variables[name], !value.isEmpty else { return nil }
        return value
    }

    /// The value as it stands; throws when it is unset or empty, saying what it is for.
    public func require(_ name: String, for purpose: String) throws -> String {
        guard let value = string(name) else {
            throw ConfigurationError(variable: name, problem: "is not set; it is needed for \(purpose)")
        }
        return value
    }

    /// A secret: `NAME`, or the content of the file that `NAME_FILE` points to. Both at once is an error, because one would be ignored.
    public func secret(_ name: String) throws -> String? {
        let fileVariable = name + "_FILE"
        guard let path = string(fileVariable) else { return string(name) }
        guard string(name) == nil else {
            throw ConfigurationError(variable: fileVariable, problem: "is set beside \(name); set one of them")
        }
        guard let data = FileManager.default.contents(atPath: path) else {
            throw ConfigurationError(variable: fileVariable, problem: "names \(path), which cannot be read")
        }
        guard data.count <= 65536, let text = String(data: data, encoding: .utf8) else {
            throw ConfigurationError(variable: fileVariable, problem: "names \(path), which is not a short UTF-8 text")
        }
        let value = text.trimmingCharacters(in: .newlines)
        return value.isEmpty ? nil : value
    }

    /// A whole number within `range`.
    public func integer(_ name: String, in range: ClosedRange<Int> = 0...Int.max) throws -> Int? {
        guard let text = string(name) else { return nil }
        guard let value = Int(text), range.contains(value) else {
            let bounds = range.upperBound == Int.max ? "at least \(range.lowerBound)" : "from \(range.lowerBound) to \(range.upperBound)"
            throw ConfigurationError(variable: name, problem: "is '\(text)'; expected a whole number \(bounds)")
        }
        return value
    }

    /// A finite number within `range`.
    public func number(_ name: String, in range: ClosedRange<Double> = 0...Double.greatestFiniteMagnitude) throws -> Double? {
        guard let text = string(name) else { return nil }
        guard let value = Double(text), value.isFinite, range.contains(value) else {
            throw ConfigurationError(
                variable: name, problem: "is '\(text)'; expected a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    /// `1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`, in any case.
    public func boolean(_ name: String) throws -> Bool? {
        guard let text = string(name) else { return nil }
        switch text.lowercased() {
        case "1", "true", "yes", "on": return true
        case "0", "false", "no", "off": return false
        default: throw ConfigurationError(variable: name, problem: "is '\(text)'; expected true or false")
        }
    }

    /// A comma-separated list, blanks around items dropped, empty items left out.
    public func list(_ name: String) -> [String] {
        (string(name) ?? "").split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
    }

    /// One of a few words.
    public func choice(_ name: String, of choices: [String]) throws -> String? {
        guard let text = string(name) else { return nil }
        guard choices.contains(text.lowercased()) else {
            throw ConfigurationError(variable: name, problem: "is '\(text)'; expected one of \(choices.joined(separator: ", "))")
        }
        return text.lowercased()
    }

    /// `HOST:PORT`; an IPv6 host in brackets; port 0 for any free one.
    public func listenAddress(_ name: String) throws -> ListenAddress? {
        guard let text = string(name) else { return nil }
        guard let address = ListenAddress(text) else {
            throw ConfigurationError(variable: name, problem: "is '\(text)'; expected HOST:PORT, such as 127.0.0.1:8080 or [::1]:0")
        }
        return address
    }
}

/// The same type under a name that Hummingbird, which has an `Environment` too, does not make ambiguous.
public typealias ServiceEnvironment = Environment

/// A variable of the environment that cannot be used, and why.
public struct ConfigurationError: Error, CustomStringConvertible, Sendable, Equatable {
    /// The variable's name.
    public let variable: String
    /// The rest of the sentence that begins with the variable's name.
    public let problem: String

    /// An error about one variable.
    public init(variable: String, problem: String) {
        self.variable = variable
        self.problem = problem
    }

    public var description: String { "\(variable) \(problem)" }
}

/// Where a listener binds.
public struct ListenAddress: Sendable, Equatable, CustomStringConvertible {
    /// A host name or an address, IPv6 without brackets.
    public let host: String
    /// The port; 0 for any free one.
    public let port: Int

    /// An address from its parts.
    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Parses `HOST:PORT`; `nil` when it is not one.
    public init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]), (0...65535).contains(port) else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("[") && host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty else { return nil }
        self.init(host: String(host), port: port)
    }

    /// The base URL of a server that listens here.
    public var url: String { "http://\(description)" }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
