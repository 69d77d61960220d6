import Foundation
import SafetensorsChecks
import Testing

struct MutationTests {
    /// In a process of its own: there a crash is a failed test, and nobody else's memory is counted. `scripts/fuzz` runs five times as many,
    /// and libFuzzer.
    @Test(arguments: [1, 2] as [UInt64])
    func `A hundred thousand damaged files are refused or consistent, and none takes memory beyond its size`(seed: UInt64) throws {
        let tests = URL(filePath: #filePath).resolvingSymlinksInPath().deletingLastPathComponent().deletingLastPathComponent()
        let corpus = tests.appending(path: "Fuzz/Corpus").path
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
            .appendingPathComponent("SafetensorsMutator")
        process.arguments = ["100000", "\(seed)", seed == 1 ? "\(8 << 20)" : "0", corpus]
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let failure = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationReason == .exit && process.terminationStatus == 0, "\(failure.prefix(4000))")
        // A sanitizer's allocator cannot be counted this way.
        let sanitizing = ProcessInfo.processInfo.environment["FORETASTE_SANITIZE"] != nil
        #expect(text.contains("memory counted: \(!sanitizing)"))
        // Damage that is always refused would test the door and not the room behind it.
        let accepted = text.firstMatch(of: /accepted: (\d+)/).flatMap { Int($0.1) } ?? 0
        #expect(accepted > 10_000, "\(text)")
        #expect(text.split(separator: "\n").count { $0.hasPrefix("giant: ") } == (seed == 1 ? 12 : 0))
    }

    @Test func `What is opened is checked against its bytes`() {
        let text = Array(#"{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#.utf8)
        let bytes = [UInt8(text.count), 0, 0, 0, 0, 0, 0, 0] + text + [3, 4]
        #expect(FileCheck.verdict(of: bytes) == .accepted)
        #expect(FileCheck.verdict(of: bytes + [5]) == .refused)
        #expect(FileCheck.verdict(of: []) == .refused)
    }

    @Test func `The same seed makes the same damage`() {
        var (first, second, other) = (FileMutator(seed: 3, corpus: []), FileMutator(seed: 3, corpus: []), FileMutator(seed: 4, corpus: []))
        let files = (0..<50).map { _ in first.next() }
        #expect(files == (0..<50).map { _ in second.next() })
        #expect(files != (0..<50).map { _ in other.next() })
    }
}
