/// A URL, parsed strictly: what is ambiguous, and so could be read in two ways by two programs, is refused.
struct ArtifactURL: Sendable, Equatable {
    let scheme: String
    /// In lower case; an IPv6 address without brackets; empty for `file:`.
    let host: String
    let port: Int
    /// The path's segments, percent-encoded as given, dot segments resolved.
    let segments: [String]
    /// The path ended in a slash.
    let isFolder: Bool
    let query: String?

    private static let defaultPorts = ["http": 80, "https": 443, "s3": 443, "file": 0]

    init(_ text: String) throws(ArtifactError) {
        let shown = Self.shown(text)
        func refuse(_ reason: String) -> ArtifactError { .invalid(url: shown, reason: reason) }
        guard text.utf8.count <= 8192 else { throw refuse("it is longer than 8192 bytes") }
        for byte in text.utf8 where byte <= 0x20 || byte >= 0x7f || byte == UInt8(ascii: "\\") || byte == UInt8(ascii: "#") {
            throw refuse("it has a character that must be percent-encoded, or a fragment")
        }
        guard let schemeEnd = text.firstRange(of: "://") else { throw refuse("it has no scheme") }
        scheme = text[..<schemeEnd.lowerBound].lowercased()
        guard let defaultPort = Self.defaultPorts[scheme] else { throw refuse("the scheme is none of file, http, https, s3") }
        let rest = text[schemeEnd.upperBound...]
        let authorityEnd = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
        let authority = rest[..<authorityEnd]
        guard !authority.contains("@") else { throw refuse("it carries a user or password") }
        (host, port) = try Self.parse(authority: authority, scheme: scheme, defaultPort: defaultPort, refuse: refuse)
        let pathEnd = rest[authorityEnd...].firstIndex(of: "?") ?? rest.endIndex
        query = pathEnd == rest.endIndex ? nil : String(rest[rest.index(after: pathEnd)...])
        guard scheme != "file" || query == nil else { throw refuse("a file has no query") }
        // In S3 these are other objects, which is not what dot segments and doubled slashes mean elsewhere.
        guard scheme != "s3" || !rest[authorityEnd..<pathEnd].contains("//") else { throw refuse("its key has an empty part") }
        (segments, isFolder) = try Self.parse(path: rest[authorityEnd..<pathEnd], refuse: refuse)
    }

    private static func parse(
        authority: Substring, scheme: String, defaultPort: Int, refuse: (String) -> ArtifactError
    ) throws(ArtifactError) -> (String, Int) {
        if scheme == "file" {
            guard authority.isEmpty else { throw refuse("a file URL has no host: write file:///path") }
            return ("", 0)
        }
        var host = authority
        var port = defaultPort
        let bracket = authority.hasPrefix("[") ? authority.lastIndex(of: "]") : nil
        if authority.hasPrefix("[") && bracket == nil { throw refuse("its IPv6 address has no closing bracket") }
        if let colon = authority.lastIndex(of: ":"), bracket.map({ colon > $0 }) ?? true {
            guard let number = Int(authority[authority.index(after: colon)...]), (1...65535).contains(number) else {
                throw refuse("its port is no number from 1 to 65535")
            }
            port = number
            host = authority[..<colon]
        }
        if bracket != nil { host = host.dropFirst().dropLast() }
        guard !host.isEmpty else { throw refuse("it has no host") }
        let legal = host.utf8.allSatisfy { byte in
            (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                || byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "_")
                || (byte == UInt8(ascii: ":") && bracket != nil)
        }
        guard legal else { throw refuse("its host has a character that no host name has") }
        return (host.lowercased(), port)
    }

    private static func parse(path: Substring, refuse: (String) -> ArtifactError) throws(ArtifactError) -> ([String], Bool) {
        var segments: [String] = []
        let parts = path.split(separator: "/", omittingEmptySubsequences: true)
        var lastIsDots = false
        for part in parts {
            guard let decoded = percentDecoded(part) else { throw refuse("its path has a broken percent-encoding") }
            for byte in decoded where byte < 0x20 || byte == UInt8(ascii: "/") || byte == UInt8(ascii: "\\") || byte == 0x7f {
                throw refuse("its path hides a slash or a control character in a percent-encoding")
            }
            lastIsDots = false
            switch String(decoding: decoded, as: UTF8.self) {
            case ".": lastIsDots = true
            case "..":
                guard !segments.isEmpty else { throw refuse("its path climbs out of the root") }
                segments.removeLast()
                lastIsDots = true
            default: segments.append(String(part))
            }
        }
        return (segments, path.hasSuffix("/") || lastIsDots || parts.isEmpty)
    }

    /// The bytes that a percent-encoded text stands for; `nil` when an escape is broken.
    static func percentDecoded(_ text: some StringProtocol) -> [UInt8]? {
        var result: [UInt8] = []
        var iterator = text.utf8.makeIterator()
        while let byte = iterator.next() {
            guard byte == UInt8(ascii: "%") else {
                result.append(byte)
                continue
            }
            guard let high = iterator.next().flatMap(hexValue), let low = iterator.next().flatMap(hexValue) else { return nil }
            result.append(high << 4 | low)
        }
        return result
    }

    private static func hexValue(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    /// The path's segments with percent-encodings resolved.
    var decodedSegments: [String] { segments.map { String(decoding: Self.percentDecoded($0) ?? [], as: UTF8.self) } }

    /// The local path of a `file:` URL.
    var filePath: String { "/" + decodedSegments.joined(separator: "/") }

    /// The URL as it goes to libcurl, dot segments resolved.
    var requestText: String { base + query.map { "?\($0)" }.orEmpty }

    /// The URL for people and logs: no query.
    var shown: String { base }

    private var base: String {
        let bracketed = host.contains(":") ? "[\(host)]" : host
        let authority = port == Self.defaultPorts[scheme] ? bracketed : "\(bracketed):\(port)"
        return "\(scheme)://\(authority)/\(segments.joined(separator: "/"))\(isFolder && !segments.isEmpty ? "/" : "")"
    }

    /// Any text that should be a URL, for an error message: no query, no user, not endless.
    static func shown(_ text: String) -> String {
        var shown = String(text.prefix { $0 != "?" && $0 != "#" }.prefix(300))
        if let scheme = shown.firstRange(of: "://") {
            let rest = shown[scheme.upperBound...]
            let authority = rest.prefix { $0 != "/" }
            if let at = authority.lastIndex(of: "@") { shown = shown[..<scheme.upperBound] + "***" + shown[at...] }
        }
        return String(shown.unicodeScalars.map { $0.value < 0x20 ? "�" : Character($0) })
    }
}

extension Optional<String> {
    fileprivate var orEmpty: String { self ?? "" }
}
