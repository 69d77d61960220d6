import Foundation
import Postgres
import Testing

/// Everything here starts processes that share two cores: one after another.
@Suite(.serialized, .timeLimit(.minutes(30))) enum ForetasteProcessTests {}

/// A folder of its own that is gone when the body ends.
func withTemporaryFolder<Result>(_ body: (String) async throws -> Result) async throws -> Result {
    let folder = FileManager.default.temporaryDirectory.path + "/foretaste-command-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    return try await body(folder)
}

/// `foretaste` as a process.
struct Program: Sendable {
    struct Ended: Sendable {
        let status: Int32
        let output: String
        let errors: String

        /// What was printed, without the line's end.
        var line: String { output.trimmingCharacters(in: .whitespacesAndNewlines) }
    }

    let child: ChildProcess
    private let files: String

    private var output: String { files + ".out" }
    private var errors: String { files + ".err" }

    /// The folder of the test binary, where the executables are too.
    static var programs: String {
        URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().path(percentEncoded: false)
    }

    /// Starts the command line in a folder; nothing of the caller's settings reaches it but what is given.
    static func start(_ arguments: [String], in folder: String, _ variables: [String: String] = [:]) async throws -> Program {
        let environment = ProcessInfo.processInfo.environment
            .filter { name, _ in !name.hasPrefix("FORETASTE_") && !name.hasPrefix("DATABASE_URL") }
            .merging(["FORETASTE_LOG_LEVEL": "warning"]) { $1 }.merging(variables) { $1 }
        let files = folder + "/\(UUID().uuidString)"
        var request = ChildProcess.Request(path: programs + "/foretaste", arguments: arguments, environment: environment, directory: folder)
        request.standardOutput = open(files + ".out", O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        request.standardError = open(files + ".err", O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        defer {
            close(request.standardOutput)
            close(request.standardError)
        }
        return Program(child: try await ChildProcess.start(request), files: files)
    }

    /// Runs the command line to its end, which must come within `seconds`.
    static func run(
        _ arguments: [String], in folder: String, _ variables: [String: String] = [:], seconds: Double = 120
    ) async throws -> Ended {
        try await start(arguments, in: folder, variables).ended(within: seconds)
    }

    /// Waits for the end and says what was printed.
    func ended(within seconds: Double) async throws -> Ended {
        if await !child.ends(within: seconds) {
            Issue.record("it did not end within \(seconds) s: \(shown)")
            child.signal(SIGKILL)
        }
        let status = await child.exitStatus()
        func text(_ path: String) -> String { String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self) }
        return Ended(status: status, output: text(output), errors: text(errors))
    }

    /// What it has printed so far, for a failure's message.
    var shown: String {
        [output, errors].map { String(decoding: FileManager.default.contents(atPath: $0)?.suffix(3000) ?? Data(), as: UTF8.self) }
            .joined(separator: "\n")
    }
}

/// A process as the kernel shows it; its number alone may be somebody else's later.
struct ProcessEntry: Hashable, Sendable {
    let pid: Int32
    let start: String

    /// Nil when there is none, or it has ended and only waits to be reaped.
    init?(_ pid: Int32) {
        guard let fields = Self.fields(pid), fields[0] != "Z" else { return nil }
        self.pid = pid
        start = fields[19]
    }

    var isAlive: Bool { ProcessEntry(pid) == self }

    /// A process's children, their children, and so on.
    static func descendants(of root: Int32) -> Set<ProcessEntry> {
        var children: [Int32: [Int32]] = [:]
        for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [] {
            guard let pid = Int32(name), let fields = fields(pid), let parent = Int32(fields[1]) else { continue }
            children[parent, default: []].append(pid)
        }
        var found: Set<ProcessEntry> = []
        var next = children[root] ?? []
        while let pid = next.popLast() {
            if let entry = ProcessEntry(pid) { found.insert(entry) }
            next += children[pid] ?? []
        }
        return found
    }

    /// The fields of /proc/PID/stat behind the name, which may hold anything: state, parent, … start time.
    private static func fields(_ pid: Int32) -> [String]? {
        guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8), let end = text.lastIndex(of: ")") else {
            return nil
        }
        let fields = text[text.index(after: end)...].split(separator: " ").map(String.init)
        return fields.count > 20 ? fields : nil
    }
}

/// Waits until a condition holds.
func eventually(
    within seconds: Double = 60, _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + .seconds(seconds)
    while ContinuousClock.now < deadline {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(20))
    }
    Issue.record("not within \(seconds) s: \(what)", sourceLocation: sourceLocation)
    throw CancellationError()
}
