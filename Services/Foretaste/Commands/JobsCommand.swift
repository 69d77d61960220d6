import ArgumentParser
import Foundation
import JobQueue

/// `foretaste jobs …`
struct JobsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jobs", abstract: "List, show, enqueue, retry and cancel jobs.",
        subcommands: [List.self, Show.self, Enqueue.self, Retry.self, Cancel.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Jobs, newest first.")
        @OptionGroup var data: DataOptions
        @Option(help: "Only this kind, such as train_reward.") var kind: String?
        @Option(help: "Only this state: ready, leased, deferred, succeeded, dead, cancelled.") var state: String?
        @Option(help: "At most so many.") var limit = 50
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            let wanted = try state.map { name in
                guard let state = JobRecord.State(rawValue: name) else { throw ValidationError("--state \(name): there is no such state") }
                return state
            }
            try await data.withDatabase { client in
                let jobs = try await JobQueue(client: client).list(state: wanted, kind: kind, limit: limit)
                if json { return print("[" + jobs.map(\.json).joined(separator: ",\n ") + "]") }
                let rows = jobs.map {
                    [
                        String($0.id), $0.kind, $0.state.rawValue, String($0.attempt),
                        $0.progress.map { String(format: "%.0f %%", $0 * 100) } ?? "",
                        $0.worker ?? "", $0.error ?? $0.message ?? "",
                    ]
                }
                print(Table.render(header: ["ID", "KIND", "STATE", "ATTEMPT", "PROGRESS", "WORKER", "MESSAGE"], rows: rows))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "One job, whole.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The job's id.") var id: Int64
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            try await data.withDatabase { client in
                let job = try await JobQueue(client: client).show(id)
                if json { return print(job.json) }
                let lines: [(String, String?)] = [
                    ("id", String(job.id)), ("kind", job.kind), ("queue", job.queue), ("state", job.state.rawValue),
                    ("attempt", String(job.attempt)), ("failures", String(job.failures)), ("rescues", String(job.rescues)),
                    ("worker", job.worker), ("pid", job.pid.map { String($0) }), ("created", "\(job.createdAt)"),
                    ("started", job.startedAt.map { "\($0)" }), ("finished", job.finishedAt.map { "\($0)" }),
                    ("progress", job.progress.map { String(format: "%.1f %%", $0 * 100) }), ("message", job.message), ("error", job.error),
                    ("arguments", job.arguments), ("result", job.result),
                ]
                for (name, value) in lines where !(value ?? "").isEmpty {
                    print(name.padding(toLength: 11, withPad: " ", startingAt: 0) + (value ?? ""))
                }
            }
        }
    }

    struct Enqueue: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Put a job into the queue and print its id.",
            discussion: """
                train_reward: name, backbone, dimension, head (prism, pavrm), loss (bce, bradley-terry, rao-kupper), block, steps, batch, \
                learning_rate, seed.
                tune_generator: generator, reward (NAME@champion), method (prfl, sft, prfl+sft), iterations, batch, rank, learning_rate, seed, name.
                generate: generator, adapter, prompts (a URL to a file of prompt embeddings), candidates, steps, seed.
                """)
        @OptionGroup var data: DataOptions
        @Argument(help: "What to do: train_reward, evaluate_reward, tune_generator, generate.") var kind: String
        @Option(name: .customLong("set"), parsing: .singleValue, help: "A setting, KEY=VALUE; may be given several times.") var settings:
            [String] = []
        @Option(help: "While a job with this key lives, its id is printed and nothing added.") var dedupeKey: String?
        @Flag(help: "Show progress and wait: exit status 0 when the job succeeded, 1 when it did not.") var wait = false

        func run() async throws {
            let arguments = try Settings.json(settings)
            try await data.withDatabase { client in
                let queue = JobQueue(client: client)
                let id = try await queue.enqueue(kind: kind, json: arguments, dedupeKey: dedupeKey)
                print(id)
                fflush(nil)
                guard wait else { return }
                let terminal = Terminal()
                let started = Date()
                var last: JobRecord?
                for try await job in queue.wait(id) {
                    terminal.progress("\(job.kind) \(job.id)", job.progress ?? 0, job.message ?? job.state.rawValue)
                    last = job
                }
                guard let last, last.state == .succeeded else {
                    terminal.finished("\(kind) \(id)", seconds: Date().timeIntervalSince(started), last?.state.rawValue ?? "unknown")
                    throw CommandFailure(
                        description: "job \(id) \(last?.state.rawValue ?? "is unknown"): \(last?.error ?? "no reason was given")")
                }
                terminal.finished("\(kind) \(id)", seconds: Date().timeIntervalSince(started), "succeeded")
            }
        }
    }

    struct Retry: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Bring a dead or cancelled job back, or start a deferred one now.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The job's id.") var id: Int64

        func run() async throws { try await data.withDatabase { try await JobQueue(client: $0).retry(id) } }
    }

    struct Cancel: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Cancel a job; a running one is asked to stop.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The job's id.") var id: Int64
        @Option(help: "Why, for the record.") var reason = "cancelled by an operator"

        func run() async throws {
            try await data.withDatabase { print(try await JobQueue(client: $0).cancel(id, reason: reason).rawValue) }
        }
    }
}
