import ChaosHarness
import Testing

/// The short form of `make chaos`. One after another: they share two cores, and PostgreSQL goes up and down.
@Suite(.serialized) struct ChaosTests {
    private func report(_ cells: [Cell], trials: Int, seed: UInt64, flags: [String] = []) async throws -> RoundReport {
        let server = try await ChaosServer()
        do {
            let report = try await Round(server: server, cells: cells, trials: trials, seed: seed, extraFlags: flags).run()
            await server.stop()
            return report
        } catch {
            await server.stop()
            throw error
        }
    }

    private func expectClean(_ report: RoundReport, trials: Int) {
        #expect(report.violations.isEmpty, "\(report.violations.joined(separator: "\n"))")
        let struck = report.trials.values.reduce(0, +)
        #expect(struck * 4 >= trials * 3, "only \(struck) of \(trials) faults struck: \(report.missed)")
        #expect(report.checks.first.map { $0.examined > 50 } ?? false, "\(report.figures)")
    }

    @Test func processesThatDieFreezeOrFailLoseNothingAndDoubleNothing() async throws {
        let cells = Cell.all.filter { [.kill, .freeze, .terminate, .error].contains($0.fault) && $0.point != .fanIn }
        expectClean(try await report(cells, trials: cells.count, seed: 1), trials: cells.count)
    }

    @Test func theNetworkTheServerAndTheClockMayFailAtAnyPoint() async throws {
        let cells = Cell.all.filter {
            [.network, .backend, .timeout, .exhaustion, .clock, .notify, .pinned].contains($0.fault) && $0.point != .fanIn
        }
        expectClean(try await report(cells, trials: cells.count, seed: 2), trials: cells.count)
    }

    @Test func theServerMayGoDownAtAnyPoint() async throws {
        let cells = Cell.all.filter { $0.fault == .restart && $0.point != .fanIn }
        expectClean(try await report(cells, trials: cells.count, seed: 3), trials: cells.count)
    }

    @Test func effectsApartFromTheirCompletionAreCaught() async throws {
        let cells = [Cell(.kill, .effectBeforeCommit), Cell(.kill, .commitReplyLost)]
        let report = try await report(cells, trials: 6, seed: 4, flags: ["broken=effects"])
        #expect(!report.violations.isEmpty, "a worker that is broken on purpose went unnoticed")
    }
}
