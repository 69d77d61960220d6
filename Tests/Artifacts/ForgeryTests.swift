import Foundation
import Logging
import NetworkTesting
import Synchronization
import Testing

@testable import Artifacts

@Suite("Requests that others would like us to make")
struct ForgeryTests {
    private let folder: TemporaryFolder
    private let body = someBytes(1000)
    private var digest: String { SHA256.hexDigest(of: body) }

    init() throws { folder = try TemporaryFolder() }

    /// A fetcher whose name service answers what `addresses` says at that moment.
    private func fetcher(_ allow: String, logger: Logger = Logger(label: "test"), addresses: (@Sendable () -> [String])? = nil) throws
        -> ArtifactFetcher
    {
        var limits = TransferLimits(connectSeconds: 2)
        limits.addresses = addresses
        return ArtifactFetcher(
            policy: try ArtifactPolicy(allow: [allow]), cache: folder.path + "/cache", maximumBytes: 1 << 20, limits: limits,
            firstDelay: 0.01, logger: logger, onFetch: nil)
    }

    @Test(
        "an allowed name that leads to a forbidden address is not connected to, however the address is spelled",
        arguments: [
            "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::7f00:1", "2002:7f00:1::1",
            "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0",
            "::",
            "224.0.0.1", "2001:0:7f00:1::1",
        ])
    func forbiddenAddress(address: String) async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body) }
        let host = "a\(UInt64.random(in: 0...UInt64.max)).example.com"
        let port = server.port
        let fetcher = try fetcher("http://\(host):\(port)/") { ["\(host):\(port):\(address.contains(":") ? "[\(address)]" : address)"] }
        // The list allows it: only the connection tells.
        try fetcher.check("http://\(host):\(port)/a")
        let error = try await #require(throws: ArtifactError.self) { try await fetcher.fetch("http://\(host):\(port)/a?token=secret") }
        guard case .forbidden(_, let reason) = error else {
            Issue.record("\(error)")
            return
        }
        #expect(reason.contains("its host leads to") && !"\(error)".contains("secret") && error.isPermanent)
        #expect(server.requests.isEmpty)
    }

    @Test("a name that changes its mind between two connections is checked at both")
    func rebinding() async throws {
        // The first connection is to where the name may lead, and fails; the second would be to a forbidden place on the same port.
        let outer = try ScriptedServer { _, _ in .answer("503 No") }
        let host = "rebind\(UInt64.random(in: 0...UInt64.max)).localhost"
        let port = outer.port
        let asking = Asking { ["\(host):\(port):\($0 == 1 ? "127.0.0.1" : "169.254.169.254")"] }
        let error = try await #require(throws: ArtifactError.self) {
            try await fetcher("http://\(host):\(port)/", addresses: { asking.answer() }).fetch("http://\(host):\(port)/a", sha256: digest)
        }
        guard case .forbidden(_, let reason) = error else {
            Issue.record("\(error)")
            return
        }
        #expect(reason.contains("link-local"))
        #expect(outer.requests.count == 1)
    }

    @Test("of several addresses the forbidden ones are passed over")
    func severalAddresses() async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body) }
        let host = "several\(UInt64.random(in: 0...UInt64.max)).localhost"
        let port = server.port
        let fetcher = try fetcher("http://\(host):\(port)/") { ["\(host):\(port):169.254.169.254,127.0.0.1"] }
        #expect(FileManager.default.contents(atPath: try await fetcher.fetch("http://\(host):\(port)/a", sha256: digest)) == Data(body))
    }

    @Test("a presigned query is in no log, no error and no record of what was fetched")
    func presigned() async throws {
        let lines = Lines()
        let logger = Logger(label: "test") { _ in lines }
        let server = try ScriptedServer { [body] _, number in number < 3 ? .answer("503 No") : .answer("200 OK", body) }
        let query = "?X-Amz-Credential=AKIASECRET&X-Amz-Signature=0123456789abcdef"
        let records = Records()
        let fetcher = ArtifactFetcher(
            policy: try ArtifactPolicy(allow: [server.url]), cache: folder.path + "/cache", maximumBytes: 1 << 20, limits: TransferLimits(),
            firstDelay: 0.01, logger: logger, onFetch: { records.add("\($0)") })
        _ = try await fetcher.fetch(server.url + "/a" + query, sha256: digest)
        #expect(lines.text.contains("Fetching again") && lines.text.contains(server.url + "/a"))
        #expect(records.all.count == 1)
        let wrong = String(repeating: "0", count: 64)
        let other = try ScriptedServer { _, _ in .answer("403 No") }
        var errors: [String] = []
        for url in [server.url + "/a" + query, other.url + "/a" + query, "http://user:AKIASECRET@x/" + query, "s3://b/k" + query] {
            let error = await #expect(throws: ArtifactError.self) { try await fetcher.fetch(url, sha256: wrong) }
            errors.append("\(error!)")
        }
        for text in [lines.text, "\(records.all)"] + errors {
            #expect(!text.contains("AKIASECRET") && !text.contains("0123456789abcdef"), "\(text)")
        }
        // The server did get it, and the cache's names don't tell it.
        #expect(server.requests.first?.path == "/a" + query)
        #expect(!"\(folder.names("cache/parts"))\(folder.names("cache/blobs"))".contains("AKIA"))
    }

    @Test(
        "encoded slashes, dots and hosts don't lead out of a file root",
        arguments: [
            "%2e%2e/secret", "..%2fsecret", "%2e%2e%2fsecret", "a%2f..%2f..%2fsecret", "a/../../secret", "./../secret", "%00", "a%00b",
            "..%5csecret",
        ])
    func fileEncodings(path: String) async throws {
        try folder.write("secret", Array("secret".utf8))
        try folder.write("root/a/b", [1])
        let fetcher = try ArtifactFetcher(allow: [], fileRoots: [folder.path + "/root"], cache: folder.path + "/cache")
        let error = try await #require(throws: ArtifactError.self) { try await fetcher.fetch("file://\(folder.path)/root/\(path)") }
        #expect(error.isPermanent)
    }

    @Test("devices, sockets and FIFOs are no artifacts", .timeLimit(.minutes(1)))
    func specialFiles() async throws {
        try folder.write("root/a", [1])
        mkfifo(folder.path + "/root/fifo", 0o600)
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let path = folder.path + "/root/socket"
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        #expect(bound == 0)
        let fetcher = try ArtifactFetcher(allow: [], fileRoots: [folder.path + "/root", "/dev"], cache: folder.path + "/cache")
        for url in ["file://\(folder.path)/root/fifo", "file://\(path)", "file:///dev/zero", "file:///dev/null", "file:///dev/tty"] {
            let error = try await #require(throws: ArtifactError.self) { try await fetcher.fetch(url) }
            guard case .forbidden = error else {
                Issue.record("\(error)")
                continue
            }
        }
    }

    @Test("a folder or a file that becomes a link and back while it is opened never leads out", arguments: FileRoot.Way.allCases)
    func swapped(way: FileRoot.Way) throws {
        try folder.write("outside/a", Array("secret".utf8))
        try folder.write("root/slot/a", Array("public".utf8))
        try folder.write("root/plain/a", Array("public".utf8))
        let (root, outside) = (folder.path + "/root", folder.path + "/outside")
        let (stop, ended) = (StopFlag(), DispatchSemaphore(value: 0))
        Thread.detachNewThread {
            while !stop.value {
                // The folder on the way …
                rename("\(root)/slot", "\(root)/aside")
                symlink(outside, "\(root)/slot")
                unlink("\(root)/slot")
                rename("\(root)/aside", "\(root)/slot")
                // … and, at once, the file at the end.
                symlink("\(outside)/a", "\(root)/plain/link")
                link("\(root)/plain/a", "\(root)/plain/kept")
                rename("\(root)/plain/link", "\(root)/plain/a")
                rename("\(root)/plain/kept", "\(root)/plain/a")
            }
            ended.signal()
        }
        defer {
            stop.value = true
            ended.wait()
        }
        var (read, refused) = (0, 0)
        for count in 0... {
            // Thousands of times, and until both were met: it shows nothing otherwise.
            if count >= 6000 && read > 100 && refused > 100 { break }
            guard count < 1_000_000 else { break }
            let components = [count % 2 == 0 ? "slot" : "plain", "a"]
            switch Result(catching: { try FileRoot.open(root: root, components: components, url: "file:///x", ways: [way]) }) {
            case .success(let file):
                var bytes = [UInt8](repeating: 0, count: 16)
                let got = Foundation.read(file.descriptor, &bytes, 16)
                close(file.descriptor)
                #expect(file.bytes == 6 && got == 6 && bytes.starts(with: "public".utf8))
                read += 1
            case .failure(let error):
                if case .forbidden? = error as? ArtifactError { refused += 1 }
            }
        }
        #expect(read > 100 && refused > 100)
    }

    @Test("what is no plain name is no part of a path, by the kernel or by ourselves", arguments: FileRoot.Way.allCases)
    func plainNames(way: FileRoot.Way) throws {
        try folder.write("secret", [1])
        try folder.write("root/a/b", [1, 2])
        let root = folder.path + "/root"
        func open(_ components: [String]) throws -> Int {
            let (descriptor, size) = try FileRoot.open(root: root, components: components, url: "file:///x", ways: [way])
            close(descriptor)
            return size
        }
        #expect(try open(["a", "b"]) == 2)
        for wrong in [["..", "secret"], ["a/b"], ["a", "../../secret"], [".", "a", "b"], ["a", "", "b"], ["a", "b\0c"]] {
            #expect(throws: ArtifactError.forbidden(url: "file:///x", reason: "a part of its path is no plain name")) { try open(wrong) }
        }
        // Longer than one call of the kernel takes: it falls back, and finds nothing.
        let long = [String](repeating: String(repeating: "x", count: 200), count: 30)
        #expect(throws: ArtifactError.notFound(url: "file:///x", status: 404)) {
            try FileRoot.open(root: root, components: long, url: "file:///x")
        }
    }
}

/// What a fetcher told.
private final class Records: Sendable {
    private let records = Mutex<[String]>([])
    var all: [String] { records.withLock { $0 } }
    func add(_ text: String) { records.withLock { $0.append(text) } }
}

/// Ends the thread of one test.
private final class StopFlag: Sendable {
    private let flag = Mutex(false)
    var value: Bool {
        get { flag.withLock { $0 } }
        set { flag.withLock { $0 = newValue } }
    }
}

/// A name service that knows how often it was asked.
private final class Asking: Sendable {
    private let count = Mutex(0)
    private let script: @Sendable (Int) -> [String]
    init(_ script: @escaping @Sendable (Int) -> [String]) { self.script = script }
    func answer() -> [String] {
        script(
            count.withLock {
                $0 += 1
                return $0
            })
    }
}

/// Keeps every line with its metadata.
private final class Lines: LogHandler, Sendable {
    private let lines = Mutex("")
    var text: String { lines.withLock { $0 } }
    var metadata: Logger.Metadata {
        get { [:] }
        set {}
    }
    var logLevel: Logger.Level {
        get { .trace }
        set {}
    }
    subscript(metadataKey _: String) -> Logger.Metadata.Value? {
        get { nil }
        set {}
    }
    func log(
        level: Logger.Level, message: Logger.Message, metadata: Logger.Metadata?, source: String, file: String, function: String, line: UInt
    ) {
        lines.withLock { $0 += "\(message) \(metadata ?? [:])\n" }
    }
}
