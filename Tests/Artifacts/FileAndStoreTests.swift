import Foundation
import NetworkTesting
import Testing

@testable import Artifacts

@Suite("Files and stores")
struct FileAndStoreTests {
    private let folder: TemporaryFolder
    private let body = someBytes(700_000)
    private var digest: String { SHA256.hexDigest(of: body) }

    init() throws { folder = try TemporaryFolder() }

    private func fetcher() throws -> ArtifactFetcher {
        try ArtifactFetcher(allow: [], fileRoots: [folder.path + "/root"], cache: folder.path + "/cache", maximumBytes: 1 << 20)
    }

    @Test("SHA-256 is SHA-256")
    func sha256() throws {
        #expect(SHA256.hexDigest(of: [UInt8]()) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(SHA256.hexDigest(of: Array("abc".utf8)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(try SHA256.hexDigest(ofFile: folder.write("abc", Array("abc".utf8))) == SHA256.hexDigest(of: Array("abc".utf8)))
        #expect(ContentDigest.sha256(ContentDigest.field(digest)) == digest)
        #expect(ContentDigest.sha256("md5=:AAAA:") == nil)
    }

    @Test("a file below a root is copied into the cache, so that a later change does not matter")
    func file() async throws {
        let file = try folder.write("root/deep er/a", body)
        let url = "file://" + folder.path + "/root/deep%20er/a"
        let path = try await fetcher().fetch(url, sha256: digest)
        try Data("changed".utf8).write(to: URL(filePath: file))
        #expect(FileManager.default.contents(atPath: path) == Data(body))
        await #expect(
            throws: ArtifactError.digestMismatch(
                url: url, expected: String(repeating: "0", count: 64), actual: SHA256.hexDigest(of: Array("changed".utf8)))
        ) {
            try await fetcher().fetch(url, sha256: String(repeating: "0", count: 64))
        }
        #expect(folder.names("cache/parts") == [])
    }

    @Test("links, FIFOs, folders and missing files are refused, each with its reason")
    func noEscape() async throws {
        try folder.write("secret", Array("secret".utf8))
        try folder.write("root/a", [1])
        let root = folder.path + "/root"
        try FileManager.default.createSymbolicLink(atPath: root + "/link", withDestinationPath: folder.path + "/secret")
        try FileManager.default.createSymbolicLink(atPath: root + "/folder", withDestinationPath: folder.path)
        mkfifo(root + "/fifo", 0o600)
        func error(_ name: String) async throws -> ArtifactError {
            try await #require(throws: ArtifactError.self) { try await fetcher().fetch("file://\(root)/\(name)") }
        }
        for name in ["link", "folder/secret", "fifo", "a/b"] {
            guard case .forbidden = try await error(name) else {
                Issue.record("\(name) was not forbidden")
                continue
            }
        }
        guard case .notFound = try await error("missing") else {
            Issue.record("a missing file is not found")
            return
        }
        #expect(throws: ArtifactError.self) { try fetcher().check("file://\(root)/../secret") }
    }

    @Test("a store in a folder keeps bytes and files under their digest or a name")
    func storeInFolder() async throws {
        let store = try ArtifactStore(location: "file://" + folder.path + "/root/store")
        let byDigest = try await store.put(body, mediaType: "application/x-safetensors")
        #expect(
            byDigest
                == Artifact(
                    url: "file://" + folder.path + "/root/store/blobs/" + digest, sha256: digest, bytes: body.count,
                    mediaType: "application/x-safetensors"))
        #expect(try await store.put(file: folder.write("source", body)).url == byDigest.url)
        #expect(FileManager.default.contents(atPath: try await fetcher().fetch(byDigest)) == Data(body))
        let named = try await store.put([1, 2], name: "runs/7/lo ra.safetensors")
        #expect(named.url.hasSuffix("/root/store/runs/7/lo%20ra.safetensors"))
        #expect(try await store.put([3], name: "runs/7/lo ra.safetensors").bytes == 1)
        #expect(FileManager.default.contents(atPath: try await fetcher().fetch(named.url)) == Data([3]))
        #expect(folder.names("root/store/runs/7") == ["lo ra.safetensors"])
        for name in ["../x", "a//b", "", "/a", ".hidden", "a/.."] {
            await #expect(throws: ArtifactError.self) { try await store.put([1], name: name) }
        }
    }

    @Test("a new file is there whole or not at all, with a name of its own until then and without", arguments: [true, false])
    func newFile(mayBeUnnamed: Bool) throws {
        try folder.write("root/x", [])
        // As long as a name may be.
        let name = String(repeating: "ä", count: 127)
        func make() throws -> NewFile {
            try NewFile(folder: open(folder.path + "/root", O_RDONLY | O_DIRECTORY), name: name, mayBeUnnamed: mayBeUnnamed)
        }
        for (bytes, existed) in [([UInt8](1...9), false), ([7], true)] {
            var file: NewFile? = try make()
            try file!.append(bytes)
            // One that has no name shows that this file system can do it; the other has a hidden one.
            #expect(folder.names("root").count { $0.hasPrefix(".") } == (mayBeUnnamed ? 0 : 1))
            #expect(try file!.commit() == existed)
            file = nil
            #expect(FileManager.default.contents(atPath: "\(folder.path)/root/\(name)") == Data(bytes))
            #expect(folder.names("root") == ["x", name])
        }
        var dropped: NewFile? = try make()
        try dropped!.append([UInt8](1...9))
        dropped = nil
        #expect(dropped == nil && folder.names("root") == ["x", name])
        #expect(FileManager.default.contents(atPath: "\(folder.path)/root/\(name)") == Data([7]))
    }

    @Test("a damaged blob in a store is replaced")
    func damagedBlob() async throws {
        let store = try ArtifactStore(location: "file://" + folder.path + "/root/store")
        let artifact = try await store.put(body)
        try folder.write("root/store/blobs/" + digest, [1])
        _ = try await store.put(body)
        #expect(FileManager.default.contents(atPath: try await fetcher().fetch(artifact)) == Data(body))
    }

    @Test("a store over HTTP puts with a digest and tries again when the server stumbles")
    func storeOverHTTP() async throws {
        let server = try ScriptedServer { request, number in number == 1 ? .answer("502 Bad Gateway") : .answer("201 Created") }
        let store = try ArtifactStore(location: server.url + "/bucket")
        let artifact = try await store.put(body)
        #expect(artifact.url == server.url + "/bucket/blobs/" + digest)
        #expect(server.requests.count == 2)
        let request = try #require(server.requests.last)
        #expect(request.method == "PUT" && request.body == body)
        #expect(request.headers["content-digest"].flatMap(ContentDigest.sha256) == digest)
        let closed = try ScriptedServer { _, _ in .answer("403 Forbidden") }
        let error = try await #require(throws: ArtifactError.self) { try await ArtifactStore(location: closed.url).put([1]) }
        #expect(error.isPermanent == true)
    }

    @Test("a store in a bucket needs to be told how S3 is spoken")
    func s3() throws {
        let error = try #require(throws: ArtifactError.self) { try ArtifactStore(location: "s3://bucket/prefix") }
        #expect("\(error)".contains("not configured"))
    }
}
