import Artifacts
import Foundation
import HTTPTypes
public import Hummingbird
public import Logging
import NIOCore
import NIOPosix
public import ServiceKit
import Synchronization

/// A folder served over HTTP: GET and HEAD with ranges, PUT that replaces at once. For demos and tests, and for a laptop's own store; it knows
/// no users and belongs on loopback or behind something that does.
///
/// ```swift
/// try await ArtifactServer(root: "/srv/latents").application(configuration: configuration, logger: logger).run()
/// ```
public struct ArtifactServer: Sendable {
    /// The folder. Files are reached without following symbolic links below it.
    public let root: String
    /// The largest file that is taken.
    public let maximumBytes: Int

    private let digests = DigestMemory()

    /// A server of a folder, which is made when it does not exist.
    public init(root: String, maximumBytes: Int = 4 << 30) throws {
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        self.root = root
        self.maximumBytes = maximumBytes
    }

    /// The server as a service with health and metrics, listening where the configuration says.
    public func application(configuration: ServiceConfiguration, logger: Logger) -> ServiceApplication {
        var application = ServiceApplication(configuration: configuration, logger: logger)
        application.addRoutes { addRoutes(to: $0) }
        return application
    }

    /// Serves `root` at `listen` until a signal; what `foretaste artifacts serve` calls.
    public static func serve(root: String, listen: String, environment: ServiceEnvironment = .process) async throws {
        let configuration = try ServiceConfiguration.fromEnvironment(
            service: "artifacts", environment.merging(["FORETASTE_ARTIFACTS_LISTEN": listen]))
        let logger = Logs.bootstrap(configuration)
        MetricsRegistry.bootstrap()
        try await ArtifactServer(root: root).application(configuration: configuration, logger: logger).run()
    }

    /// Adds GET, HEAD and PUT for every path that nothing else is at.
    public func addRoutes(to router: ServiceRouter) {
        router.get("**") { request, _ in try await self.get(request) }
        router.put("**") { request, _ in try await self.put(request) }
    }

    private func components(_ request: Request) throws -> [String] {
        do {
            let components = try FileRoot.components(ofURLPath: request.uri.path)
            guard !components.isEmpty, !components.contains(where: { $0.hasPrefix(".") }) else {
                throw Problem.notFound("There is no file of that name.")
            }
            return components
        } catch let error as ArtifactError {
            throw Problem.badRequest("\(error)")
        }
    }

    private func get(_ request: Request) async throws -> Response {
        let components = try components(request)
        let file: ServedFile
        do {
            file = try await NIOThreadPool.singleton.runIfActive { [root] in try ServedFile(root: root, components: components) }
        } catch is ArtifactError {
            throw Problem.notFound("There is no file at \(request.uri.path).")
        }
        let tag = digests.tag(for: components, file)
        var headers: HTTPFields = [.acceptRanges: "bytes", .eTag: tag, .contentType: Self.mediaType(components.last ?? "")]
        if request.headers[.ifNoneMatch] == tag { return Response(status: .notModified, headers: headers) }
        let whole = 0..<file.bytes
        var range = whole
        if let text = request.headers[.range], request.headers[.ifRange].map({ $0 == tag }) ?? true {
            switch ByteRange.parse(text, of: file.bytes) {
            case .ignored: break
            case .unsatisfiable:
                throw Problem(
                    .rangeNotSatisfiable, "The file has \(file.bytes) bytes.", headers: [.contentRange: "bytes */\(file.bytes)"])
            case .bytes(let some): range = some
            }
        }
        headers[.contentLength] = "\(range.count)"
        if range != whole { headers[.contentRange] = "bytes \(range.lowerBound)-\(range.upperBound - 1)/\(file.bytes)" }
        let part = range
        let body = ResponseBody(contentLength: part.count) { writer in
            var offset = part.lowerBound
            while offset < part.upperBound {
                let (from, count) = (offset, min(1 << 18, part.upperBound - offset))
                let buffer = try await NIOThreadPool.singleton.runIfActive { try file.read(from, count) }
                offset += buffer.readableBytes
                try await writer.write(buffer)
            }
            try await writer.finish(nil)
        }
        return Response(status: range == whole ? .ok : .partialContent, headers: headers, body: body)
    }

    private func put(_ request: Request) async throws -> Response {
        let components = try components(request)
        let promised = request.headers[HTTPField.Name("Content-Digest")!].flatMap(ContentDigest.sha256)
        if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > maximumBytes {
            throw Problem.tooLarge(limit: maximumBytes)
        }
        let incoming = try await NIOThreadPool.singleton.runIfActive { [root] in try IncomingFile(root: root, components: components) }
        for try await chunk in request.body {
            guard incoming.count + chunk.readableBytes <= maximumBytes else { throw Problem.tooLarge(limit: maximumBytes) }
            try await NIOThreadPool.singleton.runIfActive { try incoming.append(chunk) }
        }
        if let length = request.headers[.contentLength].flatMap({ Int($0) }), length != incoming.count {
            throw Problem.badRequest("The body ended after \(incoming.count) of \(length) bytes.")
        }
        // A name that is a digest is a promise, too.
        let named = components.dropLast() == ["blobs"] && SHA256.isHexDigest(components.last ?? "") ? components.last : nil
        let existed = try await NIOThreadPool.singleton.runIfActive { [digests] in
            let digest = incoming.digest()
            for expected in [promised, named].compactMap({ $0 }) where expected != digest {
                throw Problem.badRequest("The body has the sha256 \(digest), not \(expected).")
            }
            let existed = try incoming.commit()
            digests.remember(components, digest, status: incoming.status)
            return existed
        }
        return Response(status: existed ? .noContent : .created, headers: [.contentLength: "0", .eTag: "\"\(incoming.digest())\""])
    }

    private static func mediaType(_ name: String) -> String {
        switch name.split(separator: ".").last {
        case "json": "application/json"
        case "html": "text/html; charset=utf-8"
        case "txt", "md": "text/plain; charset=utf-8"
        case "png": "image/png"
        case "gif": "image/gif"
        default: "application/octet-stream"
        }
    }
}

/// `Range: bytes=…` with one range.
enum ByteRange: Equatable {
    case bytes(Range<Int>)
    case unsatisfiable
    /// Several ranges, another unit or nonsense: the whole file is a right answer.
    case ignored

    static func parse(_ field: String, of size: Int) -> ByteRange {
        guard field.hasPrefix("bytes=") else { return .ignored }
        let parts = field.dropFirst(6).split(separator: "-", omittingEmptySubsequences: false).map {
            $0.trimmingCharacters(in: .whitespaces)
        }
        guard parts.count == 2, parts.allSatisfy({ $0.utf8.allSatisfy { (0x30...0x39).contains($0) } }) else { return .ignored }
        if parts[0].isEmpty {
            guard let suffix = Int(parts[1]) else { return .ignored }
            return suffix == 0 || size == 0 ? .unsatisfiable : .bytes(max(0, size - suffix)..<size)
        }
        guard let first = Int(parts[0]) else { return .ignored }
        let last = parts[1].isEmpty ? size - 1 : min(Int(parts[1]) ?? size - 1, size - 1)
        if let end = Int(parts[1]), end < first { return .ignored }
        return first < size ? .bytes(first..<(last + 1)) : .unsatisfiable
    }
}
