import Foundation
import Glibc
import Postgres

/// Frozen past their lease, their jobs run elsewhere, thawed: what zombies write must be refused, all of it.
public struct ZombieTest: Sendable {
    /// What came of it.
    public struct Report: Sendable {
        /// Leases that were frozen, over, and held by somebody else (or used up) when their holder woke and wrote.
        public var trials = 0
        /// Processes that were frozen and thawed.
        public var freezes = 0
        /// Stale writes attempted and accepted, by kind.
        public var writes: [String: (attempted: Int, accepted: Int)] = [:]
        /// How many of the jobs had been claimed by another worker, and how many of those were done, when the zombie woke; the others
        /// of them were running elsewhere.
        public var claimedAgain = 0
        public var doneAgain = 0
        /// The invariants afterwards.
        public var checks: [Check] = []
        /// Seconds it took.
        public var seconds = 0.0

        /// Stale writes in all.
        public var attempted: Int { writes.values.reduce(0) { $0 + $1.attempted } }
        /// Those that were accepted.
        public var accepted: Int { writes.values.reduce(0) { $0 + $1.accepted } }
        /// What is wrong, one line each.
        public var violations: [String] {
            writes.filter { $0.value.accepted > 0 }.map { "\($0.value.accepted) of \($0.value.attempted) stale writes accepted: \($0.key)" }
                .sorted()
                + checks.filter { $0.violations > 0 }.map { "\($0.name): \($0.violations), first: \($0.example)" }
        }
    }

    /// The kinds of write that each zombie attempts.
    public static let kinds = 9

    let server: ChaosServer
    let trials: Int
    let leases: Int
    let isBroken: Bool
    let say: @Sendable (String) -> Void

    /// - Parameters:
    ///   - trials: frozen leases in all.
    ///   - leases: how many one frozen process holds.
    ///   - isBroken: whether the zombies' completions ignore their tokens, which must be noticed.
    public init(
        server: ChaosServer, trials: Int, leases: Int = 320, isBroken: Bool = false, say: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        (self.server, self.trials, self.leases, self.isBroken, self.say) = (server, trials, leases, isBroken, say)
    }

    /// Runs it: two workers do the jobs again, three zombies at a time.
    public func run() async throws -> Report {
        let began = ContinuousClock.now
        return try await server.withStage(flags: ["concurrency=60"]) { stage in
            var report = Report()
            try await stage.fleet.ensure(2)
            while report.trials < trials {
                let before = report.trials
                let parts = try await withThrowingTaskGroup(of: Report.self) { group in
                    for _ in 0..<3 { group.addTask { try await freezeOne(stage) } }
                    return try await group.reduce(into: [Report]()) { $0.append($1) }
                }
                for part in parts { report.add(part) }
                guard report.trials > before else { throw ChaosError("no lease ran out while its holder was frozen") }
                say("\(report.freezes) freezes, \(report.trials) leases, \(report.attempted) stale writes, \(report.accepted) accepted")
            }
            try await stage.drain(within: 60, workers: 2)
            report.checks = try await Invariants.check(stage.client, acknowledged: [])
            report.seconds = (ContinuousClock.now - began) / .seconds(1)
            return report
        }
    }

    /// One process: takes its leases, is frozen, loses them, wakes, and writes.
    private func freezeOne(_ stage: Stage) async throws -> Report {
        var ends: [CInt] = [0, 0]
        guard pipe(&ends) == 0 else { throw ChaosError("pipe: \(String(cString: strerror(errno)))") }
        _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
        let long = leases / 8
        var request = ChildProcess.Request(
            path: Fleet.workerProgram,
            arguments: ["zombie", stage.url, "\(leases - long)", "\(long)", "1.5"] + (isBroken ? ["broken"] : []),
            environment: ["PATH": "/usr/bin:/bin"])
        request.standardOutput = ends[1]
        request.standardError = ends[1]
        let zombie = try await ChildProcess.start(request)
        close(ends[1])
        let lines = Lines(descriptor: ends[0])
        defer { zombie.signal(SIGKILL) }
        guard let first = await lines.next(), first.hasPrefix("holding"), let worker = Int(first.split(separator: " ")[1]) else {
            throw ChaosError("the zombie took no leases")
        }
        zombie.signal(SIGSTOP)
        var report = Report()
        report.freezes = 1
        // Past the lease; then until every job has been taken from it and most run, or ran, elsewhere.
        let deadline = ContinuousClock.now + .seconds(30)
        while ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(50))
            let row = try await stage.client.query(
                """
                with held as (select t.job, t.n, t.new_token from chaos.trace t where t.worker = $1 and t.what = 'claim')
                select count(*), count(*) filter (where exists (select from chaos.trace u where u.job = h.job and u.what = 'rescue' and u.n > h.n)),
                    count(*) filter (where exists (select from chaos.trace u where u.job = h.job and u.what = 'claim' and u.n > h.n)),
                    count(*) filter (where exists (select from chaos.trace u where u.job = h.job and u.what = 'done' and u.n > h.n))
                from held h
                """, [.int(worker)])[0]
            let (held, lost) = (try row[0].int, try row[1].int)
            (report.trials, report.claimedAgain, report.doneAgain) = (lost, try row[2].int, try row[3].int)
            // Some wake while their jobs are only ready again, most while they run or are done.
            if held == lost, report.claimedAgain * 10 >= held * 8 { break }
        }
        zombie.signal(SIGUSR1)
        zombie.signal(SIGCONT)
        var others = ""
        while let line = await lines.next(), line != "over" {
            let words = line.split(separator: " ")
            if words.count == 3, let attempted = Int(words[1]), let accepted = Int(words[2]) {
                report.writes[String(words[0])] = (attempted, accepted)
            } else if others.count < 600 {
                others += line + " "
            }
        }
        guard report.writes.count == ZombieTest.kinds else { throw ChaosError("the zombie did not attempt everything: \(others)") }
        return report
    }
}

extension ZombieTest.Report {
    fileprivate mutating func add(_ other: Self) {
        trials += other.trials
        freezes += other.freezes
        claimedAgain += other.claimedAgain
        doneAgain += other.doneAgain
        for (name, counts) in other.writes {
            let old = writes[name] ?? (0, 0)
            writes[name] = (old.attempted + counts.attempted, old.accepted + counts.accepted)
        }
    }
}

/// The lines that a child writes into a pipe.
final class Lines: Sendable {
    private let stream: AsyncStream<String>
    private nonisolated(unsafe) var iterator: AsyncStream<String>.Iterator

    init(descriptor: CInt) {
        let (stream, continuation) = AsyncStream.makeStream(of: String.self)
        self.stream = stream
        iterator = stream.makeAsyncIterator()
        Thread.detachNewThread {
            var rest: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = read(descriptor, &buffer, buffer.count)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { break }
                rest += buffer[..<count]
                while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                    continuation.yield(String(decoding: rest[..<end], as: UTF8.self))
                    rest.removeFirst(end + 1)
                }
            }
            close(descriptor)
            continuation.finish()
        }
    }

    func next() async -> String? { await iterator.next() }
}
