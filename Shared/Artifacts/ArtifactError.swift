/// Why an artifact could not be fetched or stored. URLs stand in it without their query, which may hold a signature.
public enum ArtifactError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The URL is no URL that is understood here.
    case invalid(url: String, reason: String)
    /// The allow-list, or the address that the host's name led to, forbids it.
    case forbidden(url: String, reason: String)
    /// No connection, or one that broke; worth another try later.
    case unreachable(url: String, reason: String)
    /// The server says that there is no such thing (404, 410), or the file does not exist (status 404).
    case notFound(url: String, status: Int)
    /// The server answered another error status.
    case rejected(url: String, status: Int)
    /// An object store refused, and said why: `code` is S3's, such as `AccessDenied`.
    case service(url: String, status: Int, code: String, reason: String)
    /// The server wants us to look elsewhere, which we don't.
    case redirected(url: String, location: String)
    /// The bytes are not those that were promised.
    case digestMismatch(url: String, expected: String, actual: String)
    /// More bytes than are accepted.
    case tooLarge(url: String, limit: Int)
    /// Our own disk failed us.
    case storage(path: String, reason: String)

    /// Another try cannot help: the URL, the content or the configuration has to change.
    public var isPermanent: Bool {
        switch self {
        case .invalid, .forbidden, .notFound, .redirected, .digestMismatch, .tooLarge: true
        case .rejected(_, let status): !Self.isTransient(status: status)
        case .service(_, let status, let code, _):
            !Self.isTransient(status: status) && !["ExpiredToken", "RequestTimeout", "SlowDown", "OperationAborted"].contains(code)
        case .unreachable, .storage: false
        }
    }

    static func isTransient(status: Int) -> Bool { [408, 425, 429].contains(status) || status >= 500 }

    public var description: String {
        switch self {
        case .invalid(let url, let reason): "\(url) is not a usable artifact URL: \(reason)"
        case .forbidden(let url, let reason):
            "\(url) may not be fetched: \(reason). Artifacts come only from the prefixes in FORETASTE_ARTIFACTS_ALLOW"
        case .unreachable(let url, let reason):
            "\(url) cannot be reached: \(reason). Is the server running, and reachable from this machine?"
        case .notFound(let url, let status): "\(url) does not exist (status \(status)). Was it moved or deleted after the pair was posted?"
        case .rejected(let url, let status) where status == 401 || status == 403:
            "\(url) was refused by its server (status \(status)). Has a presigned URL expired, or is the object private?"
        case .rejected(let url, let status): "\(url) was answered with status \(status)"
        case .service(let url, let status, let code, let reason): "\(url): the object store answered \(code) (status \(status)): \(reason)"
        case .redirected(let url, let location):
            "\(url) redirects to \(location), and redirects are not followed. Use the final URL"
        case .digestMismatch(let url, let expected, let actual):
            "\(url) has the sha256 \(actual), not \(expected). Was the file changed or uploaded again after its digest was taken?"
        case .tooLarge(let url, let limit): "\(url) has more than the \(limit) bytes that are accepted"
        case .storage(let path, let reason): "\(path): \(reason)"
        }
    }
}
