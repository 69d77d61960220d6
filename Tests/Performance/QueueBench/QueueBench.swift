// The job queue under load, driven through JobQueue and JobWorker. Speaks the same lines as the adapters of the peers
// (../queue/adapters/adapter.py), so that one runner measures all; `drain` and `print-turn` are for use by hand.
//
//     QueueBench setup   '{"dsn": …}'                       the schema, and the queue `bench`
//     QueueBench supply  '{"dsn": …}'                       a line "1000" enqueues so many in bulk
//     QueueBench produce '{"dsn": …}'                       a line "25 10" enqueues one by one, 25 a second for 10 s
//     QueueBench worker  '{"dsn": …, "handler": "count"}'   one worker; "go", then questions, then "stop"
//     QueueBench rescue  '{"dsn": …}'                       nothing to do: workers rescue by themselves
//     QueueBench drain   '{"dsn": …, "jobs": 200000}' [--pin-xmin]   all of it in one process, one JSON line of figures
//     QueueBench latency '{"dsn": …, "rate": 25, "seconds": 10}'     enqueue call to handler, in one process
//     QueueBench print-turn                                 the turn as a pgbench script
import Foundation
import JobQueue
import Logging
import Migrations
import Postgres

@main
enum QueueBench {
    static func main() async throws {
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        let arguments = CommandLine.arguments.dropFirst()
        guard let mode = arguments.first else { usage() }
        if mode == "print-turn" { return print(turnScript) }
        let text = arguments.dropFirst().first { $0.hasPrefix("{") } ?? "{}"
        let options = try JSONDecoder().decode(Options.self, from: Data(text.utf8))
        var logger = Logger(label: "bench")
        logger.logLevel = .warning
        let client = PostgresClient(
            configuration: PostgresConfiguration(url: options.dsn), maximumConnections: 8, applicationName: "bench", logger: logger)
        let queue = JobQueue(client: client)
        switch mode {
        case "setup":
            try await BundledMigrations.migrate(client)
            try await queue.define("bench", isLong: false)
            say(["installed": true])
        case "supply": try await supply(queue)
        case "produce": try await produce(queue)
        case "worker": try await work(client, options, logger)
        case "rescue":
            say(["ready": true])
            for line in lines() where line != "stop" { say(["rescued": true]) }
        case "drain": try await drain(client, options, pinned: arguments.contains("--pin-xmin"), logger)
        case "latency": try await latency(client, options, logger)
        default: usage()
        }
        await client.close()
    }

    static func usage() -> Never {
        FileHandle.standardError.write(
            Data("QueueBench setup|supply|produce|worker|rescue|drain|latency '{\"dsn\": …}' [--pin-xmin], or print-turn\n".utf8))
        exit(64)
    }

    /// The worker's own statement. One commit hands in what the turn before it had claimed and claims the next, from where that one had
    /// got to in the line.
    static var turnScript: String {
        let values = [
            "$10": "null", "$1": ":worker", "$2": "'bench'", "$3": "'noop'", "$4": ":batch", "$5": ":places", "$6": ":ids", "$7": ":tokens",
            "$8": "'{}'", "$9": "0",
        ]
        // The longest first: $1 is the beginning of $10.
        return values.sorted { $0.key.count > $1.key.count }.reduce(Statements.turn) { $0.replacing($1.key, with: $1.value) } + " \\gset"
    }
}

/// What the runner hands over. A setting that is not named is the bench's default.
struct Options: Decodable, Sendable {
    struct Setting: Decodable, Sendable {
        var concurrency: Int?
    }

    var dsn: String
    var setting: Setting?
    var handler: String?
    var jobs: Int?
    var sleep: Double?
    var rate: Double?
    var seconds: Double?

    var concurrency: Int { setting?.concurrency ?? 100 }
}

/// A line of JSON to the runner.
func say(_ fields: [String: any Sendable]) {
    guard let data = try? JSONSerialization.data(withJSONObject: fields, options: [.sortedKeys]) else { return }
    FileHandle.standardOutput.write(data + Data("\n".utf8))
}

/// Lines of standard input; its end is a "stop". Read by a thread of its own, because reading blocks.
func lineStream() -> AsyncStream<String> {
    AsyncStream { continuation in
        Thread.detachNewThread {
            while let line = readLine() { continuation.yield(line) }
            continuation.yield("stop")
            continuation.finish()
        }
    }
}

/// The same for modes that have nothing else to do meanwhile.
func lines() -> AnyIterator<String> { AnyIterator { readLine() } }

/// Nanoseconds since 1970, as the peers' adapters say them.
func nanoseconds() -> Int {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Arguments of one job: 256 bytes of JSON.
func payload(_ moment: Int) -> String {
    let head = #"{"t": \#(moment), "pad": ""#
    return head + String(repeating: "x", count: 256 - head.utf8.count - 2) + #""}"#
}
