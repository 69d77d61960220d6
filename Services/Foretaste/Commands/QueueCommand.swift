import ArgumentParser
import Foundation
import JobQueue

/// `foretaste queue …`
struct QueueCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "queue", abstract: "List the queues: what waits, what runs, for how long, and with how many hands.",
        subcommands: [List.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The queues now.")
        @OptionGroup var data: DataOptions
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            let queues = try await data.withQueue { try await $0.queues() }
            if json { return print("[" + queues.map(\.json).joined(separator: ",\n ") + "]") }
            let rows = queues.map { queue in
                [queue.name, queue.queueClass, queue.isPaused ? "paused" : ""]
                    + [queue.ready, queue.leased, queue.deferred, queue.waiting, queue.dead, queue.capacity].map(String.init)
                    + [queue.ready > 0 ? String(format: "%.0f s", queue.oldestReady) : ""]
            }
            let header = ["QUEUE", "CLASS", "", "READY", "RUNNING", "DEFERRED", "WAITING", "DEAD", "CAPACITY", "OLDEST READY"]
            print(Table.render(header: header, rows: rows))
        }
    }
}

/// `foretaste workers`.
struct WorkersCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "workers", abstract: "The processes that take jobs, and how they are.")
    @OptionGroup var data: DataOptions
    @Flag(help: "Those too that have ended, and why.") var all = false
    @Option(help: "At most so many.") var limit = 100
    @Flag(help: "JSON, for programs.") var json = false

    func validate() throws {
        guard limit > 0 else { throw ValidationError("--limit \(limit): expected a positive number") }
    }

    func run() async throws {
        let workers = try await data.withQueue { try await $0.workers(includingEnded: all, limit: limit) }
        if json { return print("[" + workers.map(\.json).joined(separator: ",\n ") + "]") }
        let rows = workers.map { worker in
            [
                String(worker.id), worker.service, worker.host, String(worker.pid),
                worker.endedWhy ?? (worker.isDraining ? "draining" : "alive"), String(format: "%.0f s", worker.beatAge),
                "\(worker.inFlight)/\(worker.capacity.map(String.init) ?? "?")",
                worker.cpuPercent.map { String(format: "%.0f %%", $0) } ?? "",
                worker.residentMegabytes.map { String(format: "%.0f MB", $0) } ?? "",
            ]
        }
        print(Table.render(header: ["ID", "SERVICE", "HOST", "PID", "STATE", "BEAT", "JOBS", "CPU", "MEMORY"], rows: rows))
    }
}
