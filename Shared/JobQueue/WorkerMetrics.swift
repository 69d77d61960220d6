import Foundation
import Glibc

/// Times in buckets that grow by a quarter of a doubling: quantiles within ten per cent at the cost of an addition.
struct TimeHistogram: Sendable, Equatable, Encodable {
    /// Upper end of the first bucket's neighbour below: 0.1 ms. The last of the buckets begins at six days.
    static let smallest = 0.0001
    static let most = 128

    private(set) var counts: [Int] = []
    private(set) var longest = 0.0
    private(set) var total = 0.0

    mutating func add(_ seconds: Double) {
        let seconds = max(seconds, 0)
        let bucket = seconds < Self.smallest ? 0 : min(Int(4 * log2(seconds / Self.smallest)), Self.most - 1)
        if bucket >= counts.count { counts.append(contentsOf: repeatElement(0, count: bucket + 1 - counts.count)) }
        counts[bucket] += 1
        longest = max(longest, seconds)
        total += seconds
    }

    mutating func add(_ other: Self) {
        if other.counts.count > counts.count { counts.append(contentsOf: repeatElement(0, count: other.counts.count - counts.count)) }
        for (bucket, count) in other.counts.enumerated() { counts[bucket] += count }
        longest = max(longest, other.longest)
        total += other.total
    }

    var isEmpty: Bool { counts.isEmpty }
}

/// What a worker counts of one kind of jobs until it says so: per job a few additions, per flush one statement for all kinds.
struct WorkerMetrics: Sendable, Equatable {
    private(set) var succeeded = 0
    private(set) var fenced = 0
    private(set) var waits = TimeHistogram()
    private(set) var runs = TimeHistogram()

    /// A job was taken that had been ready for so long.
    mutating func began(afterWaiting seconds: Double) { waits.add(seconds) }

    /// A job ran for so long and its completion was accepted.
    mutating func succeeded(afterRunning seconds: Double) {
        succeeded += 1
        runs.add(seconds)
    }

    /// A job ran for so long and failed, or was stopped; the database counts which.
    mutating func ended(afterRunning seconds: Double) { runs.add(seconds) }

    /// What a run came to was refused: the job is somebody else's by now.
    mutating func wasFenced() { fenced += 1 }

    var isEmpty: Bool { self == WorkerMetrics() }

    /// Takes what was counted.
    mutating func take() -> Self {
        defer { self = WorkerMetrics() }
        return self
    }

    /// What was taken did not arrive.
    mutating func putBack(_ other: Self) {
        succeeded += other.succeeded
        fenced += other.fenced
        waits.add(other.waits)
        runs.add(other.runs)
    }
}

/// What a worker tells `queue.flush_metrics` of itself and of what it counted.
struct WorkerReport: Encodable {
    struct Lane: Encodable {
        let queue: String
        let kind: String
        let capacity: Int
        let running: Int
    }

    struct Kind: Encodable {
        let queue: String
        let kind: String
        let succeeded: Int
        let fenced: Int
        let wait: [Int]
        let run: [Int]
        let waitMax: Double
        let runMax: Double
        let runTotal: Double

        init(queue: String, kind: String, _ metrics: WorkerMetrics) {
            self.queue = queue
            self.kind = kind
            succeeded = metrics.succeeded
            fenced = metrics.fenced
            wait = metrics.waits.counts
            run = metrics.runs.counts
            waitMax = metrics.waits.longest
            runMax = metrics.runs.longest
            runTotal = metrics.runs.total
        }
    }

    let worker: Int64
    let version: String?
    let draining: Bool
    let lanes: [Lane]
    let cpuPercent: Double?
    let rssBytes: Int?
    let kinds: [Kind]

    /// As JSON text, names as the SQL function reads them.
    func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }
}

/// The process's use of the machine, between two looks.
struct ProcessUsage: Sendable {
    private var cpuSeconds: Double
    private var at: ContinuousClock.Instant

    init() {
        cpuSeconds = Self.cpuSecondsSoFar()
        at = .now
    }

    /// Per cent of one core since the last look.
    mutating func cpuPercent() -> Double {
        let seconds = Self.cpuSecondsSoFar(), now = ContinuousClock.now
        defer { (cpuSeconds, at) = (seconds, now) }
        let elapsed = (now - at) / .seconds(1)
        return elapsed > 0 ? (seconds - cpuSeconds) / elapsed * 100 : 0
    }

    /// Bytes of memory that the process has resident; nil where the system does not say.
    static func residentBytes() -> Int? {
        guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return nil }
        let fields = text.split(separator: " ")
        return fields.count > 1 ? Int(fields[1]).map { $0 * Int(sysconf(Int32(_SC_PAGESIZE))) } : nil
    }

    private static func cpuSecondsSoFar() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1_000_000_000
    }
}
