/// Where artifacts may come from: an allow-list of URL prefixes and of folders.
///
/// A URL is allowed when one prefix has its scheme, host and port, and a path that is the beginning of its path, whole segments compared.
/// The address that the host's name leads to is checked as well, when the connection is made:
/// - a prefix with an address in it (`http://127.0.0.1:9000/`) allows exactly that address;
/// - a prefix with a name allows public and private addresses, because the operator wrote that very name; loopback only for `localhost`;
///   link-local and metadata addresses never.
public struct ArtifactPolicy: Sendable {
    private let prefixes: [ArtifactURL]
    private let folders: [ArtifactURL]

    /// A policy.
    /// - Parameters:
    ///   - allow: URL prefixes such as `http://127.0.0.1:9000/latents/` or `file:///srv/latents/`.
    ///   - fileRoots: absolute paths of folders that `file:` URLs may name.
    public init(allow: [String], fileRoots: [String] = []) throws {
        let parsed = try allow.map { text in
            let url = try ArtifactURL(text)
            guard url.query == nil else { throw ArtifactError.invalid(url: url.shown, reason: "a prefix has no query") }
            return url
        }
        for prefix in parsed where prefix.scheme == "s3" { try S3Configuration.check(bucket: prefix) }
        prefixes = parsed.filter { $0.scheme != "file" }
        folders = try parsed.filter { $0.scheme == "file" } + fileRoots.map { try ArtifactURL("file://" + Self.percentEncoded($0)) }
        for folder in folders where folder.segments.isEmpty {
            throw ArtifactError.invalid(url: folder.shown, reason: "the whole file system cannot be allowed")
        }
    }

    /// Where an allowed URL leads.
    enum Target: Sendable {
        /// A file: the folder that allows it, and the path's components below it.
        case file(root: String, components: [String])
        case http(ArtifactURL)
        /// An object: the bucket is the host.
        case s3(ArtifactURL)
    }

    /// Throws unless the URL may be fetched, as far as that can be told without a connection.
    public func check(_ url: String) throws { _ = try target(url) }

    func target(_ text: String) throws -> Target {
        let url = try ArtifactURL(text)
        switch url.scheme {
        case "file":
            let components = url.decodedSegments
            let roots = folders.map(\.decodedSegments).filter { components.starts(with: $0) && components.count > $0.count }
            // The innermost root, so that a root that is itself below another may be reached through a symbolic link.
            guard let root = roots.max(by: { $0.count < $1.count }) else {
                throw ArtifactError.forbidden(
                    url: url.shown, reason: "it is in none of the folders that are allowed (FORETASTE_ARTIFACTS_FILE_ROOTS)")
            }
            return .file(root: "/" + root.joined(separator: "/"), components: Array(components.dropFirst(root.count)))
        default:
            if url.scheme == "s3" { try S3Configuration.check(object: url) }
            guard prefixes.contains(where: { Self.allows($0, url) }) else {
                throw ArtifactError.forbidden(url: url.shown, reason: "no allowed prefix covers it")
            }
            return url.scheme == "s3" ? .s3(url) : .http(url)
        }
    }

    /// Why a connection to `address` for `host` is refused; `nil` when it is not.
    static func refusal(host: String, address: NetworkAddress?) -> String? {
        guard let address else { return "its host has no IP address" }
        // The host is in the allow-list as it stands, or there would be no connection.
        if let literal = NetworkAddress(literal: host) {
            return literal == address ? nil : "its host leads to another address"
        }
        switch address.kind {
        case .public, .private: return nil
        case .loopback where host == "localhost" || host.hasSuffix(".localhost"): return nil
        case let kind: return "its host leads to \(kind.rawValue); a prefix with that very address in it would allow it"
        }
    }

    private static func allows(_ prefix: ArtifactURL, _ url: ArtifactURL) -> Bool {
        prefix.scheme == url.scheme && prefix.host == url.host && prefix.port == url.port
            && url.decodedSegments.starts(with: prefix.decodedSegments)
    }

    /// A path as it stands in a URL.
    static func percentEncoded(_ path: String) -> String {
        var result = ""
        for byte in path.utf8 {
            if byte == UInt8(ascii: "/") || isUnreserved(byte) {
                result.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                result += "%" + SHA256.hex([byte]).uppercased()
            }
        }
        return result
    }

    /// What never needs a percent-encoding (RFC 3986).
    static func isUnreserved(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"):
            true
        default: false
        }
    }
}
