import CLibpq

/// Where the database is and how to reach it.
public struct PostgresConfiguration: Sendable, CustomStringConvertible {
    /// A libpq connection URL (`postgresql://user@host:5432,other:5432/name?target_session_attrs=read-write`) or keyword string.
    /// Everything that libpq understands holds, several hosts and `PG…` environment variables included.
    public var url: String
    /// How long making one connection may take, in seconds.
    public var connectTimeout = 10.0
    /// How long a task waits for a connection of an exhausted pool, in seconds.
    public var acquireTimeout = 60.0
    /// How often an idle listening connection is pinged, in seconds. A half-open connection is silent otherwise.
    public var pingInterval = 10.0
    /// Settings of every session, such as `["statement_timeout": "5s"]`.
    public var sessionSettings: [String: String] = [:]

    /// Connects to `url`.
    public init(url: String) { self.url = url }

    /// The URL without its password.
    public var description: String { redacted(url) }

    /// Takes every trace of the password out of a text that may quote the URL.
    func redacted(_ text: String) -> String {
        var text = text
        for secret in secrets where !secret.isEmpty { text.replace(secret, with: "***") }
        return text
    }

    /// The password as it stands in the URL, and decoded. Found without a full parse, because errors of the parse quote the URL.
    private var secrets: [String] {
        var found: [Substring] = []
        if let scheme = url.firstRange(of: "://") {
            let authority = url[scheme.upperBound...].prefix { $0 != "/" && $0 != "?" }
            if let at = authority.lastIndex(of: "@"), let colon = authority[..<at].firstIndex(of: ":") {
                found.append(authority[authority.index(after: colon)..<at])
            }
        }
        for match in url.matches(of: /password\s*=\s*('(?:[^'\\]|\\.)*'|[^&\s]+)/.ignoresCase()) {
            found.append(match.output.1)
        }
        var message: UnsafeMutablePointer<CChar>?
        if let options = PQconninfoParse(url, &message) {
            var option = options
            while let keyword = option.pointee.keyword {
                if String(cString: keyword).hasSuffix("password"), let value = option.pointee.val {
                    found.append(Substring(String(cString: value)))
                }
                option += 1
            }
            PQconninfoFree(options)
        }
        if let message { PQfreemem(message) }
        return found.map(String.init).sorted { $0.utf8.count > $1.utf8.count }
    }

    /// What goes to `PQconnectStartParams`; the URL stands behind the defaults, so that it wins over them.
    func parameters(applicationName: String) -> [(String, String)] {
        var parameters = [
            ("fallback_application_name", applicationName), ("keepalives", "1"), ("keepalives_idle", "10"),
            ("keepalives_interval", "5"), ("keepalives_count", "3"), ("tcp_user_timeout", "15000"), ("client_encoding", "UTF8"),
            ("dbname", url),
        ]
        if !sessionSettings.isEmpty {
            let options = sessionSettings.sorted { $0.key < $1.key }.map { name, value in
                "-c \(name)=\(value.replacing("\\", with: "\\\\").replacing(" ", with: "\\ "))"
            }
            parameters.append(("options", options.joined(separator: " ")))
        }
        return parameters
    }
}
