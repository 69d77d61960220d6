import ArgumentParser
import Foundation
import JobQueue
import Postgres

/// `foretaste jobs …`
struct JobsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jobs", abstract: "List, show, enqueue, retry, cancel and redrive jobs; pause and resume their queues.",
        discussion:
            "Each command is one of the documented functions of the schema queue, so that psql can do the same (docs/operations.md).",
        subcommands: [
            List.self, Show.self, Enqueue.self, Retry.self, Cancel.self, Redrive.self, Pause.self, Resume.self,
        ])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Jobs, newest first.")
        @OptionGroup var data: DataOptions
        @Option(help: "Only this kind, such as train_reward.") var kind: String?
        @Option(help: "Only this state: ready, leased, deferred, waiting, succeeded, dead, cancelled.") var state: String?
        @Option(help: "Only older ones than this id: the last of the page before.") var before: Int64?
        @Option(help: "At most so many.") var limit = 50
        @Flag(help: "JSON, for programs.") var json = false

        func validate() throws {
            guard limit > 0 else { throw ValidationError("--limit \(limit): expected a positive number") }
        }

        func run() async throws {
            let wanted = try state.map { name in
                guard let state = JobRecord.State(rawValue: name) else {
                    let known = JobRecord.State.allCases.map(\.rawValue).joined(separator: ", ")
                    throw ValidationError("--state \(name): there is no such state; there are \(known)")
                }
                return state
            }
            try await data.withQueue { queue in
                let jobs = try await queue.list(state: wanted, kind: kind, before: before, limit: limit)
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
            try await data.withQueue { queue in
                let job = try await queue.show(id)
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
                train_reward: name, backbone, dimension, head (prism, pavrm), loss (bce, bradley-terry, rao-kupper), margin, block, steps, batch, \
                learning_rate, seed.
                tune_generator: generator, reward (NAME@champion), method (prfl, sft, prfl+sft), iterations, batch, rank, learning_rate, seed, name.
                generate: generator, adapter, prompts (a URL to a file of prompt embeddings), candidates, steps, seed.
                """)
        @OptionGroup var data: DataOptions
        @Argument(help: "What to do: train_reward, evaluate_reward, tune_generator, generate.") var kind: String
        @Option(name: .customLong("set"), parsing: .singleValue, help: "A setting, KEY=VALUE; may be given several times.") var settings:
            [String] = []
        @Option(help: "While a job with this key lives, its id is printed and nothing added.") var dedupeKey: String?
        @Option(help: "Ids of jobs that must succeed first, by commas.") var after: String?
        @Option(
            help: "What becomes of it when one of those is given up: cancel (it comes back when that one is retried) or continue.",
            transform: Settings.choice)
        var onParentFailure = JobQueue.ParentFailure.cancel
        @Option(help: "A permit that it needs while it runs, such as reward-overall: one job of a name at a time unless defined otherwise.")
        var slot: String?
        @Flag(help: "Show progress and wait: exit status 0 when the job succeeded, 1 when it did not.") var wait = false

        func run() async throws {
            let arguments = try Settings.json(settings)
            let parents = try (after?.split(separator: ",") ?? []).map { text in
                guard let id = Int64(text) else { throw ValidationError("--after \(text): expected ids of jobs, such as 41,42") }
                return id
            }
            try await data.withQueue { queue in
                let id = try await queue.enqueue(
                    kind: kind, json: arguments, dedupeKey: dedupeKey, slot: slot, waitsFor: parents, onParentFailure: onParentFailure)
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
        static let configuration = CommandConfiguration(abstract: "Bring dead or cancelled jobs back, or start deferred ones now.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The jobs' ids.") var ids: [Int64]

        func run() async throws {
            try await data.withQueue { queue in for id in ids { try await queue.retry(id) } }
        }
    }

    struct Cancel: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Cancel jobs; running ones are asked to stop, and taken away after 30 seconds.",
            discussion: "Prints what it came to: cancelled, requested (it runs and is asked to stop) or finished (it had ended already).")
        @OptionGroup var data: DataOptions
        @Argument(help: "The jobs' ids.") var ids: [Int64]
        @Option(help: "Why, for the record.") var reason = "cancelled by an operator"

        func run() async throws {
            try await data.withQueue { queue in
                for id in ids {
                    let answer = try await queue.cancel(id, reason: reason).rawValue
                    print(ids.count == 1 ? answer : "\(id) \(answer)")
                }
            }
        }
    }

    struct Redrive: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Bring dead jobs back, oldest first, and print how many.",
            discussion: "All but the cancelled ones, or those of one kind or one reason: permanent, attempts, crash_loop, cancelled.")
        @OptionGroup var data: DataOptions
        @Option(help: "Only this kind.") var kind: String?
        @Option(help: "Only those that died of this: permanent, attempts, crash_loop, cancelled.") var reason: String?
        @Option(help: "At most so many.") var limit = 1000

        func validate() throws {
            let known = ["permanent", "attempts", "crash_loop", "cancelled"]
            if let reason, !known.contains(reason) {
                throw ValidationError("--reason \(reason): there is no such reason; there are \(known.joined(separator: ", "))")
            }
            guard limit > 0 else { throw ValidationError("--limit \(limit): expected a positive number") }
        }

        func run() async throws {
            try await data.withQueue { print(try await $0.redrive(kind: kind, reason: reason, limit: limit)) }
        }
    }

    struct Pause: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Start no job of a queue until it is resumed; running ones go on.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The queue's name: the kind of its jobs, such as train_reward.") var queue: String

        func run() async throws { try await data.withQueue { try await $0.pause(queue) } }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "End a queue's pause.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The queue's name.") var queue: String

        func run() async throws { try await data.withQueue { try await $0.resume(queue) } }
    }
}

extension DataOptions {
    /// Lends the queue. What the database refuses an operator (no such job, no such queue, no right) is said without its codes.
    func withQueue<Result>(_ body: (JobQueue) async throws -> Result) async throws -> Result {
        do {
            return try await withDatabase { try await body(JobQueue(client: $0)) }
        } catch let error as PostgresError where ["02000", "P0002", "55000", "23505", "42501"].contains(error.sqlState) {
            throw CommandFailure(description: [error.message, error.hint].compactMap(\.self).joined(separator: " — "))
        }
    }
}
