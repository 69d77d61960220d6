/// Something large, wherever it is: what a row of the database or a message carries instead of the bytes.
public struct Artifact: Sendable, Hashable, Codable {
    /// Where it is: `file:`, `http:`, `https:` or `s3:`.
    public let url: String
    /// The SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    public let sha256: String
    /// How many bytes it has.
    public let bytes: Int
    /// Its media type, such as `application/octet-stream`.
    public let mediaType: String

    /// An artifact that is stored already.
    public init(url: String, sha256: String, bytes: Int, mediaType: String = "application/octet-stream") {
        self.url = url
        self.sha256 = sha256
        self.bytes = bytes
        self.mediaType = mediaType
    }
}

/// What a fetch brought.
public struct FetchedArtifact: Sendable {
    /// The local file, in the cache; read it, don't change it.
    public let path: String
    /// The SHA-256 of its bytes, verified when one was asked for.
    public let sha256: String
    /// How many bytes it has.
    public let bytes: Int
    /// Where it came from, without the query.
    public let url: String
    /// It was in the cache already, and nothing was transferred.
    public let fromCache: Bool
    /// How long it took, in seconds.
    public let seconds: Double
}
