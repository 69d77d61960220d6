import Foundation
import Testing

/// The service as a process of its own: under clients that misbehave, and killed again and again. Short forms of what `bench ingest` measures.
@Suite struct EnduranceTests {
    @Test func aHundredSlowAndHalfSilentClientsCostNoMemoryAndNoPair() async throws {
        let (status, output) = try await bench("storm", "--storm", "100", "--seconds", "4")
        #expect(status == 0, "\(output)")
        #expect(output.contains("| met |") && output.contains("100 clients"), "\(output)")
    }

    @Test func whatWasAcknowledgedSurvivesKillsOfTheServiceAndOfItsDatabase() async throws {
        let (status, output) = try await bench("kill", "--kills", "2")
        #expect(status == 0, "\(output)")
        #expect(output.contains("| met |") && output.contains("by 2 kills"), "\(output)")
    }
}

/// Runs a part of Tests/Performance/ingest on a thread of its own.
private func bench(_ arguments: String...) async throws -> (status: Int32, output: String) {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(
                with: Result {
                    let process = Process()
                    let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
                    let programs = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
                    process.executableURL = URL(filePath: "/usr/bin/env")
                    process.arguments =
                        ["python3", "-B", tests.appending(path: "Performance/ingest/main.py").path] + arguments
                        + ["--binary", programs.appending(path: "foretaste-ingest").path]
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
