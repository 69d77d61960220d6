import Foundation
import Logging
import NetworkTesting
import Synchronization
import Testing

@testable import Artifacts

@Suite("S3, spoken with servers that misbehave")
struct S3ProtocolTests {
    private let folder: TemporaryFolder
    private let body = someBytes(300_000)
    private var digest: String { SHA256.hexDigest(of: body) }

    init() throws { folder = try TemporaryFolder() }

    private func configuration(_ server: ScriptedServer, _ more: [String: String] = [:]) -> S3Configuration {
        let environment = ["AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret:with/colon"]
        return S3Configuration(environment: environment.merging(more) { $1 })
    }

    private func fetcher(_ s3: S3Configuration) throws -> ArtifactFetcher {
        ArtifactFetcher(
            policy: try ArtifactPolicy(allow: ["s3://bucket/"]), cache: folder.path + "/cache", maximumBytes: 1 << 20,
            limits: TransferLimits(), s3: s3, firstDelay: 0.01, logger: Logger(label: "test"), onFetch: nil)
    }

    @Test("presigned URLs are botocore's")
    func presigned() throws {
        #expect(presignedByBotocore.count == 3)
        for (url, region, token, seconds, presigned) in presignedByBotocore {
            let credentials = S3Credentials(
                accessKey: "AKIAIOSFODNN7EXAMPLE", secretKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token: token)
            // 2026-01-31T23:59:59Z
            let ours = S3Signer.presign(
                try ArtifactURL(url), credentials: credentials, region: region, date: Date(timeIntervalSince1970: 1_769_903_999),
                seconds: seconds)
            // botocore does not send them in the order in which it signs them.
            func pieces(_ url: String) -> [String] { url.split(whereSeparator: { $0 == "?" || $0 == "&" }).map(String.init).sorted() }
            #expect(pieces(ours) == pieces(presigned))
        }
    }

    @Test("presigned URLs of any key, region, token and time are botocore's")
    func presignedLikeBotocore() async throws {
        struct Case: Codable {
            var url: String
            var region: String
            var token: String?
            var seconds: Int
            var time: Int
        }
        var random = SystemRandomNumberGenerator()
        func text(_ characters: String, _ length: ClosedRange<Int>) -> String {
            String((0..<Int.random(in: length, using: &random)).map { _ in characters.randomElement(using: &random)! })
        }
        let cases = try (0..<300).map { _ in
            let key = text("abcXYZ019 -._~!$&'()*+,;=:@äß漢🙂%/", 1...40).replacing("/", with: "/k")
            let location = try S3Configuration(environment: [
                "AWS_ENDPOINT_URL": Bool.random() ? "http://minio:9000" : "https://s3.example.com"
            ])
            .location(of: ArtifactURL("s3://bucket/k" + ArtifactPolicy.percentEncoded(key)))
            return Case(
                url: location.requestText, region: ["us-east-1", "eu-central-1", "auto"].randomElement()!,
                token: Bool.random() ? text("abcXYZ/+=", 10...200) : nil, seconds: Int.random(in: 1...604_800),
                time: Int.random(in: 0...4_000_000_000))
        }
        let presigned = try JSONDecoder().decode(
            [String].self, from: try await S3TestServer.run("presign.py", input: JSONEncoder().encode(cases)))
        #expect(presigned.count == cases.count)
        for (one, theirs) in zip(cases, presigned) {
            let credentials = S3Credentials(
                accessKey: "AKIAIOSFODNN7EXAMPLE", secretKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token: one.token)
            let ours = S3Signer.presign(
                try ArtifactURL(one.url), credentials: credentials, region: one.region, date: Date(timeIntervalSince1970: Double(one.time)),
                seconds: one.seconds)
            func pieces(_ url: String) -> [String] { url.split(whereSeparator: { $0 == "?" || $0 == "&" }).map(String.init).sorted() }
            #expect(pieces(ours) == pieces(theirs), "\(one)")
        }
    }

    // moto cannot check presigned URLs: with authentication on it answers them with status 500.
    @Test("a presigned URL is fetched without credentials, and lasts a week at most")
    func presignedFetch() async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body) }
        let store = try ArtifactStore(location: "s3://bucket/shared", s3: configuration(server))
        let artifact = try await store.put(body, name: "a b")
        let url = try await store.presignedURL(for: artifact, seconds: 60)
        #expect(url.hasPrefix(server.url + "/bucket/shared/a%20b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=key%2F"))
        let plain = try ArtifactFetcher(allow: [server.url + "/bucket/"], cache: folder.path + "/plain")
        _ = try await plain.fetch(url, sha256: digest)
        #expect(server.requests.count == 2 && server.requests[1].headers["authorization"] == nil)
        #expect(server.requests[1].path.contains("&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature="))
        for seconds in [0, 604_801] {
            await #expect(throws: ArtifactError.self) { try await store.presignedURL(for: artifact, seconds: seconds) }
        }
        let elsewhere = Artifact(url: "s3://other/shared/a", sha256: digest, bytes: 1)
        await #expect(throws: ArtifactError.self) { try await store.presignedURL(for: elsewhere, seconds: 60) }
    }

    @Test("a broken transfer goes on where it broke, unless the object has changed")
    func resume() async throws {
        let other = body.map { ~$0 }
        let server = try ScriptedServer { [body] request, number in
            switch number {
            case 1: .answer("200 OK", Array(other.prefix(100_000)), headers: ["ETag: \"old\""], length: body.count)
            case 2: request.headers["if-match"] == "\"old\"" ? .answer("412 Precondition Failed") : .answer("400 Bad")
            case 3: .answer("200 OK", Array(body.prefix(100_000)), headers: ["ETag: \"new\""], length: body.count)
            default: request.headers["if-match"] == "\"new\"" ? .ranged(request, body) : .answer("400 Bad")
            }
        }
        let path = try await fetcher(configuration(server)).fetch("s3://bucket/a", sha256: digest)
        #expect(FileManager.default.contents(atPath: path) == Data(body))
        #expect(server.requests.count == 4)
        #expect(server.requests[2].headers["range"] == nil && server.requests[3].headers["range"] != nil)
        #expect(server.requests.allSatisfy { $0.headers["authorization"]?.hasPrefix("AWS4-HMAC-SHA256 Credential=key/") == true })
        #expect(folder.names("cache/parts") == [])
    }

    @Test("an upload that breaks, or that fails under status 200, is tried again and at last aborted")
    func multipartFailures() async throws {
        let created = Array("<R><UploadId>a/b+c</UploadId></R>".utf8)
        func run(_ completions: [[ScriptedServer.Step]]) async throws -> (ArtifactError?, [ScriptedServer.Request]) {
            let rest = Mutex(completions)
            let server = try ScriptedServer { request, _ in
                switch (request.method, request.path) {
                case ("POST", "/bucket/x?uploads="): .answer("200 OK", created)
                case ("PUT", _): .answer("200 OK", headers: ["ETag: \"1\""])
                case ("POST", "/bucket/x?uploadId=a%2Fb%2Bc"): rest.withLock { $0.count > 1 ? $0.removeFirst() : $0[0] }
                case ("DELETE", "/bucket/x?uploadId=a%2Fb%2Bc"): .answer("204 No Content")
                case ("HEAD", "/bucket/x"):
                    [
                        .send(
                            Array(
                                "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nx-amz-meta-sha256: \(SHA256.hexDigest(of: someBytes(300_000)))\r\n\r\n"
                                    .utf8))
                    ]
                default: .answer("400 Bad")
                }
            }
            var s3 = configuration(server)
            (s3.multipartThreshold, s3.partBytes) = (100_000, 100_000)
            let store = try ArtifactStore(location: "s3://bucket/", s3: s3)
            do {
                _ = try await store.put(body, name: "x")
                return (nil, server.requests)
            } catch let error as ArtifactError {
                return (error, server.requests)
            }
        }
        let lie = [ScriptedServer.Step].answer("200 OK", Array("<Error><Code>InternalError</Code></Error>".utf8))
        let done = [ScriptedServer.Step].answer("200 OK", Array("<CompleteMultipartUploadResult/>".utf8))
        let gone = [ScriptedServer.Step].answer("404 Not Found", Array("<Error><Code>NoSuchUpload</Code></Error>".utf8))
        let (none, requests) = try await run([lie, done])
        #expect(none == nil)
        // The parts go up side by side; their numbers, in the query, tell their order.
        let parts = requests.filter { $0.method == "PUT" }.sorted { $0.path < $1.path }
        #expect(parts.map(\.body.count) == [100_000, 100_000, 100_000])
        #expect(SHA256.hexDigest(of: parts.flatMap(\.body)) == SHA256.hexDigest(of: body))
        #expect(!requests.contains { $0.method == "DELETE" })
        // The first completion's answer was lost: the object is there.
        #expect(try await run([[], gone]).0 == nil)
        let (error, failed) = try await run([lie])
        guard case .service(_, _, "InternalError", _) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        // Its parts are deleted, and the service is asked whether any are left.
        #expect(failed.map(\.method).suffix(2) == ["DELETE", "GET"])
    }

    @Test("parts that a deletion left, because they were still on their way, are deleted by another")
    func stubbornParts() async throws {
        let server = try ScriptedServer { request, number in
            switch (request.method, request.path) {
            case ("POST", "/bucket/x?uploads="): .answer("200 OK", Array("<R><UploadId>u</UploadId></R>".utf8))
            case ("PUT", _): .answer("403 Forbidden", Array("<Error><Code>AccessDenied</Code></Error>".utf8))
            case ("GET", _) where number < 6: .answer("200 OK", Array("<ListPartsResult/>".utf8))
            case ("GET", _): .answer("404 Not Found", Array("<Error><Code>NoSuchUpload</Code></Error>".utf8))
            default: .answer("204 No Content")
            }
        }
        var s3 = configuration(server)
        (s3.multipartThreshold, s3.partBytes) = (100_000, 300_000)
        let store = try ArtifactStore(location: "s3://bucket/", s3: s3)
        await #expect(throws: ArtifactError.self) { try await store.put(body, name: "x") }
        #expect(server.requests.map(\.method) == ["POST", "PUT", "DELETE", "GET", "DELETE", "GET"])
    }

    @Test("credentials that ended are replaced, and the request is made again")
    func expiredToken() async throws {
        let service = try ScriptedServer { request, number in
            if request.method == "PUT" { return .answer("200 OK", Array("secret".utf8)) }
            if request.path.hasSuffix("/") { return .answer("200 OK", Array("role".utf8)) }
            return .answer(
                "200 OK",
                Array(
                    #"{"AccessKeyId":"A\#(number)","SecretAccessKey":"B","Token":"C\#(number)","Expiration":"2099-01-01T00:00:00Z"}"#.utf8))
        }
        let server = try ScriptedServer { [body] request, _ in
            request.headers["x-amz-security-token"] == "C6" && request.headers["authorization"]?.contains("Credential=A6/") == true
                ? .answer("200 OK", body) : .answer("400 Bad Request", Array("<Error><Code>ExpiredToken</Code></Error>".utf8))
        }
        let s3 = S3Configuration(environment: ["AWS_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url])
        _ = try await fetcher(s3).fetch("s3://bucket/a", sha256: digest)
        #expect(server.requests.count == 2 && service.requests.count == 6)
    }

    @Test("another region is said, from a redirect and from a refusal")
    func regions() async throws {
        let redirect = try ScriptedServer { _, _ in
            .answer(
                "301 Moved Permanently", Array("<Error><Code>PermanentRedirect</Code></Error>".utf8),
                headers: ["x-amz-bucket-region: eu-central-1", "Location: http://127.0.0.1/"])
        }
        let refusal = try ScriptedServer { _, _ in
            .answer(
                "400 Bad Request",
                Array("<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>".utf8))
        }
        for server in [redirect, refusal] {
            let error = try await #require(throws: ArtifactError.self) { try await fetcher(configuration(server)).fetch("s3://bucket/a") }
            #expect("\(error)".contains("set AWS_REGION=eu-central-1") && "\(error)".contains("s3://bucket/a"))
            #expect(server.requests.count == 1)
        }
    }

    @Test("a throttled request is tried again")
    func throttled() async throws {
        let server = try ScriptedServer { [body] _, number in
            number < 3 ? .answer("503 Slow Down", Array("<Error><Code>SlowDown</Code></Error>".utf8)) : .answer("200 OK", body)
        }
        _ = try await fetcher(configuration(server)).fetch("s3://bucket/a", sha256: digest)
        #expect(server.requests.count == 3)
    }
}
