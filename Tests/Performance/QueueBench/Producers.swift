import Foundation
import JobQueue

/// A line "1000" enqueues so many, a thousand in a statement.
func supply(_ queue: JobQueue) async throws {
    say(["ready": true])
    for line in lines() where line != "stop" {
        let wanted = Int(line) ?? 0
        try await enqueue(wanted, queue)
        say(["supplied": wanted])
    }
}

func enqueue(_ count: Int, _ queue: JobQueue) async throws {
    let moment = nanoseconds()
    for first in stride(from: 0, to: count, by: 1000) {
        let jobs = (first..<min(first + 1000, count)).map { (json: payload(moment + $0), dedupeKey: String?.none) }
        try await queue.enqueueMany(kind: "noop", queue: "bench", jobs: jobs)
    }
}

/// A line "25 10" enqueues 25 jobs a second for ten seconds, one by one, paced by the clock whatever the last call took.
func produce(_ queue: JobQueue) async throws {
    say(["ready": true])
    for line in lines() where line != "stop" {
        let words = line.split(separator: " ").compactMap { Double($0) }
        guard words.count == 2 else { continue }
        say(try await produce(queue, rate: words[0], seconds: words[1]))
    }
}

func produce(_ queue: JobQueue, rate: Double, seconds: Double) async throws -> [String: any Sendable] {
    let start = ContinuousClock.now
    var latest = Duration.zero
    var calls: [Int] = []
    for n in 0..<Int(rate * seconds) {
        let due = start + .seconds(Double(n) / rate)
        if due > .now { try await Task.sleep(until: due, tolerance: .zero) }
        latest = max(latest, .now - due)
        let began = nanoseconds()
        try await queue.enqueue(kind: "noop", queue: "bench", json: payload(began))
        calls.append(nanoseconds() - began)
    }
    return [
        "produced": Int(rate * seconds), "latest_s": latest / .seconds(1), "call_ns": calls.sorted().dropFirst(calls.count / 2).first ?? 0,
    ]
}
