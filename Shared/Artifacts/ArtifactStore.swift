import Foundation

/// Where a system keeps its own artifacts: a folder (`file:///…`) or a server that takes PUT (`http://…`, such as `foretaste artifacts serve`)
/// or a bucket (`s3://bucket/prefix`).
///
/// Without a name an artifact is stored under its digest, `blobs/<sha256>`, so that storing it again changes nothing.
public final class ArtifactStore: Sendable {
    /// The store's URL, with a slash at its end.
    public let location: String

    private enum Place {
        case folder(String)
        case server(ArtifactURL)
        case bucket(S3Client)
    }

    private let place: Place
    private let limits: TransferLimits

    /// A store at a URL. A folder is made when first needed.
    /// - Parameter s3: how `s3://` is spoken; needed for a store in a bucket.
    public convenience init(location: String, s3: S3Configuration? = nil) throws {
        try self.init(location: location, s3: s3, limits: TransferLimits())
    }

    init(location: String, s3: S3Configuration? = nil, limits: TransferLimits) throws {
        let url = try ArtifactURL(location)
        guard url.query == nil else { throw ArtifactError.invalid(url: url.shown, reason: "a store's URL has no query") }
        switch url.scheme {
        case "file": place = .folder(url.filePath)
        case "s3":
            try S3Configuration.check(bucket: url)
            guard let s3 else { throw ArtifactError.invalid(url: url.shown, reason: "S3 is not configured here") }
            place = .bucket(S3Client(configuration: s3))
        default: place = .server(url)
        }
        self.location = url.shown.hasSuffix("/") ? url.shown : url.shown + "/"
        self.limits = limits
    }

    /// Stores bytes.
    /// - Parameter name: a path below the store, such as `runs/12/lora.safetensors`; by digest when `nil`. An artifact of the same name is
    ///   replaced, at once.
    public func put(_ bytes: [UInt8], name: String? = nil, mediaType: String = "application/octet-stream") async throws -> Artifact {
        try await transfer { [self] handle, cancelled in
            let digest = SHA256.hexDigest(of: bytes)
            let url = try store(
                UploadSource(bytes: bytes), digest: digest, name: name ?? "blobs/\(digest)", mediaType: mediaType, handle: handle,
                cancelled: cancelled)
            return Artifact(url: url, sha256: digest, bytes: bytes.count, mediaType: mediaType)
        }
    }

    /// Stores a file's content.
    public func put(file path: String, name: String? = nil, mediaType: String = "application/octet-stream") async throws -> Artifact {
        try await transfer { [self] handle, cancelled in
            let descriptor = open(path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw ArtifactError.storage(path: path, reason: systemReason()) }
            defer { close(descriptor) }
            var hash = SHA256()
            let count = try hash.update(descriptor: descriptor, path: path)
            let digest = SHA256.hex(hash.finish())
            let source = UploadSource(descriptor: descriptor, count: count)
            let url = try store(
                source, digest: digest, name: name ?? "blobs/\(digest)", mediaType: mediaType, handle: handle, cancelled: cancelled)
            return Artifact(url: url, sha256: digest, bytes: count, mediaType: mediaType)
        }
    }

    /// A URL that lets whoever has it read an artifact of this store in a bucket, for 1 second to 7 days; it is a secret for that long.
    public func presignedURL(for artifact: Artifact, seconds: Int) async throws -> String {
        let url = try ArtifactURL(artifact.url)
        guard case .bucket(let client) = place, artifact.url.hasPrefix(location) else {
            throw ArtifactError.invalid(
                url: url.shown, reason: "only what is in this store, and this store in a bucket, has presigned URLs")
        }
        return try await TransferThreads.shared.run { try client.presign(url, seconds: seconds, date: Date(), on: $0) }
    }

    /// Runs `body` on a transfer thread; it ends early when the task that waits is cancelled.
    private func transfer<R: Sendable>(
        _ body: @escaping @Sendable (TransferThreads.Handle, Cancellation) throws -> R
    ) async throws -> R {
        let cancelled = Cancellation()
        return try await withTaskCancellationHandler {
            do {
                return try await TransferThreads.shared.run(host: host) { try body($0, cancelled) }
            } catch {
                try Task.checkCancellation()
                throw error
            }
        } onCancel: {
            cancelled.cancel()
        }
    }

    /// Whose transfers these are, when they are counted.
    private var host: String? {
        switch place {
        case .folder: nil
        case .server(let url): "\(url.host):\(url.port)"
        case .bucket(let client): client.host
        }
    }

    private static func check(mediaType: String, _ url: String) throws {
        guard mediaType.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7f }) else {
            throw ArtifactError.invalid(url: url, reason: "the media type has characters that no header may have")
        }
    }

    private func store(
        _ source: UploadSource, digest: String, name: String, mediaType: String, handle: TransferThreads.Handle, cancelled: Cancellation
    ) throws -> String {
        let components = name.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        for component in components where component.isEmpty || component.hasPrefix(".") || component.utf8.contains(where: { $0 < 0x20 }) {
            throw ArtifactError.invalid(url: location + name, reason: "an artifact's name is a relative path without empty or hidden parts")
        }
        let url = location + ArtifactPolicy.percentEncoded(name)
        switch place {
        case .folder(let folder):
            try write(source, to: folder, components, addressed: name == "blobs/\(digest)", digest: digest, cancelled: cancelled)
        case .server:
            try send(source, to: try ArtifactURL(url), digest: digest, mediaType: mediaType, handle: handle, cancelled: cancelled)
        case .bucket(let client):
            try Self.check(mediaType: mediaType, url)
            try S3Upload(client: client, object: try ArtifactURL(url), limits: limits, handle: handle, cancelled: cancelled)
                .store(source, digest: digest, mediaType: mediaType)
        }
        return url
    }

    private func write(
        _ source: UploadSource, to folder: String, _ components: [String], addressed: Bool, digest: String, cancelled: Cancellation
    ) throws {
        let parent = ([folder] + components.dropLast()).joined(separator: "/")
        let path = parent + "/" + components.last!
        // Damaged content under its own digest is written again.
        if addressed, let found = try? SHA256.digest(ofFile: path), found.hex == digest { return }
        do {
            try FileManager.default.createDirectory(atPath: parent, withIntermediateDirectories: true)
        } catch {
            throw ArtifactError.storage(path: parent, reason: "the store's folder cannot be made: \(error.localizedDescription)")
        }
        let directory = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { throw ArtifactError.storage(path: parent, reason: systemReason()) }
        let file = try NewFile(folder: directory, name: components.last!)
        try withUnsafeTemporaryAllocation(byteCount: 1 << 18, alignment: 64) { buffer in
            while file.count < source.count {
                if let reason = cancelled.reason { throw ArtifactError.unreachable(url: path, reason: reason) }
                let count = source.read(into: buffer)
                guard count > 0, count <= source.count - file.count else {
                    throw ArtifactError.storage(path: path, reason: "its source cannot be read")
                }
                try file.append(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
            }
        }
        try file.commit()
    }

    private func send(
        _ source: UploadSource, to url: ArtifactURL, digest: String, mediaType: String, handle: TransferThreads.Handle,
        cancelled: Cancellation
    ) throws {
        try Self.check(mediaType: mediaType, url.shown)
        let headers = ["Content-Type: \(mediaType)", "Content-Digest: \(ContentDigest.field(digest))"]
        var delay = 0.25
        for attempt in 1... {
            do {
                _ = source.seek(to: 0)
                let outcome = try HTTPTransfer(url: url, limits: limits, cancelled: cancelled, headers: headers).put(
                    on: handle, from: source)
                switch outcome.status {
                case 200..<300: return
                case 404, 410: throw ArtifactError.notFound(url: url.shown, status: outcome.status)
                case 413: throw ArtifactError.tooLarge(url: url.shown, limit: source.count - 1)
                default: throw ArtifactError.rejected(url: url.shown, status: outcome.status)
                }
            } catch let error as ArtifactError {
                guard !error.isPermanent, attempt < limits.attempts, !cancelled.isCancelled else { throw error }
            }
            // This is one of our own threads, which may wait.
            cancelled.wait(delay * Double.random(in: 0.5...1.5))
            delay *= 2
        }
    }
}

/// The `Content-Digest` header field of RFC 9530.
public enum ContentDigest {
    /// `sha-256=:…:` for a hexadecimal SHA-256.
    public static func field(_ sha256: String) -> String {
        "sha-256=:\(Data(ArtifactURL.percentDecoded(Self.escaped(sha256)) ?? []).base64EncodedString()):"
    }

    /// The hexadecimal SHA-256 in a field; `nil` when it has none.
    public static func sha256(_ field: String) -> String? {
        for item in field.split(separator: ",") {
            let parts = item.split(separator: "=", maxSplits: 1).map { $0.trimmingCharacters(in: .whitespaces) }
            guard parts.count == 2, parts[0].lowercased() == "sha-256", parts[1].hasPrefix(":"), parts[1].hasSuffix(":"),
                parts[1].count > 2,
                let data = Data(base64Encoded: String(parts[1].dropFirst().dropLast())), data.count == 32
            else { continue }
            return SHA256.hex(Array(data))
        }
        return nil
    }

    /// Each two digits behind a percent sign.
    private static func escaped(_ hex: String) -> String {
        var text = ""
        for (index, character) in hex.enumerated() {
            if index % 2 == 0 { text += "%" }
            text.append(character)
        }
        return text
    }
}
