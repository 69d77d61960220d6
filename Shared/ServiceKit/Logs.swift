import Foundation
public import Logging

/// How log lines are written.
public enum LogFormat: String, Sendable {
    /// One JSON object a line.
    case json
    /// For people.
    case text
    /// Text when stderr is a terminal, JSON otherwise.
    case automatic
}

/// Logging of the whole process: lines on stderr, secrets taken out.
public enum Logs {
    /// Directs swift-log to stderr in the configured format and level, and answers the service's logger. Once a process.
    @discardableResult
    public static func bootstrap(_ configuration: ServiceConfiguration) -> Logger {
        bootstrap(service: configuration.service, level: configuration.logLevel, format: configuration.logFormat)
    }

    /// As above, from its parts; for programs that are no service, such as the command line.
    @discardableResult
    public static func bootstrap(service: String, level: Logger.Level, format: LogFormat) -> Logger {
        let json = format == .json || (format == .automatic && isatty(2) == 0)
        LoggingSystem.bootstrap { label in
            LineLogHandler(label: label, service: service, level: level, json: json, write: LineLogHandler.writeToStandardError)
        }
        return Logger(label: service)
    }
}

/// Writes an event as one line, JSON or text.
struct LineLogHandler: LogHandler {
    let label: String
    let service: String
    let json: Bool
    let write: @Sendable (String) -> Void
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]

    init(label: String, service: String, level: Logger.Level, json: Bool, write: @escaping @Sendable (String) -> Void) {
        self.label = label
        self.service = service
        self.json = json
        self.write = write
        logLevel = level
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var fields = metadata
        if let more = event.metadata { fields.merge(more) { _, new in new } }
        let message = Redaction.redact(event.message.description)
        write(json ? jsonLine(event.level, message, fields) : textLine(event.level, message, fields))
    }

    private func jsonLine(_ level: Logger.Level, _ message: String, _ fields: Logger.Metadata) -> String {
        var line = "{\"time\":\"\(Date.now.formatted(.iso8601.year().month().day().time(includingFractionalSeconds: true)))Z\""
        line += ",\"level\":\"\(level.rawValue)\",\"service\":" + JSONText.quoted(service)
        if label != service { line += ",\"logger\":" + JSONText.quoted(label) }
        line += ",\"message\":" + JSONText.quoted(message)
        for (key, value) in fields.sorted(by: { $0.key < $1.key }) {
            let name = Self.shortName(key)
            line += "," + JSONText.quoted(name) + ":" + Self.json(value, key: name)
        }
        return line + "}\n"
    }

    private func textLine(_ level: Logger.Level, _ message: String, _ fields: Logger.Metadata) -> String {
        let time = Date.now.formatted(.iso8601.time(includingFractionalSeconds: true))
        var line = "\(time) \(level.rawValue.uppercased()) \(label): \(Self.oneLine(message))"
        for (key, value) in fields.sorted(by: { $0.key < $1.key }) {
            let name = Self.shortName(key)
            line += " \(name)=\(Self.oneLine(Self.text(value, key: name)))"
        }
        return line + "\n"
    }

    /// The libraries' prefixed names, in ours.
    private static func shortName(_ key: String) -> String {
        switch key {
        case "hb.request.id": "request_id"
        case "time", "level", "service", "logger", "message": "field_" + key
        default: key
        }
    }

    private static func json(_ value: Logger.Metadata.Value, key: String) -> String {
        if Redaction.secretKeys.contains(key.lowercased()) { return "\"***\"" }
        switch value {
        case .string(let text): return JSONText.quoted(Redaction.redact(text))
        case .stringConvertible(let number as any BinaryInteger): return "\(number)"
        case .stringConvertible(let number as Double) where number.isFinite: return "\(number)"
        case .stringConvertible(let flag as Bool): return "\(flag)"
        case .stringConvertible(let other): return JSONText.quoted(Redaction.redact(other.description))
        case .array(let values): return "[" + values.map { json($0, key: key) }.joined(separator: ",") + "]"
        case .dictionary(let fields):
            return "{"
                + fields.sorted { $0.key < $1.key }.map { JSONText.quoted($0.key) + ":" + json($0.value, key: $0.key) }.joined(
                    separator: ",") + "}"
        }
    }

    private static func text(_ value: Logger.Metadata.Value, key: String) -> String {
        Redaction.secretKeys.contains(key.lowercased()) ? "***" : Redaction.redact("\(value)")
    }

    /// A client's text must not begin a line of its own in the log.
    private static func oneLine(_ text: String) -> String {
        guard text.utf8.contains(where: { $0 < 0x20 }) else { return text }
        return String(text.unicodeScalars.map { $0.value < 0x20 ? " " : Character($0) })
    }

    @Sendable static func writeToStandardError(_ line: String) {
        var line = line
        line.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while let base = rest.baseAddress, !rest.isEmpty {
                let count = Foundation.write(2, base, rest.count)
                if count < 0 && errno == EINTR { continue }
                if count <= 0 { return }
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
        }
    }
}

/// JSON strings without an encoder.
enum JSONText {
    static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20 || scalar.value == 0x7f:
                let hex = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
