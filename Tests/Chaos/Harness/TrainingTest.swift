import Foundation
import FoundationNetworking
import Glibc
import Postgres

/// A training job whose trainer is killed again and again, through the real services: the weights must be those of an undisturbed run.
public struct TrainingTest: Sendable {
    /// What came of it.
    public struct Report: Sendable {
        /// Where each kill struck: the step last reported, the newest checkpoint then, and the step the next run went on from.
        public var kills: [(reported: Int, checkpoint: Int, resumed: Int)] = []
        public var interval = 0
        public var steps = 0
        /// SHA-256 of the undisturbed head and of the other.
        public var digests: (calm: String, killed: String) = ("", "")
        /// Seconds of either job.
        public var seconds: (calm: Double, killed: Double) = (0, 0)
        /// How often the killed job was started.
        public var attempts = 0
        let wanted: Int

        /// Steps that were done twice, as far as was reported, one number a kill.
        public var redone: [Int] { kills.map { max(0, $0.reported - $0.resumed) } }
        /// What is wrong, one line each.
        public var violations: [String] {
            var lines: [String] = []
            if kills.count < wanted { lines.append("only \(kills.count) of \(wanted) kills: the job was over") }
            if digests.calm.isEmpty || digests.calm != digests.killed { lines.append("the weights differ: \(digests)") }
            for (kill, steps) in zip(kills, redone) where steps > interval {
                lines.append("\(steps) steps done again after a kill at step \(kill.reported), more than an interval of \(interval)")
            }
            for kill in kills where kill.resumed < kill.checkpoint {
                lines.append("the checkpoint of step \(kill.checkpoint) was not taken: \(kill)")
            }
            return lines
        }
    }

    let build: String
    let kills: Int
    let seed: UInt64
    let steps: Int
    let interval: Int
    let say: @Sendable (String) -> Void

    /// - Parameters:
    ///   - build: the folder with `foretaste` and its services.
    ///   - kills: how often the trainer is killed.
    ///   - steps: of the training.
    ///   - interval: steps between two checkpoints.
    public init(
        build: String, kills: Int, seed: UInt64, steps: Int = 8000, interval: Int = 250,
        say: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        (self.build, self.kills, self.seed) = (build, kills, seed)
        (self.steps, self.interval, self.say) = (steps, interval, say)
    }

    private struct Ready: Decodable {
        let ingest: String
        let database_url: String
        let api_key: String
        let processes: [String: Int32]
    }

    /// Runs both trainings on a `foretaste up` of its own.
    public func run() async throws -> Report {
        let folder = FileManager.default.temporaryDirectory.path + "/foretaste-chaos-training-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder + "/data/artifacts", withIntermediateDirectories: true)
        ChaosCleanUp.register(folder + "/data")
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let up = try await start(["up", "--ready-file", folder + "/ready.json"], folder, log: "up.log")
        defer {
            up.signal(SIGKILL)
            EmbeddedPostgres.destroy(dataDirectory: folder + "/data")
        }
        for _ in 0..<1200 where up.isRunning && !FileManager.default.fileExists(atPath: folder + "/ready.json") {
            try await Task.sleep(for: .milliseconds(100))
        }
        guard let data = FileManager.default.contents(atPath: folder + "/ready.json") else {
            throw ChaosError("`foretaste up` did not become ready: \(tail(folder + "/up.log"))")
        }
        let ready = try JSONDecoder().decode(Ready.self, from: data)
        let client = PostgresClient(configuration: PostgresConfiguration(url: ready.database_url), maximumConnections: 2, logger: quiet)
        do {
            try await foretaste(
                ["models", "import", build + "/foretaste_DemoWorld.resources/Resources/generator", "--name", "wan-demo"], folder)
            // Twenty crashes are a crash loop by default, and rightly so.
            try await client.query("update queue.queue set max_rescues = 1000 where name = 'train_reward'")
            try await TrainingMaterial(folder: folder + "/data/artifacts/chaos", client: client).post(to: ready.ingest, key: ready.api_key)
            var report = Report(wanted: kills)
            (report.interval, report.steps) = (interval, steps)
            report.seconds.calm = try await train("calm", client, folder) { _ in }
            say(String(format: "undisturbed: %d steps in %.0f s", steps, report.seconds.calm))
            var dice = Dice(seed: seed)
            report.seconds.killed = try await train("killed", client, folder) { job in
                try await kill(job, client, folder, &dice, &report)
            }
            report.digests = (try await digest("calm", client, folder), try await digest("killed", client, folder))
            report.attempts = try await client.query("select max(attempt) from queue.done where kind = 'train_reward'")[0][0].int
            await client.close()
            up.signal(SIGTERM)
            _ = await up.ends(within: 30)
            return report
        } catch {
            await client.close()
            throw ChaosError("\(error); the system's log ends: \(tail(folder + "/up.log"))")
        }
    }

    /// Enqueues a training, lets `trouble` happen, and waits for its end; answers its seconds.
    private func train(
        _ name: String, _ client: PostgresClient, _ folder: String, _ trouble: (Int64) async throws -> Void
    ) async throws -> Double {
        let settings =
            #"{"name":"\#(name)","backbone":"wan-demo:1","steps":\#(steps),"batch":8,"draws":2,"checkpoint_steps":\#(interval),"seed":5}"#
        let began = ContinuousClock.now
        let job = try await client.query("select queue.enqueue('train_reward', $1) as id", [.json(settings)])[0]["id"].int64
        try await trouble(job)
        for _ in 0..<18000 {
            let row = try await client.query("select state, error from ops.jobs where id = $1", [.int(job)])[0]
            switch try row["state"].string {
            case "succeeded": return (ContinuousClock.now - began) / .seconds(1)
            case "dead", "cancelled": throw ChaosError("the training failed: \(try row["error"].optionalString ?? "")")
            default: try await Task.sleep(for: .milliseconds(50))
            }
        }
        throw ChaosError("the training did not end")
    }

    /// Kills the trainer at seeded moments, most of them between two checkpoints, some while it reads its features again.
    private func kill(_ job: Int64, _ client: PostgresClient, _ folder: String, _ dice: inout Dice, _ report: inout Report) async throws {
        for number in 1...kills {
            let early = dice.chance(0.15)
            let wait = Double.random(in: 0...4, using: &dice)
            guard let pid = try await running(job, client, training: !early || number == 1) else { return }
            try await Task.sleep(for: .seconds(wait * (early ? 0.3 : 1)))
            let (reported, checkpoint) = try await standing(job, client)
            guard try await client.query("select count(*) from queue.job where id = $1", [.int(job)])[0][0].int == 1 else { return }
            Glibc.kill(pid, SIGKILL)
            let after = try await standing(job, client)
            // Where the next run goes on is what the trainer itself logs; until then nothing is counted.
            let resumed = try await resumedStep(job, folder, after: number - 1, expecting: after.checkpoint, client)
            report.kills.append((max(reported, after.reported), max(checkpoint, after.checkpoint), resumed))
            say("kill \(number): at step \(max(reported, after.reported)), newest checkpoint \(after.checkpoint), went on from \(resumed)")
        }
    }

    /// The process that has the job, once it trains (or at once); nil when the job is over.
    private func running(_ job: Int64, _ client: PostgresClient, training: Bool) async throws -> Int32? {
        for _ in 0..<2400 {
            let row = try await client.query("select state, pid, message from ops.jobs where id = $1", [.int(job)])[0]
            if ["succeeded", "dead", "cancelled"].contains(try row["state"].string) { return nil }
            if try row["state"].string == "leased", let pid = try row["pid"].optionalInt, Glibc.kill(pid_t(pid), 0) == 0,
                try !training || row["message"].optionalString?.hasPrefix("step ") == true
            {
                return Int32(pid)
            }
            try await Task.sleep(for: .milliseconds(25))
        }
        throw ChaosError("nobody took the training up again within a minute")
    }

    /// The step last reported and the newest checkpoint.
    private func standing(_ job: Int64, _ client: PostgresClient) async throws -> (reported: Int, checkpoint: Int) {
        let row = try await client.query(
            """
            select coalesce((select substring(r.message from 'step (\\d+) of')::int from queue.run r where r.job_id = $1), 0) as reported,
                coalesce((select max(c.n) from queue.checkpoint c where c.job_id = $1), 0) as checkpoint
            """, [.int(job)])[0]
        let checkpoint = try row["checkpoint"].int
        return (max(try row["reported"].int, checkpoint), checkpoint)
    }

    /// What the trainer says it goes on from: the log's newest line about this job, written by the run after the kill.
    private func resumedStep(_ job: Int64, _ folder: String, after earlier: Int, expecting checkpoint: Int, _ client: PostgresClient)
        async throws -> Int
    {
        if checkpoint == 0 { return 0 }
        let before = resumptions(job, folder).count
        for _ in 0..<2400 {
            let all = resumptions(job, folder)
            if all.count > before, let last = all.last { return last }
            if try await client.query("select count(*) from queue.job where id = $1", [.int(job)])[0][0].int == 0 { break }
            try await Task.sleep(for: .milliseconds(25))
        }
        throw ChaosError("no run went on from a checkpoint within a minute")
    }

    private func resumptions(_ job: Int64, _ folder: String) -> [Int] {
        let text = FileManager.default.contents(atPath: folder + "/up.log").map { String(decoding: $0, as: UTF8.self) } ?? ""
        return text.split(separator: "\n").filter {
            $0.contains("Going on from a checkpoint") && $0.firstMatch(of: /job"?[=:]"?(\d+)/)?.output.1 == "\(job)"
        }
        .compactMap { $0.firstMatch(of: /step"?[=:]"?(\d+)/).flatMap { Int($0.output.1) } }
    }

    private func digest(_ name: String, _ client: PostgresClient, _ folder: String) async throws -> String {
        try await foretaste(["models", "export", name + "@latest", folder + "/" + name], folder)
        guard let head = FileManager.default.contents(atPath: folder + "/\(name)/head.safetensors") else {
            throw ChaosError("no head was exported")
        }
        return try await sha256(head, client)
    }

    // MARK: - Processes

    private func start(_ arguments: [String], _ folder: String, log: String) async throws -> ChildProcess {
        let output = open(folder + "/" + log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        defer { close(output) }
        let environment = ProcessInfo.processInfo.environment.filter { !$0.key.hasPrefix("FORETASTE_") && $0.key != "DATABASE_URL" }
        var request = ChildProcess.Request(
            path: build + "/foretaste", arguments: arguments + ["--data", folder + "/data"],
            environment: environment.merging(["FORETASTE_LOG_LEVEL": "info"]) { $1 }, directory: folder)
        (request.standardOutput, request.standardError) = (output, output)
        return try await ChildProcess.start(request)
    }

    private func foretaste(_ arguments: [String], _ folder: String) async throws {
        guard await (try start(arguments, folder, log: "commands.log")).exitStatus() == 0 else {
            throw ChaosError("foretaste \(arguments.joined(separator: " ")): \(tail(folder + "/commands.log"))")
        }
    }

    private func tail(_ path: String) -> String {
        String(decoding: FileManager.default.contents(atPath: path)?.suffix(1500) ?? Data(), as: UTF8.self)
    }
}

/// SHA-256 by the database, which has it: 64 hexadecimal digits.
func sha256(_ data: Data, _ client: PostgresClient) async throws -> String {
    try await client.query("select encode(sha256($1::bytea), 'hex') as digest", [.bytes([UInt8](data))])[0]["digest"].string
}
