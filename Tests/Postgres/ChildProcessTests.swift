import Foundation
import Glibc
import Testing

@testable import Postgres

@Suite struct ChildProcessTests {
    @Test func statusAndSignalsAreTold() async throws {
        let seven = try await ChildProcess.start(.init(path: "/bin/sh", arguments: ["-c", "exit 7"]))
        #expect(await seven.exitStatus() == 7)
        let sleeper = try await ChildProcess.start(.init(path: "/bin/sleep", arguments: ["60"]))
        #expect(sleeper.isRunning)
        #expect(await !sleeper.ends(within: 0.05))
        sleeper.signal(SIGTERM)
        #expect(await sleeper.exitStatus() == 128 + SIGTERM)
    }

    @Test func aProgramThatCannotBeExecutedSaysWhy() async throws {
        let error = await #expect(throws: ChildProcessError.self) { try await ChildProcess.start(.init(path: "/nowhere/program")) }
        #expect(error?.step == "execve")
        #expect(error?.reason.contains("No such file") == true)
        let elsewhere = await #expect(throws: ChildProcessError.self) {
            try await ChildProcess.start(.init(path: "/bin/true", directory: "/nowhere"))
        }
        #expect(elsewhere?.step == "chdir")
    }

    @Test func outputEnvironmentAndDirectoryArriveAndNothingElse() async throws {
        let pipe = Pipe()
        var request = ChildProcess.Request(
            path: "/bin/sh", arguments: ["-c", "pwd; echo $GREETING $HOME; ls /proc/self/fd | wc -l"], environment: ["GREETING": "hello"],
            directory: "/usr")
        request.standardOutput = pipe.fileHandleForWriting.fileDescriptor
        let child = try await ChildProcess.start(request)
        try pipe.fileHandleForWriting.close()
        #expect(await child.exitStatus() == 0)
        let text = String(decoding: try #require(try pipe.fileHandleForReading.readToEnd()), as: UTF8.self)
        // Descriptors: the three standard ones, and the folder that `ls` reads.
        #expect(text.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) } == ["/usr", "hello", "4"])
    }
}
