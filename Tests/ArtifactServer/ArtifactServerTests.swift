import Artifacts
import Foundation
import Logging
import NetworkTesting
import ServiceKit
import Testing

@testable import ArtifactServer

@Suite("The artifact server")
struct ArtifactServerTests {
    private let folder = FileManager.default.temporaryDirectory.path + "/foretaste-\(UInt64.random(in: 0...UInt64.max))"
    private var root: String { folder + "/root" }

    /// Runs a server of `root` on a free port while `body` runs.
    private func serving(maximumBytes: Int = 1 << 20, _ body: (Probe, String) async throws -> Void) async throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let configuration = try ServiceConfiguration.fromEnvironment(
            service: "artifacts", ServiceEnvironment(["FORETASTE_DATA": "/nowhere"]))
        let application = try ArtifactServer(root: root, maximumBytes: maximumBytes).application(
            configuration: configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let control = ServiceControl()
        let running = Task { try await application.run(handlingSignals: false, control: control) }
        let url = try await control.listening()
        try await body(Probe(url: url), url)
        await control.shutDown()
        try await running.value
    }

    private func names(_ path: String) -> [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }

    @Test("what a store puts, a fetcher gets")
    func roundTrip() async throws {
        try await serving { _, url in
            let store = try ArtifactStore(location: url + "/latents/")
            let bytes = (0..<700_000).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 7) }
            let artifact = try await store.put(bytes)
            let named = try await store.put(bytes, name: "runs/1/lora one.safetensors")
            let fetcher = try ArtifactFetcher(allow: [url + "/latents/"], cache: folder + "/cache")
            #expect(FileManager.default.contents(atPath: try await fetcher.fetch(artifact)) == Data(bytes))
            #expect(try await fetcher.retrieve(named.url).sha256 == artifact.sha256)
            #expect(names(root + "/latents/blobs") == [artifact.sha256])
            let again = try await store.put(bytes)
            #expect(again == artifact)
        }
    }

    @Test("GET has ranges, HEAD has no body, tags are digests")
    func ranges() async throws {
        try await serving { probe, _ in
            let body = Array("0123456789".utf8)
            let put = try await probe.send("PUT", "/a/b.json", body: body)
            let tag = "\"\(SHA256.hexDigest(of: body))\""
            #expect(put.status == 201 && put.headers["etag"] == tag)
            #expect(try await probe.send("PUT", "/a/b.json", body: body).status == 204)
            let get = try await probe.get("/a/b.json")
            #expect(get.status == 200 && get.body == body && get.headers["etag"] == tag && get.headers["accept-ranges"] == "bytes")
            #expect(get.headers["content-type"] == "application/json")
            let head = try await probe.send("HEAD", "/a/b.json")
            #expect(head.status == 200 && head.body == [] && head.headers["content-length"] == "10")
            for (range, status, text) in [
                ("bytes=2-4", 206, "234"), ("bytes=7-", 206, "789"), ("bytes=-3", 206, "789"), ("bytes=8-100", 206, "89"),
                ("bytes=0-1,3-4", 200, "0123456789"),
                ("items=1-2", 200, "0123456789"), ("bytes=4-2", 200, "0123456789"),
            ] {
                let answer = try await probe.get("/a/b.json", headers: ["Range: \(range)"])
                #expect(answer.status == status && answer.text == text, "\(range)")
            }
            let part = try await probe.get("/a/b.json", headers: ["Range: bytes=2-4"])
            #expect(part.headers["content-range"] == "bytes 2-4/10" && part.headers["content-length"] == "3")
            let beyond = try await probe.get("/a/b.json", headers: ["Range: bytes=10-"])
            #expect(beyond.status == 416 && beyond.headers["content-range"] == "bytes */10")
            #expect(try await probe.get("/a/b.json", headers: ["If-None-Match: \(tag)"]).status == 304)
            #expect(try await probe.get("/a/b.json", headers: ["Range: bytes=2-4", "If-Range: \"other\""]).status == 200)
            // Changed behind the server's back: the remembered digest no longer counts.
            try Data("other".utf8).write(to: URL(filePath: root + "/a/b.json"))
            #expect(try await probe.get("/a/b.json").headers["etag"]?.hasPrefix("W/") == true)
        }
    }

    @Test("no path leads out of the root, and no listing leads in")
    func traversal() async throws {
        try FileManager.default.createDirectory(atPath: root + "/sub", withIntermediateDirectories: true)
        try Data("secret".utf8).write(to: URL(filePath: folder + "/secret"))
        try FileManager.default.createSymbolicLink(atPath: root + "/link", withDestinationPath: folder + "/secret")
        try FileManager.default.createSymbolicLink(atPath: root + "/out", withDestinationPath: folder)
        try await serving { probe, _ in
            for path in [
                "/../secret", "/sub/../../secret", "/%2e%2e/secret", "/..%2fsecret", "/link", "/out/secret", "/sub", "/", "/.hidden",
                "//etc/passwd", "/a%00b",
            ] {
                let answer = try await probe.get(path)
                #expect([400, 404].contains(answer.status), "\(path)")
                #expect(answer.headers["content-type"] == "application/problem+json" && !answer.text.contains("\"secret\""))
            }
            for path in ["/../new", "/out/new", "/.hidden", "/", "/%2e%2e/new"] {
                #expect(try await probe.send("PUT", path, body: [1]).status >= 400, "\(path)")
            }
            #expect(names(folder) == ["root", "secret"])
            #expect(names(root) == ["link", "out", "sub"])
            // Replacing a link replaces the link, not what it leads to.
            #expect(try await probe.send("PUT", "/link", body: [1]).status < 300)
            #expect(FileManager.default.contents(atPath: folder + "/secret") == Data("secret".utf8))
        }
    }

    @Test("a PUT that is too large, cut short or not what it promises leaves nothing")
    func badPuts() async throws {
        try await serving(maximumBytes: 100) { (probe: Probe, _: String) async throws in
            #expect(try await probe.send("PUT", "/a", body: Array(repeating: 1, count: 101)).status == 413)
            let wrong = ContentDigest.field(SHA256.hexDigest(of: [9]))
            #expect(try await probe.send("PUT", "/a", headers: ["Content-Digest: \(wrong)"], body: [1]).status == 400)
            #expect(try await probe.send("PUT", "/blobs/" + SHA256.hexDigest(of: [9]), body: [1]).status == 400)
            #expect(try await probe.send("PUT", "/blobs/" + SHA256.hexDigest(of: [9]), body: [9]).status == 201)
            #expect(try await probe.send("POST", "/a", body: [1]).status == 405)
            #expect(names(root) == ["blobs"] && names(root + "/blobs") == [SHA256.hexDigest(of: [9])])
            #expect(try await probe.get("/livez").status == 200)
        }
    }
}
