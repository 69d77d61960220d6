import Dispatch
import Foundation
import FoundationNetworking
import JobQueue
import Postgres
import Testing

extension ForetasteProcessTests {
    /// The demo in miniature, with its real services.
    @Suite(.serialized) struct Demo {
        /// What every run with the same seed measures, whatever happened on the way.
        private func figures(_ folder: String) throws -> String {
            let data = try Data(contentsOf: URL(filePath: folder + "/report.json"))
            var report = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
            for name in ["seconds", "jobs", "fetches", "machine"] { #expect(report.removeValue(forKey: name) != nil, "\(name)") }
            report["best_of_n"] = try #require(report["best_of_n"] as? [[String: Any]]).map { row in
                row.filter { $0.key != "seconds_per_group" }
            }
            return String(
                decoding: try JSONSerialization.data(withJSONObject: report, options: [.sortedKeys, .prettyPrinted]), as: UTF8.self)
        }

        private struct Job: Decodable {
            let kind: String
            let state: String
            let attempts: Int
            let worker: String
            let pid: Int
        }

        private struct Report: Decodable {
            let jobs: [Job]
        }

        @Test func servicesThatAreKilledDelayTheDemoAndChangeNothing() async throws {
            try await withTemporaryFolder { folder in
                let calm = try await Program.run(["demo", "--miniature", "--output", folder + "/calm"], in: folder, seconds: 600)
                try #require(calm.status == 0, "\(calm)")
                #expect(calm.line == folder + "/calm/report.html")
                for name in [
                    "report.html", "report.json", "generator/config.json", "generator/diffusion_pytorch_model.safetensors",
                    "lora/pytorch_lora_weights.safetensors", "reward/config.json", "reward/head.safetensors",
                ] {
                    #expect(FileManager.default.fileExists(atPath: "\(folder)/calm/\(name)"), "\(name)")
                }

                // The folder may be there already, and a database of the user's is not looked at.
                try FileManager.default.createDirectory(atPath: folder + "/killed", withIntermediateDirectories: true)
                let demo = try await Program.start(
                    ["demo", "--miniature", "--output", folder + "/killed"], in: folder,
                    ["DATABASE_URL": "postgresql:///nowhere?host=/nowhere"])
                defer { demo.child.signal(SIGTERM) }
                let killer = Killer(demo: demo.child.identifier)
                let killing = Task(executorPreference: OwnThread()) { await killer.run() }
                let ended = try await demo.ended(within: 600)
                killing.cancel()
                let killed = await killing.value
                try #require(ended.status == 0, "\(ended)")
                #expect(
                    killed.sorted() == ["generate", "scoring", "train_reward", "tune_generator", "verify_preference"],
                    "what was killed at work")
                #expect(try figures(folder + "/killed") == figures(folder + "/calm"))
                for name in ["lora/pytorch_lora_weights.safetensors", "reward/head.safetensors"] {
                    #expect(
                        FileManager.default.contentsEqual(atPath: "\(folder)/killed/\(name)", andPath: "\(folder)/calm/\(name)"), "\(name)")
                }

                let jobs = try JSONDecoder().decode(Report.self, from: Data(contentsOf: URL(filePath: folder + "/killed/report.json"))).jobs
                #expect(jobs.allSatisfy { $0.state == "succeeded" && !$0.worker.isEmpty && $0.pid > 0 })
                for kind in ["generate", "train_reward", "tune_generator"] {
                    #expect(jobs.contains { $0.kind == kind && $0.attempts > 1 }, "\(kind)")
                }
                try expectNothingLeft(of: demo)
            }
        }

        @Test func anInterruptedDemoTakesEverythingWithIt() async throws {
            try await withTemporaryFolder { folder in
                let demo = try await Program.start(["demo", "--miniature", "--output", folder + "/out"], in: folder)
                let running = FileManager.default.temporaryDirectory.path + "/foretaste-demo-\(demo.child.identifier)/running.json"
                try await eventually(within: 120, "its services run") {
                    try #require(demo.child.isRunning, "\(demo.shown)")
                    return FileManager.default.fileExists(atPath: running)
                }
                let processes = ProcessEntry.descendants(of: demo.child.identifier)
                #expect(processes.count >= 6, "four services, a database, an artifact server")
                demo.child.signal(SIGINT)
                let ended = try await demo.ended(within: 60)
                #expect(ended.status == 1 && ended.errors.contains("interrupted"), "\(ended)")
                #expect(!FileManager.default.fileExists(atPath: folder + "/out/report.html"))
                #expect(processes.filter(\.isAlive).isEmpty)
                try expectNothingLeft(of: demo)
            }
        }

        private func expectNothingLeft(of demo: Program) throws {
            let data = FileManager.default.temporaryDirectory.path + "/foretaste-demo-\(demo.child.identifier)"
            #expect(!FileManager.default.fileExists(atPath: data))
            #expect(ProcessEntry.descendants(of: demo.child.identifier).isEmpty)
        }
    }
}

/// A thread that other tests, which compute on Swift's own, do not keep busy: the killer has to be in time.
private final class OwnThread: TaskExecutor {
    private let queue = DispatchQueue(label: "killer")

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}

/// Kills each service of a demo once for each kind of work, while it has that work.
private struct Killer: Sendable {
    let demo: Int32

    private struct Running: Decodable {
        let scorer: String
        let database_url: String
        let processes: [String: Int32]
    }

    /// Jobs that are in the middle of something: long ones for a while, the tuner's since it has a checkpoint to go on from.
    private static let busy = """
        select kind, pid from ops.jobs j where state = 'leased' and pid is not null and case kind
            when 'tune_generator' then exists (select from queue.checkpoint c where c.job_id = j.id)
            when 'verify_preference' then true
            else started_at < clock_timestamp() - interval '50 milliseconds' end
        """

    private func running() -> Running? {
        let file = FileManager.default.temporaryDirectory.path + "/foretaste-demo-\(demo)/running.json"
        return FileManager.default.contents(atPath: file).flatMap { try? JSONDecoder().decode(Running.self, from: $0) }
    }

    /// - Returns: the kinds of work in whose middle a service was killed.
    func run() async -> Set<String> {
        var done: Set<String> = []
        var client: PostgresClient?
        while !Task.isCancelled, done.count < 5 {
            try? await Task.sleep(for: .milliseconds(5))
            guard let running = running() else { continue }
            if client == nil {
                client = PostgresClient(configuration: PostgresConfiguration(url: running.database_url), maximumConnections: 1)
            }
            for row in (try? await client?.query(Self.busy)) ?? [] {
                guard let kind = try? row["kind"].string, let pid = try? Int32(row["pid"].int), !done.contains(kind) else { continue }
                // A number that the supervisor knows is a service's, and nobody else's.
                guard running.processes.values.contains(pid), kill(pid, SIGKILL) == 0 else { continue }
                done.insert(kind)
            }
            if !done.contains("scoring"), await isScoring(running.scorer), let pid = running.processes["scorer"], kill(pid, SIGKILL) == 0 {
                done.insert("scoring")
            }
        }
        await client?.close()
        return done
    }

    /// Whether the scorer has answered a Best-of-N: the demo asks dozens of times, one after another.
    private func isScoring(_ url: String) async -> Bool {
        guard let url = URL(string: url + "/metrics"), let (data, _) = try? await URLSession.shared.data(from: url) else { return false }
        return String(decoding: data, as: UTF8.self).split(separator: "\n").contains {
            $0.hasPrefix("foretaste_requests_total") && $0.contains("best-of-n")
        }
    }
}
