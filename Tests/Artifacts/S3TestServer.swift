import Foundation

@testable import Artifacts

/// moto's S3 with authentication on, one for all tests; it ends with this process, whose end closes its standard input.
final class S3TestServer: Sendable {
    struct Keys: Decodable, Sendable {
        let access_key: String
        let secret_key: String
        let token: String?
    }

    private struct Description: Decodable {
        let port: Int
        let user: Keys
        let stranger: Keys
        let session: Keys
    }

    /// What cannot be started fails every test that needs it.
    static var shared: S3TestServer { get async throws { try await started.value } }

    /// On a thread of its own, because the first start installs packages and the other tests need theirs.
    private static let started = Task {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try S3TestServer() }) }
        }
    }

    let url: String
    /// May do everything.
    let user: Keys
    /// Exists, and may do nothing.
    let stranger: Keys
    /// Temporary, with a token.
    let session: Keys
    private let input: Pipe

    private init() throws {
        let output: Pipe
        (input, output) = try Self.start([])
        var line = Data()
        while line.last != UInt8(ascii: "\n") {
            let more = output.fileHandleForReading.availableData
            guard !more.isEmpty else { throw Failure() }
            line += more
        }
        let description = try JSONDecoder().decode(Description.self, from: line)
        url = "http://127.0.0.1:\(description.port)"
        (user, stranger, session) = (description.user, description.stranger, description.session)
    }

    /// Runs one of the scripts beside the server's, in its environment, and answers what it prints.
    static func run(_ script: String, input: Data) async throws -> Data {
        // Whoever comes first installs the packages.
        _ = try await started.value
        return try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        let (pipe, output) = try start([script])
                        try pipe.fileHandleForWriting.write(contentsOf: input)
                        try pipe.fileHandleForWriting.close()
                        return try output.fileHandleForReading.readToEnd() ?? Data()
                    })
            }
        }
    }

    private static func start(_ arguments: [String]) throws -> (input: Pipe, output: Pipe) {
        let process = Process()
        let support = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(path: "Support")
        process.executableURL = support.appending(path: "S3Server/serve")
        process.arguments = arguments
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        return (input, output)
    }

    struct Failure: Error, CustomStringConvertible {
        let description = "the S3 server did not start: it needs python3-venv and PyPI the first time; its own words are above"
    }

    /// A configuration as the environment would give it.
    func configuration(_ keys: Keys, _ more: [String: String] = [:]) -> S3Configuration {
        var environment = [
            "AWS_ENDPOINT_URL_S3": url, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        ]
        if let token = keys.token { environment["AWS_SESSION_TOKEN"] = token }
        return S3Configuration(environment: environment.merging(more) { $1 })
    }
}
