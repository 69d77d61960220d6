import ChaosHarness
import Testing

/// The short form of `make chaos`. One after another: they share two cores, and PostgreSQL goes up and down.
@Suite(.serialized, .timeLimit(.minutes(10))) struct ChaosTests {
    /// One server for all of them; it goes with the process.
    private static let server = Task { try await ChaosServer() }

    private func withServer(_ body: (ChaosServer) async throws -> Void) async throws { try await body(Self.server.value) }

    @Test func noFaultAtAnyPointLosesOrDoublesAJobOrAnEffect() async throws {
        try await withServer { server in
            // The server's own falls take the others' trials along, so they have a round of their own.
            let rounds: [(Set<Fault>, Int)] = [
                ([.kill, .freeze, .terminate, .error], 3), ([.network, .backend, .timeout, .exhaustion, .clock, .notify, .pinned], 2),
                ([.restart], 4),
            ]
            for (number, (faults, perFault)) in rounds.enumerated() {
                let cells = Cell.sample(faults, perFault: perFault, seed: UInt64(number))
                let report = try await Round(server: server, cells: cells, trials: cells.count, seed: UInt64(number)).run()
                #expect(report.violations.isEmpty, "\(report.violations.joined(separator: "\n"))")
                let struck = report.trials.values.reduce(0, +)
                #expect(struck * 4 >= (cells.count - report.impossible.count) * 3, "only \(struck) faults struck; missed: \(report.missed)")
                #expect(
                    report.checks.allSatisfy { $0.examined > 0 || $0.name.hasPrefix("I6") || $0.name.hasPrefix("I7") },
                    "\(report.checks.map { ($0.name, $0.examined) })")
            }
        }
    }

    @Test func whatAFrozenWorkerWritesAfterItsLeaseIsRefusedAllOfIt() async throws {
        try await withServer { server in
            let report = try await ZombieTest(server: server, trials: 400, leases: 140).run()
            #expect(report.violations.isEmpty, "\(report.violations.joined(separator: "\n"))")
            #expect(report.trials >= 400 && report.claimedAgain * 10 >= report.trials * 6, "\(report)")
            #expect(report.attempted == ZombieTest.kinds * report.trials)
        }
    }

    @Test func theJobsOfAKilledProcessRunElsewhereSoon() async throws {
        try await withServer { server in
            let report = try await RescueTest(server: server, kills: 1, seed: 1).run()
            #expect(!report.short.isEmpty && !report.long.isEmpty)
            // Three seconds are the aim, which `make chaos` holds it to; the rest is for a machine that does other things.
            #expect(report.longest < 6, "\(report.lines.joined(separator: "\n"))")
        }
    }

    @Test func aWorkerWhoseConnectionsFallSilentForGoodMakesNewOnes() async throws {
        try await withServer { server in
            // Leases of three seconds here: it gives up on its connections when the lease is over, and no sooner.
            let seconds = try #require(try await SilenceTest(server: server).run(), "it waited for ever")
            #expect(seconds < 20)
        }
    }

    @Test func everyTimeOfAScheduleMakesOneJobWhateverBecomesOfWhoeverFires() async throws {
        try await withServer { server in
            let report = try await ScheduleTest(server: server, ticks: 1000, seed: 1).run()
            #expect(report.violations.isEmpty, "\(report.violations.joined(separator: "\n"))")
            #expect(report.ticks >= 1000 && report.strikes.values.reduce(0, +) >= 4, "\(report)")
        }
    }

    @Test func anIdleWorkerHardlyShows() async throws {
        try await withServer { server in
            let report = try await IdleTest(server: server, seconds: 10).run()
            #expect(report.statements <= 2 && report.cpu <= 0.2, "\(report)")
            #expect(report.statements > 0.5, "it does sweep and beat: \(report)")
        }
    }

    @Test func aQueueWithoutFencesIsCaught() async throws {
        try await withServer { server in
            let zombies = try await ZombieTest(server: server, trials: 100, leases: 60, isBroken: true).run()
            #expect(zombies.accepted > 0 && zombies.violations.contains { $0.hasPrefix("I2") }, "\(zombies.violations)")
            let cells = [Cell(.kill, .effectBeforeCommit), Cell(.kill, .commitReplyLost)]
            let report = try await Round(server: server, cells: cells, trials: 4, seed: 4, extraFlags: ["broken=effects"]).run()
            #expect(!report.violations.isEmpty, "a worker that is broken on purpose went unnoticed")
        }
    }
}
