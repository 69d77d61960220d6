import Foundation
import Glibc
import JobQueue
import Postgres
import PostgresTesting
import Preferences
import Rewards
import Testing

@testable import RewardTrainer

/// Real PostgreSQL, real artifacts, one test after another: they measure and share two cores.
@Suite(.serialized) struct TrainingJobTests {
    private static let long = ["steps": "1500", "batch": "24", "checkpoint_steps": "25", "draws": "4", "learning_rate": "0.003"]

    @Test func aTrainerKilledInTheMiddleGoesOnAndEndsWithTheSameHead() async throws {
        try await TinySystem.with { system in
            try await system.importBackbone()
            try await system.postPairs(groups: 3)
            let killed = try await system.train(Self.long.merging(["name": "killed", "backbone": "tiny"]) { own, _ in own })
            let first = try await system.startProcess()
            // Two checkpoints: the second kill-proofs that the newest one is taken.
            for _ in 0..<6000 {
                let rows = try await system.database.client.query(
                    "select count(*) as n from queue.checkpoint where job_id = $1", [.int(killed)])
                if try rows[0]["n"].int >= 2 { break }
                try await Task.sleep(for: .milliseconds(5))
            }
            kill(first.identifier, SIGKILL)
            _ = await first.exitStatus()
            let state = try await system.queue.show(killed).state
            #expect(!state.isTerminal, "the job was over before the trainer was killed")

            let second = try await system.startProcess()
            let whole = try await system.train(Self.long.merging(["name": "whole", "backbone": "tiny:1"]) { own, _ in own })
            let record = try await system.queue.finished(killed)
            #expect(record.state == .succeeded, "\(record.error ?? "")")
            #expect(record.attempt == 2)
            #expect(try await system.queue.finished(whole).state == .succeeded)
            kill(second.identifier, SIGTERM)
            #expect(await second.exitStatus() == 0)

            let (a, b) = (try await system.registry.resolve("killed@champion"), try await system.registry.resolve("whole@champion"))
            // The manifest's digest stands for the whole folder: head, configuration and metrics.
            #expect(a.model.sha256 == b.model.sha256)
            #expect(a.model.files.map(\.path) == ["config.json", "head.safetensors", "metrics.json"])
            #expect(a.version == 1 && a.jobID == killed && a.model.backbone == "tiny:1" && a.model.dimension == "overall")
            let report = try JSONDecoder().decode(RewardReport.self, from: Data(a.model.metrics.utf8))
            #expect(report.accuracy.map(\.timestep) == [990, 950, 900, 800, 700, 500, 300, 100, 0])
            #expect(report.accuracy[7].accuracy > 0.7, "\(report)")
            #expect(report.evaluated_on == "held-out pairs" && report.training_pairs + report.held_out_pairs == 72 && report.clips == 48)
            let lineage = try #require(try JSONSerialization.jsonObject(with: Data(a.model.lineage.utf8)) as? [String: Any])
            #expect((lineage["snapshot"] as? NSNumber)?.int64Value != nil)
            let fetches = try await ArtifactFetchLog(client: system.database.client).list()
            #expect(fetches.contains { $0.service == "reward-trainer" })
        }
    }

    @Test func whatCannotBeTrainedSaysWhyAndTheServiceGoesOn() async throws {
        try await TinySystem.with { system in
            try await system.withService {
                func reason(_ settings: [String: String]) async throws -> String {
                    let record = try await system.queue.finished(try await system.train(settings))
                    #expect(record.state == .dead)
                    return record.error ?? ""
                }
                #expect(try await reason([:]).contains("no backbone is registered"))
                try await system.importBackbone()
                #expect(try await reason(["backbone": "other"]).contains("there is no model 'other'"))
                #expect(try await reason(["backbone": "tiny"]).contains("there are no usable pairs of dimension 'overall'"))
                #expect(try await reason(["learning_rat": "1"]).contains("learning_rat"))
                #expect(try await reason(["head": "linear"]).contains("prism, pavrm"))
                try await system.postPairs(groups: 1)
                #expect(try await reason(["block": "9", "steps": "1"]).contains("block 9 is asked for"))
                let record = try await system.queue.finished(
                    try await system.train(["steps": "5", "batch": "8", "head": "pavrm", "loss": "bce"]))
                #expect(record.state == .succeeded, "\(record.error ?? "")")
                #expect(try await system.registry.resolve("reward-overall@champion").version == 1)
            }
        }
    }

    @Test func latentsOfAnotherBackboneAreRefusedByName() async throws {
        try await TinySystem.with { system in
            try await system.importBackbone(inChannels: 9)
            try await system.postPairs(groups: 1)
            try await system.withService {
                let record = try await system.queue.finished(try await system.train(["steps": "1"]))
                #expect(record.state == .dead)
                #expect(record.error?.contains("latents have 4 channels and condition 1, but the backbone tiny:1 takes 9 in all") == true)
            }
        }
    }

    @Test func aRegisteredHeadIsMeasuredOnThePairsThereAre() async throws {
        try await TinySystem.with { system in
            try await system.importBackbone()
            try await system.postPairs(groups: 2)
            try await system.withService {
                let trained = try await system.queue.finished(try await system.train(["steps": "30", "batch": "16"]))
                #expect(trained.state == .succeeded, "\(trained.error ?? "")")
                let job = try await system.queue.enqueue(kind: "evaluate_reward", arguments: ["reward": "reward-overall@champion"])
                let record = try await system.queue.finished(job)
                #expect(record.state == .succeeded, "\(record.error ?? "")")
                #expect(record.result?.contains("reward-overall:1") == true)
            }
        }
    }

    @Test func aHeadThatIsNotBetterDoesNotBecomeChampion() async throws {
        try await TinySystem.with { system in
            try await system.importBackbone()
            try await system.postPairs(groups: 2)
            try await system.withService {
                for _ in 0..<2 {
                    let record = try await system.queue.finished(try await system.train(["steps": "20", "batch": "16"]))
                    #expect(record.state == .succeeded, "\(record.error ?? "")")
                }
                // The same data and settings give the same head, which is not better than itself.
                #expect(try await system.registry.resolve("reward-overall@champion").version == 1)
                #expect(try await system.registry.resolve("reward-overall@latest").version == 2)
                let history = try await system.registry.history("reward-overall", alias: "champion")
                #expect(history.map(\.moved) == [true, false])
                #expect(history[1].reason.contains("not better than"))
            }
        }
    }

    @Test func theGateSaysWhy() {
        let first = RewardGate.decide(accuracy: 0.8, pairs: 100, evaluatedOn: "held-out pairs", champion: .none)
        #expect(first.promotes && first.reason == "the first of its name, accuracy 80.00 % on 100 held-out pairs")
        let worse = RewardGate.decide(
            accuracy: 0.7, pairs: 100, evaluatedOn: "held-out pairs", champion: .measured(reference: "r:1", accuracy: 0.7))
        #expect(!worse.promotes && worse.reason.contains("not better than the 70.00 % of r:1"))
        let better = RewardGate.decide(
            accuracy: 0.71, pairs: 100, evaluatedOn: "held-out pairs", champion: .measured(reference: "r:1", accuracy: 0.7))
        #expect(better.promotes)
        let other = RewardGate.decide(
            accuracy: 0.5, pairs: 10, evaluatedOn: "held-out pairs", champion: .incomparable(reference: "r:1", why: "another backbone"))
        #expect(other.promotes && other.reason.contains("r:1 cannot be compared: another backbone"))
    }
}
