import Access
import Foundation
import ServiceKit
import Testing

@testable import Ingest

/// `/openapi.json` against a validator, and the service against what it promises there.
@Suite(.timeLimit(.minutes(30))) struct DescriptionTests {
    /// Seconds of fuzzing: FORETASTE_FUZZ_SECONDS, else a short run.
    static var seconds: Int { ProcessInfo.processInfo.environment["FORETASTE_FUZZ_SECONDS"].flatMap { Int($0) } ?? 30 }

    @Test func theDescriptionIsValidAndTheServiceKeepsIt() async throws {
        try await RunningIngest.with(["FORETASTE_INGEST_MAX_BODY_BYTES": "65536"]) { ingest in
            _ = try await ingest.postLines((0..<5).map { example(String($0)) })
            let (status, output) = try await check(ingest.url, ingest.key.text, seconds: Self.seconds)
            #expect(status == 0, "\(output.suffix(12000))")
            #expect(Self.seconds == 0 || output.contains(" generated"))
            #expect(try await ingest.send("GET", "/readyz").status == 200)
        }
    }
}

/// Runs Tests/Support/OpenAPIChecks on a thread of its own.
private func check(_ url: String, _ key: String, seconds: Int) async throws -> (status: Int32, output: String) {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(
                with: Result {
                    let process = Process()
                    let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
                    process.executableURL = tests.appending(path: "Support/OpenAPIChecks/check")
                    process.arguments = [url, key, "\(seconds)"]
                    let output = Pipe()
                    (process.standardOutput, process.standardError) = (output, output)
                    try process.run()
                    let text = output.fileHandleForReading.readDataToEndOfFile()
                    process.waitUntilExit()
                    return (process.terminationStatus, String(decoding: text, as: UTF8.self))
                })
        }
    }
}
