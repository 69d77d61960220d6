import Foundation
import Postgres
import PostgresTesting
import SeededRandom
import Testing

/// `FORETASTE_EXPLORE=1` plays two thousand sequences; `FORETASTE_SEED=n` plays the one of that seed.
private let environment = ProcessInfo.processInfo.environment

extension JobQueueDatabaseTests {
    @Suite struct Differential {
        /// The same random calls have the same answers and leave the same rows behind in the model and in PostgreSQL.
        @Test func theModelAndPostgreSQLAgree() async throws {
            let seeds: ClosedRange<UInt64> =
                environment["FORETASTE_SEED"].flatMap(UInt64.init).map { $0...$0 }
                ?? (1...(environment["FORETASTE_EXPLORE"] == nil ? 30 : 2000))
            try await withQueue { _, database in
                try await PostgresPlayer.prepare(database)
                var seen: [String: Int] = [:]
                for seed in seeds { try await play(seed, 60, database, &seen) }
                print(
                    "differential: \(seeds.count) sequences;",
                    seen.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", "))
                // Sequences in which nothing interesting happens would agree too.
                for what in [
                    "waiting", "permits", "fenced", "completed", "rescued", "retry", "dead", "requested", "released", "redriven",
                    "finished by a turn", "fenced by a turn",
                ] where seeds.count > 1 {
                    #expect(seen[what, default: 0] > 0, "no sequence came to: \(what)")
                }
            }
        }

        private func play(_ seed: UInt64, _ length: Int, _ database: TestDatabase, _ seen: inout [String: Int]) async throws {
            var random = SplitMix64(seed: seed)
            var model = ModelPlayer()
            let postgres = PostgresPlayer(database)
            try await postgres.begin()
            var given: [(lease: ModelDatabase.Lease, worker: Int)] = []
            var trace: [String] = []
            let start = ContinuousClock.now
            for step in 1...length {
                let command = Command.random(model.database, given: given, using: &random)
                let (expected, claimed) = model.play(command)
                let answer = try await postgres.play(command, claimed: claimed)
                trace.append("\(step). \(command) -> \(expected)")
                switch command {
                case .claim(let worker, _, _), .turn(let worker, _, _, _): given += claimed.map { ($0, worker) }
                default: break
                }
                note(command, expected, &seen)
                if model.database.jobs.contains(where: { $0.state == .waiting }) { seen["waiting", default: 0] += 1 }
                if !model.database.permits.isEmpty { seen["permits", default: 0] += 1 }
                let sight = try await postgres.observe()
                model.adoptOrderIfOpen(command, sight.order)
                // A model's tick is ten seconds. If the sequence itself took so long, nothing could be said.
                let took = ContinuousClock.now - start
                try #require(took < .seconds(8), "seed \(seed): the machine is too slow for \(length) commands: \(took)")
                let lines = model.observe()
                let tokens = postgres.compare(model.tokens(), with: sight)
                guard answer == expected, lines == sight.lines, tokens == nil else {
                    let missing = lines.filter { !sight.lines.contains($0) }.map { "  only the model:    \($0)" }
                    let extra = sight.lines.filter { !lines.contains($0) }.map { "  only PostgreSQL:   \($0)" }
                    Issue.record(
                        """
                        seed \(seed): PostgreSQL answers “\(answer)”, the model “\(expected)”\(tokens.map { "; " + $0 } ?? "")
                        \((trace + missing + extra).joined(separator: "\n"))
                        """)
                    break
                }
            }
            await postgres.end()
        }

        private func note(_ command: Command, _ answer: String, _ seen: inout [String: Int]) {
            let what: String? =
                switch command {
                case .complete: answer == "true" ? "completed" : "fenced"
                case .turn(_, _, _, let finishing):
                    finishing.isEmpty ? nil : answer.hasSuffix("fenced []") ? "finished by a turn" : "fenced by a turn"
                case .fail: answer
                case .release: answer == "true" ? "released" : "fenced"
                case .checkpoint: answer == "true" ? "checkpoints" : "fenced"
                case .rescue, .sweep: answer == "0" ? nil : "rescued"
                case .redrive: answer == "0" ? nil : "redriven"
                case .cancel: answer
                case .countEvents: answer == "0" ? nil : "fired"
                default: nil
                }
            seen[what ?? "other commands", default: 0] += 1
        }
    }
}

extension ModelPlayer {
    mutating func adoptOrderIfOpen(_ command: Command, _ order: [Int]) {
        switch command {
        case .rescue, .promote, .sweep, .beat: adoptOrder(order)
        // What ends may make several others ready.
        case .complete, .fail, .cancel, .acknowledgeCancel, .release: adoptOrder(order)
        default: break
        }
    }
}
