import CClockShift
import Foundation
import Glibc
import JobQueue
import Logging
import Postgres

/// A worker of the crash matrix: its sessions are called `chaos:PID`, so that a fault can find the process that it is meant for.
///
/// `URL [FLAG …]`; flags: `concurrency=N`, `memory` (an address-space limit, which jobs with `d: "memory"` run into), `limit` (files of two
/// kilobytes at most, so that checkpoints cannot be written), `lock=MS` and
/// `statement=MS` (timeouts of its sessions), `blobs=FOLDER` (where checkpoints' large parts go), `verbose=FILE` (a log of what happens to them), and for the harness's own check
/// `broken=effects` (effects are committed before, and apart from, the completion).
struct ChaosWorker {
    struct Arguments: Decodable {
        /// Seconds of work, or of each step.
        var p: Double?
        /// Steps with a checkpoint each; none for a short job.
        var n: Int64?
        /// Whether it has effects.
        var e: Bool?
        /// How many attempts throw.
        var t: Int?
        /// How the first `k` runs take their process with them: `abort` or `memory`; of a long job the first run alone does, or throws
        /// (`throw`), after the checkpoint of step `at`, or before that of step `before` is published.
        var d: String?
        var k: Int?
        var at: Int64?
        var before: Int64?
    }

    struct State: Codable {
        var step: Int64
    }

    struct Broken: Error {}

    let url: String
    let flags: [String: String]

    init(arguments: [String]) {
        url = arguments[0]
        flags = Dictionary(
            arguments.dropFirst().map { flag in
                let parts = flag.split(separator: "=", maxSplits: 1).map(String.init)
                return (parts[0], parts.count > 1 ? parts[1] : "")
            }, uniquingKeysWith: { $1 })
    }

    func run() async throws {
        foretaste_shift_clock_on_signals()
        var configuration = PostgresConfiguration(url: url)
        configuration.connectTimeout = 5
        if let limit = flags["lock"] { configuration.sessionSettings["lock_timeout"] = limit + "ms" }
        if let limit = flags["statement"] { configuration.sessionSettings["statement_timeout"] = limit + "ms" }
        if flags["memory"] != nil {
            var limit = rlimit(rlim_cur: 6 << 30, rlim_max: 6 << 30)
            setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
        }
        if flags["limit"] != nil {
            signal(SIGXFSZ, SIG_IGN)
            var limit = rlimit(rlim_cur: 2048, rlim_max: 2048)
            setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
        }
        if let path = flags["verbose"] {
            let log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
            for standard in [STDOUT_FILENO, STDERR_FILENO] { dup2(log, standard) }
        }
        let name = "chaos:\(getpid())"
        let client = PostgresClient(configuration: configuration, maximumConnections: 6, applicationName: name, logger: logger)
        let concurrency = flags["concurrency"].flatMap(Int.init) ?? 5
        let kinds = [("chaos_short", concurrency), ("chaos_loop", 2), ("chaos_old", 2), ("chaos_long", max(2, concurrency / 3))]
        let handlers = kinds.map { kind, concurrency in
            JobHandler(kind: kind, concurrency: concurrency) { try await perform($0, client) }
        }
        try await JobQueueTestWorker.untilTerminated(JobWorker(client: client, service: name, handlers: handlers, logger: logger))
        await client.close()
    }

    private func perform(_ job: JobContext, _ client: PostgresClient) async throws -> JobResult {
        let arguments = try job.arguments(as: Arguments.self)
        let (id, token, pid) = (job.id, job.token, Int(getpid()))
        try await client.query("select chaos.begin($1, $2, $3)", [.int(id), .int(token), .int(pid)])
        if job.failures < arguments.t ?? 0 { throw Broken() }
        if job.rescues < arguments.k ?? 0 {
            if arguments.p == nil { try await Task.sleep(for: .milliseconds(5)) }
            try end(arguments.d)
        }
        if let steps = arguments.n {
            var state = try await job.lastCheckpoint()?.state(as: State.self) ?? State(step: 0)
            while state.step < steps {
                try job.checkCancellation()
                try await Task.sleep(for: .seconds(arguments.p ?? 0))
                state.step += 1
                let artifact = try blob(id, token, state.step)
                if job.failures + job.rescues == 0, state.step == arguments.before { try end(arguments.d) }
                try await job.checkpoint(step: state.step, state: state, artifact: artifact)
                if job.failures + job.rescues == 0, state.step == arguments.at { try end(arguments.d) }
                job.progress(Double(state.step) / Double(steps), "step \(state.step)")
            }
        } else {
            try await Task.sleep(for: .seconds(arguments.p ?? 0))
        }
        guard arguments.e ?? true else { return JobResult() }
        let row: [PostgresValue] = [.int(id), .int(token), .int(pid)]
        let insert = "insert into public.effect (job, token, pid) values ($1, $2, $3)"
        if flags["broken"] == "effects" {
            try await client.query(insert, row)
            return JobResult()
        }
        return JobResult { try await $0.query(insert, row) }
    }

    /// The large part of a checkpoint: a file of its own for each token, on the disk before it is published.
    private func blob(_ id: Int64, _ token: Int64, _ step: Int64) throws -> JobArtifact? {
        guard let folder = flags["blobs"] else { return nil }
        let path = "\(folder)/job-\(id)-token-\(token)-\(step)"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Broken() }
        defer { close(descriptor) }
        let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: step), count: 4096)
        guard write(descriptor, bytes, bytes.count) == bytes.count, fsync(descriptor) == 0 else {
            unlink(path)
            throw Broken()
        }
        return JobArtifact(url: "file://" + path, sha256: String(repeating: "00", count: 32), bytes: Int64(bytes.count))
    }

    /// A bad end of a run.
    private func end(_ how: String?) throws {
        switch how {
        case "throw": throw Broken()
        case "memory": Self.exhaustMemory()
        default: abort()
        }
    }

    /// Until the limit is reached and the runtime ends the process.
    private static func exhaustMemory() -> Never {
        var hoard: [UnsafeMutableRawPointer] = []
        while true { hoard.append(UnsafeMutableRawPointer.allocate(byteCount: 64 << 20, alignment: 4096)) }
    }

    private var logger: Logger {
        var logger = JobQueueTestWorker.logger
        logger.logLevel = flags["verbose"] != nil ? .debug : .critical
        return logger
    }
}
