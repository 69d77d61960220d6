import Foundation
import Glibc
import Postgres

/// What one round came to.
public struct RoundReport: Sendable {
    /// How many faults struck, by cell.
    public var trials: [Cell: Int] = [:]
    /// How often the point was not reached in time, by cell; these are no trials.
    public var missed: [Cell: Int] = [:]
    /// What was checked afterwards.
    public var checks: [Check] = []
    /// Why a cell could not be done on this machine.
    public var impossible: [Cell: String] = [:]
    /// Jobs, claims, rescues and processes started.
    public var figures = ""
    /// How long it took, in seconds.
    public var seconds = 0.0

    /// What is wrong, one line each; empty when every invariant held.
    public var violations: [String] {
        checks.filter { $0.violations > 0 }.map { "\($0.name): \($0.violations) of \($0.examined), first: \($0.example)" }
    }
}

/// One round of the crash matrix: a fresh database, three workers behind the proxy, a load, one fault after another, then peace, and the
/// invariants asked of the database.
public final class Round: Sendable {
    let server: ChaosServer
    let cells: [Cell]
    let trials: Int
    let seed: UInt64
    let extraFlags: [String]
    let log: @Sendable (String) -> Void

    /// A round of so many trials, taken in turn from `cells`.
    public init(
        server: ChaosServer, cells: [Cell], trials: Int, seed: UInt64, extraFlags: [String] = [],
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        (self.server, self.cells, self.trials, self.seed, self.extraFlags, self.log) = (server, cells, trials, seed, extraFlags, log)
    }

    /// Runs it. Throws only when the harness itself could not go on.
    public func run() async throws -> RoundReport {
        let began = ContinuousClock.now
        try await server.revive()
        let blobs = FileManager.default.temporaryDirectory.path + "/foretaste-chaos-blobs-\(getpid())"
        var flags = ["blobs=\(blobs)"] + extraFlags
        if cells.contains(where: { $0.fault == .error }) { flags.append("memory") }
        if cells.contains(where: { $0.fault == .timeout }) { flags += ["lock=250", "statement=4000"] }
        try FileManager.default.createDirectory(atPath: blobs, withIntermediateDirectories: true)
        var report = try await server.withStage(connections: 6, behindProxy: true, flags: flags) { stage in
            let scene = Scene(server: server, stage: stage, load: Load(client: stage.client, seed: seed), blobs: blobs)
            do {
                let report = try await run(scene)
                await tearDown(scene)
                return report
            } catch {
                await tearDown(scene)
                throw error
            }
        }
        report.seconds = (ContinuousClock.now - began) / .seconds(1)
        return report
    }

    private func run(_ scene: Scene) async throws -> RoundReport {
        var report = RoundReport()
        try await scene.client.query(
            "select queue.schedule_add('chaos', 'chaos_short', '{\"p\":0.01}', every_new_pairs => 3, topic => 'chaos')")
        try await scene.load.prepare()
        try await scene.fleet.ensure(3)
        scene.load.start()
        try await scene.prepare(cells, &report)
        let possible = cells.filter { report.impossible[$0] == nil }
        var dice = Dice(seed: seed)
        for trial in 0..<(possible.isEmpty ? 0 : trials) {
            let cell = possible[trial % possible.count]
            try await scene.fleet.ensure(3)
            do {
                if try await scene.strike(cell, &dice) {
                    report.trials[cell, default: 0] += 1
                } else {
                    report.missed[cell, default: 0] += 1
                }
            } catch {
                log("\(cell), trial \(trial): \(error)")
                report.missed[cell, default: 0] += 1
            }
            try await server.revive()
        }
        try await settle(scene)
        report.checks = try await Invariants.check(scene.client, acknowledged: scene.load.acknowledged)
        let samples = scene.load.samples
        report.checks.append(
            Check(
                name: "I1, I3, I5 in every snapshot on the way", examined: samples.count, violations: samples.seen.count,
                example: samples.seen.first ?? ""))
        let row = try await scene.client.query(
            """
            select count(*) filter (where what = 'in'), count(*) filter (where what = 'claim'), count(*) filter (where what = 'rescue'),
                (select count(*) from queue.worker), count(*) filter (where what = 'dead') from chaos.trace
            """)[0]
        report.figures =
            "\(try row[0].int) jobs, \(try row[1].int) claims, \(try row[2].int) rescues, \(try row[3].int) registrations, \(try row[4].int) dead"
        return report
    }

    /// Peace: nothing goes wrong any more, and everything must come to its end.
    private func settle(_ scene: Scene) async throws {
        await scene.outlast()
        await scene.makePeace()
        await scene.load.stop()
        // What schedules counted stays counted; none of them may start something new from here on.
        try await scene.client.query("select queue.schedule_pause(s.key) from queue.schedule s")
        // Longer than the interval at which a worker looks for jobs that it does not know it has.
        if let late = try await scene.stage.drain(within: 90, workers: 3) { log("left fifteen seconds after the last fault: \(late)") }
    }

    private func tearDown(_ scene: Scene) async {
        await scene.makePeace()
        await scene.load.stop()
        await scene.removeStore()
    }
}
