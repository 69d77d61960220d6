import Foundation
import NetworkTesting
import Testing

@testable import Artifacts

@Suite("Where S3's settings and credentials come from")
struct S3CredentialTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func find(_ environment: [String: String]) async throws -> S3Credentials {
        let provider = S3CredentialProvider(configuration: S3Configuration(environment: environment))
        return try await TransferThreads.shared.run { try provider.credentials(for: "s3://bucket/a", on: $0) }
    }

    @Test("the environment comes before the profile, and the profile is the named one")
    func writtenDown() async throws {
        try folder.write(
            ".aws/config",
            Array(
                "[default]\nregion = eu-west-1\n[profile studio]\nregion=eu-central-1\nendpoint_url = http://minio:9000\ns3 =\n  x = y\n"
                    .utf8))
        try folder.write(
            ".aws/credentials",
            Array(
                "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key = B=\n[studio]\naws_access_key_id=C\naws_secret_access_key=D\naws_session_token=E\n"
                    .utf8))
        let home = ["HOME": folder.path]
        #expect(try await find(home) == S3Credentials(accessKey: "A", secretKey: "B="))
        let studio = home.merging(["AWS_PROFILE": "studio"]) { $1 }
        #expect(try await find(studio) == S3Credentials(accessKey: "C", secretKey: "D", token: "E"))
        let keys = ["AWS_ACCESS_KEY_ID": "F", "AWS_SECRET_ACCESS_KEY": "G"]
        #expect(try await find(studio.merging(keys) { $1 }) == S3Credentials(accessKey: "F", secretKey: "G"))
        let configuration = S3Configuration(environment: studio)
        #expect(configuration.region == "eu-central-1" && configuration.endpoint == "http://minio:9000" && configuration.pathStyle)
        #expect(S3Configuration(environment: home).region == "eu-west-1")
        #expect(S3Configuration(environment: home.merging(["AWS_REGION": "x"]) { $1 }).region == "x")
    }

    @Test("nothing found says what to do")
    func nothing() async throws {
        let error = try await #require(throws: ArtifactError.self) {
            try await find(["HOME": folder.path, "AWS_EC2_METADATA_DISABLED": "true"])
        }
        #expect("\(error)".contains("AWS_ACCESS_KEY_ID") && "\(error)".contains("s3://bucket/a"))
    }

    private static let answer = Array(
        #"{"AccessKeyId":"A","SecretAccessKey":"B","Token":"C","Expiration":"2099-01-01T00:00:00Z","Code":"Success"}"#.utf8)

    @Test("the instance service is asked with a token, and once")
    func instance() async throws {
        let server = try ScriptedServer { request, _ in
            let isToken = request.method == "PUT" && request.headers["x-aws-ec2-metadata-token-ttl-seconds"] != nil
            if isToken && request.path == "/latest/api/token" { return .answer("200 OK", Array("secret".utf8)) }
            guard request.headers["x-aws-ec2-metadata-token"] == "secret" else { return .answer("401 Unauthorized") }
            switch request.path {
            case "/latest/meta-data/iam/security-credentials/": return .answer("200 OK", Array("role\n".utf8))
            case "/latest/meta-data/iam/security-credentials/role": return .answer("200 OK", Self.answer)
            default: return .answer("404 Not Found")
            }
        }
        let provider = S3CredentialProvider(
            configuration: S3Configuration(environment: ["AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url + "/"]))
        for _ in 0..<2 {
            let found = try await TransferThreads.shared.run { try provider.credentials(for: "s3://bucket/a", on: $0) }
            #expect(found.accessKey == "A" && found.secretKey == "B" && found.token == "C" && found.expires != nil)
        }
        #expect(server.requests.count == 3)
        // What the service said has ended is asked for again.
        provider.forget()
        _ = try await TransferThreads.shared.run { try provider.credentials(for: "s3://bucket/a", on: $0) }
        #expect(server.requests.count == 6)
    }

    @Test("an instance service of the first version, which forged requests reach, is told nothing and believed nothing")
    func firstVersion() async throws {
        let server = try ScriptedServer { request, _ in
            request.method == "PUT" ? .answer("405 Method Not Allowed") : .answer("200 OK", Self.answer)
        }
        let error = try await #require(throws: ArtifactError.self) { try await find(["AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url]) }
        #expect(error == .rejected(url: server.url + "/latest/api/token", status: 405))
        #expect(server.requests.map(\.method) == ["PUT"])
        // Where there is no such service there are no credentials, which is said.
        let closed = try ClosedPort()
        let none = try await #require(throws: ArtifactError.self) {
            try await find(["AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:\(closed.port)"])
        }
        #expect("\(none)".contains("no S3 credentials were found"))
    }

    @Test("credentials that end within five minutes are asked for again before each request, others are not")
    func ending() async throws {
        let server = try ScriptedServer { request, number in
            if request.method == "PUT" { return .answer("200 OK", Array("secret".utf8)) }
            if request.path.hasSuffix("/") { return .answer("200 OK", Array("role".utf8)) }
            let end = Date(timeIntervalSinceNow: number <= 3 ? 200 : 3600).formatted(.iso8601)
            return .answer(
                "200 OK", Array(#"{"AccessKeyId":"A\#(number)","SecretAccessKey":"B","Token":"C","Expiration":"\#(end)"}"#.utf8))
        }
        let provider = S3CredentialProvider(
            configuration: S3Configuration(environment: ["AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url]))
        var keys: [String] = []
        for _ in 0..<4 {
            keys.append(try await TransferThreads.shared.run { try provider.credentials(for: "s3://bucket/a", on: $0).accessKey })
        }
        #expect(keys == ["A3", "A6", "A6", "A6"])
    }

    @Test("the container service is asked with its token, and only where it may be")
    func container() async throws {
        let server = try ScriptedServer { request, _ in
            request.headers["authorization"] == "Bearer x" ? .answer("200 OK", Self.answer) : .answer("401 Unauthorized")
        }
        let token = try folder.write("token", Array("Bearer x\n".utf8))
        let found = try await find([
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url + "/v1", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token,
        ])
        #expect(found.token == "C")
        await #expect(throws: ArtifactError.self) { try await find(["AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example.com/"]) }
    }

    @Test("a bucket stands in the host's name or in the path")
    func styles() throws {
        func location(_ environment: [String: String], _ object: String = "s3://studio-latents/a/b+c") throws -> String {
            try S3Configuration(environment: environment).location(of: ArtifactURL(object)).requestText
        }
        #expect(try location(["AWS_REGION": "eu-west-1"]) == "https://studio-latents.s3.eu-west-1.amazonaws.com/a/b%2Bc")
        #expect(try location([:], "s3://a.b/c") == "https://s3.us-east-1.amazonaws.com/a.b/c")
        #expect(try location(["AWS_ENDPOINT_URL": "http://minio:9000/base"]) == "http://minio:9000/base/studio-latents/a/b%2Bc")
        #expect(
            try location(["AWS_ENDPOINT_URL": "https://r2.example.com", "FORETASTE_S3_PATH_STYLE": "false"])
                == "https://studio-latents.r2.example.com/a/b%2Bc")
        #expect(throws: ArtifactError.self) { try location(["AWS_ENDPOINT_URL": "minio:9000"]) }
    }
}
