import Foundation

/// A service against its own `/openapi.json`.
public enum OpenAPIChecks {
    /// Seconds of fuzzing: FORETASTE_FUZZ_SECONDS, else a short run.
    public static func seconds(short: Int) -> Int {
        ProcessInfo.processInfo.environment["FORETASTE_FUZZ_SECONDS"].flatMap { Int($0) } ?? short
    }

    /// Validates the description of the service at `url` and its examples, then fuzzes the service with `key` for so many seconds (0: not at
    /// all). Answers the script's status, 0 when all is well, and everything it said. Runs on a thread of its own.
    public static func run(_ url: String, key: String, seconds: Int) async throws -> (status: Int32, output: String) {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        let process = Process()
                        process.executableURL = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "check")
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
}
