import Artifacts
import Foundation
import Rewards
import ServiceKit
import Tensors
import Testing

@testable import LatentScorer

@Suite(.serialized) struct ScoringTests {
    @Test func scoresAreTheRewardsAndComeBestFirst() async throws {
        try await RunningScorer.with { scorer in
            let weights = try await scorer.promoteHead(on: try await scorer.importBackbone(), seed: 1)
            let expected = try weights.scores(
                .init(
                    latents: RunningScorer.latents, timestep: Array(repeating: 500, count: 5),
                    promptEmbeds: Tensor.stack(Array(repeating: RunningScorer.prompt, count: 5)),
                    condition: Tensor.stack(Array(repeating: RunningScorer.condition, count: 5))))
            let answer = try await scorer.send("/v1/score", RunningScorer.body())
            #expect(answer.status == 200 && answer.type == "application/json", "\(answer.text)")
            let scores = try answer.scores
            #expect(scores.model.name == "reward-overall" && scores.model.version == 1 && scores.keep == nil)
            #expect(scores.results.map(\.score) == expected.sorted(by: >))
            #expect(scores.results.allSatisfy { $0.score == expected[$0.index] })
            #expect(scores.timing.compute_ms > 0 && scores.timing.queue_ms >= 0)

            let kept = try await scorer.send("/v1/best-of-n?keep=2&model=reward-overall@champion", RunningScorer.body()).scores
            #expect(kept.keep == scores.results.prefix(2).map(\.index))

            // The same in another shape: prompts and conditions one a candidate, the backbone by its version, sigma alone.
            let spread = RunningScorer.body(
                [
                    "prompt_embeds": Tensor.stack(Array(repeating: RunningScorer.prompt, count: 5)),
                    "condition": Tensor.stack(Array(repeating: RunningScorer.condition, count: 5)),
                ], metadata: ["backbone": "tiny:1", "noise.timestep": nil])
            #expect(try await scorer.send("/v1/score", spread).scores.results.map(\.score) == expected.sorted(by: >))
        }
    }

    @Test func readyWithoutAModelAndSaysThatThereIsNone() async throws {
        try await RunningScorer.with { scorer in
            #expect(try await scorer.send("/readyz", method: "GET").status == 200)
            let none = try await scorer.send("/v1/score", RunningScorer.body())
            #expect(none.status == 409 && none.type == "application/problem+json" && none.text.contains("train a reward first"))
            let unknown = try await scorer.send("/v1/score?model=nobody@champion", RunningScorer.body())
            #expect(unknown.status == 404 && unknown.text.contains("there is no model 'nobody@champion'"))
            let document = try await scorer.send("/openapi.json", method: "GET")
            let object = try #require(try JSONSerialization.jsonObject(with: document.body) as? [String: Any])
            #expect(object["openapi"] as? String == "3.1.0")
            #expect(
                (object["paths"] as? [String: Any])?.keys.sorted() == [
                    "/livez", "/metrics", "/openapi.json", "/problems", "/readyz", "/v1/best-of-n", "/v1/score", "/version",
                ])
        }
    }

    @Test func anAliasThatMovesChangesTheAnswerAndFailsNoRequest() async throws {
        try await RunningScorer.with { scorer in
            let trunk = try await scorer.importBackbone()
            try await scorer.promoteHead(on: trunk, seed: 1)
            #expect(try await scorer.send("/v1/score", RunningScorer.body()).scores.model.version == 1)
            try await scorer.promoteHead(on: trunk, seed: 2)
            var versions: [Int] = []
            for _ in 0..<100 {
                let answer = try await scorer.send("/v1/score", RunningScorer.body())
                #expect(answer.status == 200, "\(answer.text)")
                versions.append(try answer.scores.model.version)
                if versions.last == 2 { break }
                try await Task.sleep(for: .milliseconds(20))
            }
            #expect(versions.last == 2 && versions == versions.sorted())
            #expect(try await scorer.send("/v1/score?model=reward-overall:1", RunningScorer.body()).scores.model.version == 1)
        }
    }

    @Test func latentsByURL() async throws {
        try await RunningScorer.with { scorer in
            try await scorer.promoteHead(on: try await scorer.importBackbone(), seed: 1)
            let stored = try await scorer.store.put(RunningScorer.body())
            func json(_ url: String, _ sha256: String, _ more: String = "") -> [UInt8] {
                Array(#"{"latents":{"url":"\#(url)","sha256":"\#(sha256)"}\#(more)}"#.utf8)
            }
            let direct = try await scorer.send("/v1/score", RunningScorer.body()).scores
            let fetched = try await scorer.send("/v1/score", json(stored.url, stored.sha256), type: "application/json")
            #expect(fetched.status == 200, "\(fetched.text)")
            #expect(try fetched.scores.results.map(\.score) == direct.results.map(\.score))
            let noisier = try await scorer.send(
                "/v1/score", json(stored.url, stored.sha256, #","metadata":{"noise.sigma":"0.9","noise.timestep":"900"}"#),
                type: "application/json")
            #expect(try noisier.scores.results.map(\.score) != direct.results.map(\.score))

            let wrong = try await scorer.send("/v1/score", json(stored.url, String(repeating: "a", count: 64)), type: "application/json")
            #expect(wrong.status == 422)
            #expect(try wrong.pointers == ["/latents/url"])
            let forbidden = try await scorer.send(
                "/v1/score", json("http://169.254.169.254/x", stored.sha256), type: "application/json")
            #expect(forbidden.status == 422 && forbidden.text.contains("may not be fetched"))
            let strange = try await scorer.send("/v1/score", Array(#"{"latents":{"url":"x"},"more":1}"#.utf8), type: "application/json")
            #expect(try strange.pointers == ["/latents/sha256", "/more"])
            #expect(try await scorer.send("/v1/score", Array("{".utf8), type: "application/json").status == 422)
        }
    }

    @Test func badInputIsNamedAndTheServiceStaysUp() async throws {
        try await RunningScorer.with(["FORETASTE_SCORER_MAX_BODY_BYTES": "65536"]) { scorer in
            try await scorer.promoteHead(on: try await scorer.importBackbone(), seed: 1)
            func pointers(_ body: [UInt8]) async throws -> [String] {
                let answer = try await scorer.send("/v1/score", body)
                #expect(answer.status == 422 && answer.type == "application/problem+json", "\(answer.status) \(answer.text)")
                return try answer.pointers
            }
            typealias R = RunningScorer
            #expect(try await pointers(Array("no safetensors".utf8)) == [""])
            #expect(try await pointers(Array(R.body().dropLast(9))) == [""])
            #expect(try await pointers(R.body(without: "latents")) == ["/latents"])
            #expect(try await pointers(R.body(without: "prompt_embeds")) == ["/prompt_embeds"])
            #expect(try await pointers(R.body(without: "condition")) == ["/condition"])
            #expect(try await pointers(R.body(["latents": Tensor(full: .nan, shape: [5, 4, 2, 4, 4])])) == ["/latents"])
            #expect(try await pointers(R.body(["latents": R.tensor([5, 3, 2, 4, 4], seed: 1)])) == ["/latents"])
            #expect(try await pointers(R.body(["latents": R.tensor([4, 2, 4, 4], seed: 1)])) == ["/latents"])
            #expect(try await pointers(R.body(["latents": Tensor(scalar: 1)])) == ["/latents"])
            #expect(try await pointers(R.body(["latents": R.tensor([5, 4, 2, 3, 4], seed: 1)])) == ["/latents", "/condition"])
            #expect(try await pointers(R.body(["prompt_embeds": R.tensor([3, 9], seed: 1)])) == ["/prompt_embeds"])
            #expect(try await pointers(R.body(["prompt_embeds": R.tensor([4, 3, 10], seed: 1)])) == ["/prompt_embeds"])
            #expect(try await pointers(R.body(["image_embeds": R.tensor([3, 9], seed: 1)])) == ["/image_embeds"])
            let keys = [("vae", "other"), ("layout", "CHW"), ("space", "vae_raw"), ("noise.kind", "vp_eps"), ("noise.sigma", "2")]
            for (key, value) in keys { #expect(try await pointers(R.body(metadata: [key: value])) == ["/__metadata__/\(key)"], "\(key)") }
            #expect(try await pointers(R.body(metadata: ["noise.timestep": "700"])) == ["/__metadata__/noise.timestep"])
            #expect(try await pointers(R.body(metadata: ["noise.timestep": nil, "noise.sigma": nil])) == ["/__metadata__/noise.timestep"])
            #expect(try await pointers(R.body(metadata: ["backbone": nil])) == ["/__metadata__/backbone"])
            #expect(try await pointers(R.body(metadata: ["backbone": "tiny:2"])) == ["/__metadata__/backbone"])
            #expect(try await pointers(R.body(["latents": Tensor(full: 1e30, shape: [5, 4, 2, 4, 4])])) == ["/latents"])

            let large = R.body(["latents": R.tensor([200, 4, 2, 4, 4], seed: 1)])
            #expect(try await scorer.send("/v1/score", large).status == 413)
            #expect(try await scorer.send("/v1/score", R.body(), type: "text/plain").status == 415)
            #expect(try await scorer.send("/v1/score?modle=x", R.body()).status == 400)
            for keep in ["", "?keep=0", "?keep=6", "?keep=x"] {
                #expect(try await scorer.send("/v1/best-of-n\(keep)", R.body()).status == 400, "\(keep)")
            }
            #expect(try await scorer.send("/v1/score", method: "GET").status == 405)
            #expect(try await scorer.send("/v1/score?model=tiny:1", R.body()).status == 404)
            #expect(try await scorer.send("/v1/score", R.body()).status == 200)
        }
    }
}
