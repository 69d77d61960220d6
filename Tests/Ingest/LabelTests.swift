import Access
import Foundation
import Postgres
import Preferences
import ServiceKit
import Testing

@testable import Ingest

/// Labels of every kind over HTTP: taken, refused with reasons, changed, frozen, read out.
@Suite struct LabelTests {
    private func fields(_ extra: String, outcome: String? = "a") -> String {
        let said = [outcome.map { "\"outcome\":\"\($0)\"" }, extra.isEmpty ? nil : extra].compactMap { $0 }.joined(separator: ",")
        return example("42", ("\"outcome\":\"a\"", said))
    }

    private func ranking(_ items: [(String, String)], key: String = "r1") -> String {
        let texts = items.map { letter, rank in
            "{\"url\":\"http://127.0.0.1:1/\(letter)\",\"sha256\":\"\(String(repeating: letter, count: 64))\",\"rank\":\(rank)}"
        }
        return """
            {"type":"ranking","source":"studio","external_id":"\(key)","prompt":"p","dimension":"overall","rater":"r1",\
            "items":[\(texts.joined(separator: ","))]}
            """
    }

    private func rating(_ said: String, key: String = "g1") -> String {
        """
        {"type":"rating","source":"studio","external_id":"\(key)","prompt":"p","dimension":"overall","rater":"r1",\
        "latent":{"url":"http://127.0.0.1:1/a","sha256":"\(String(repeating: "a", count: 64))"},\(said)}
        """
    }

    @Test func whatContradictsItselfIsRefusedByItsPointer() async throws {
        try await RunningIngest.with { ingest in
            let cases: [(String, [String])] = [
                (fields("\"strength\":1", outcome: nil), ["/outcome"]),
                (fields("\"votes\":{\"a\":3}"), ["/votes/b"]), (fields("\"votes\":{\"a\":0,\"b\":0}"), ["/votes"]),
                (fields("\"votes\":{\"a\":-1,\"b\":2}"), ["/votes/a"]), (fields("\"votes\":{\"a\":1,\"b\":0,\"c\":1}"), ["/votes/c"]),
                (fields("\"votes\":[3,1]"), ["/votes"]), (fields("\"votes\":{\"a\":1,\"b\":3}"), ["/votes"]),
                (fields("\"votes\":{\"a\":1,\"b\":3}", outcome: "skip"), ["/votes"]),
                (fields("\"soft_label\":0.4"), ["/soft_label"]), (fields("\"soft_label\":0.6", outcome: "b"), ["/soft_label"]),
                (fields("\"soft_label\":1.5"), ["/soft_label"]), (fields("\"soft_label\":\"high\""), ["/soft_label"]),
                (fields("\"soft_label\":0.5", outcome: "both_bad"), ["/soft_label"]),
                (fields("\"margin\":-1"), ["/margin"]), (fields("\"margin\":1", outcome: "tie"), ["/margin"]),
                (fields("\"strength\":4"), ["/strength"]), (fields("\"strength\":0"), ["/strength"]),
                (fields("\"strength\":2", outcome: "skip"), ["/strength"]), (fields("\"presentation\":\"left\""), ["/presentation"]),
                (fields("\"type\":\"triplet\""), ["/type"]), (fields("\"rank\":1"), ["/rank"]),
                (ranking([("a", "1")]), ["/items"]), (ranking([("a", "1"), ("a", "2")]), ["/items/1/sha256"]),
                (ranking([("a", "0"), ("b", "2")]), ["/items/0/rank"]), (ranking([("a", "1"), ("x", "2")]), ["/items/1/sha256"]),
                (ranking(Array(repeating: ("a", "1"), count: 21)), ["/items"]),
                (rating("\"rating\":\"fine\""), ["/rating"]), (rating("\"rating\":4"), ["/scale"]),
                (rating("\"rating\":\"good\",\"scale\":{\"min\":1,\"max\":5}"), ["/scale"]),
                (rating("\"rating\":6,\"scale\":{\"min\":1,\"max\":5}"), ["/rating"]),
                (rating("\"rating\":4,\"scale\":{\"min\":5,\"max\":5}"), ["/scale/max"]),
                (rating("\"scale\":{\"min\":1,\"max\":5}"), ["/rating"]),
            ]
            for (json, pointers) in cases {
                let answer = try await ingest.post(json)
                #expect(answer.status == 422, "\(json.prefix(300))")
                #expect(try answer.pointers == pointers, "\(json.prefix(400)) → \(answer.text.prefix(300))")
            }
            #expect(try await ingest.store.summary() == PairSummary())
        }
    }

    @Test func labelsOfAllKindsAreTakenOneByOneAndTogether() async throws {
        try await RunningIngest.with { ingest in
            let votes = try await ingest.post(fields("\"votes\":{\"a\":1,\"b\":3},\"presentation\":\"ba\"", outcome: nil))
            #expect(votes.status == 201, "\(votes.text)")
            let stored = try #require(try await ingest.store.get(try votes.decode(RunningIngest.Stored.self).id))
            // The outcome follows from the votes.
            #expect(stored.pair.label == PairLabel(.b, votes: Votes(a: 1, b: 3), presentation: .ba))
            let shown = try await ingest.send("GET", "/v1/preferences/\(stored.id)").text
            #expect(shown.contains("\"votes\":{\"a\":1,\"b\":3,\"both_bad\":0,\"tie\":0}") && shown.contains("\"presentation\":\"ba\""))

            let lines = [
                ranking([("a", "2"), ("b", "1"), ("c", "2")]), rating("\"rating\":4,\"scale\":{\"min\":1,\"max\":5}"),
                rating("\"rating\":\"bad\"", key: "g2"), example("43", ("\"outcome\":\"a\"", "\"outcome\":\"both_bad\"")),
                ranking([("a", "2")], key: "r2"), example("44", ("\"outcome\":\"a\"", "\"soft_label\":0.8,\"strength\":2")),
            ]
            let bulk = try await ingest.postLines(lines)
            #expect(bulk.status == 207, "\(bulk.text)")
            let results = try bulk.decode(PostTests.Bulk.self).results
            #expect(results.map(\.status) == [201, 201, 201, 201, 422, 201])
            let again = try await ingest.postLines(lines).decode(PostTests.Bulk.self)
            #expect(again.results.map(\.status) == [200, 200, 200, 200, 422, 200] && again.results.map(\.id) == results.map(\.id))

            let ranked = try await ingest.send("GET", "/v1/preferences/\(results[0].id!)")
            #expect(ranked.status == 200 && ranked.text.contains("\"type\":\"ranking\"") && ranked.text.contains("\"pairs\":[\"pair_"))
            let rated = try await ingest.send("GET", "/v1/preferences/\(results[1].id!)")
            #expect(rated.status == 200 && rated.text.contains("\"scale\":{\"max\":5,\"min\":1}") && rated.text.contains("\"rating\":4"))
            let conflict = try await ingest.post(ranking([("a", "1"), ("b", "1"), ("c", "2")]))
            #expect(conflict.status == 409)
            #expect(try conflict.pointers == ["/items"])
            #expect(conflict.text.contains("the ranking ranking_"))
        }
    }

    @Test func aRatedLatentIsVerifiedAsASideOfAPairIs() async throws {
        try await RunningIngest.with { ingest in
            let sound = ingest.server.put("a", LatentSample().bytes)
            func document(_ key: String, _ side: PairSide) throws -> String {
                let rating = NewRating(
                    source: "studio", externalID: key, prompt: "p", dimension: "overall", rater: "r1", latent: side, rating: 3,
                    scale: .init(min: 1, max: 5))
                return String(decoding: try JSONEncoder().encode(rating), as: UTF8.self).replacing(
                    "{\"", with: "{\"type\":\"rating\",\"", maxReplacements: 1)
            }
            let good = try await ingest.post(try document("1", sound)).decode(RunningIngest.Stored.self)
            let bad = try await ingest.post(try document("2", PairSide(url: sound.url, sha256: String(repeating: "0", count: 64))))
                .decode(RunningIngest.Stored.self)
            #expect(try await ingest.settled(good.id).state == "usable")
            let refused = try await ingest.settled(bad.id)
            #expect(refused.state == "quarantined" && refused.reason?.contains("/latent/sha256") == true, "\(refused)")
        }
    }

    @Test func anUnknownDimensionIsRefusedUntilItIsDefined() async throws {
        try await RunningIngest.with { ingest in
            let hands = example("42", ("\"overall\"", "\"hands\""))
            let refused = try await ingest.post(hands)
            #expect(refused.status == 422)
            #expect(try refused.pointers == ["/dimension"])
            #expect(refused.text.contains("mq, overall, ta, vq"))
            func put(_ name: String, _ body: String) async throws -> RunningIngest.Answer {
                try await ingest.send("PUT", "/v1/dimensions/\(name)", Data(body.utf8))
            }
            #expect(try await put("hands", "{}").status == 422)
            #expect(try await put("two%20hands", "{\"description\":\"?\"}").status == 400)
            let created = try await put("hands", "{\"description\":\"Do hands have five fingers?\"}")
            #expect(created.status == 201 && created.text.contains("five fingers"))
            #expect(try await put("hands", "{\"description\":\"Five?\"}").status == 200)
            #expect(try await ingest.post(hands).status == 201)
            #expect(try await ingest.send("GET", "/v1/dimensions").text.contains("\"name\":\"hands\""))
            // By SQL it counts at once too.
            #expect(try await ingest.post(example("43", ("\"overall\"", "\"feet\""))).status == 422)
            try await ingest.client.query("select preferences.define_dimension('feet')")
            #expect(try await ingest.post(example("43", ("\"overall\"", "\"feet\""))).status == 201)
        }
    }

    @Test func aLabelIsCorrectedRetractedAndRestoredWithItsHistory() async throws {
        try await RunningIngest.with { ingest in
            let id = try await ingest.post(example()).decode(RunningIngest.Stored.self).id
            func correct(_ body: String, id: String = id) async throws -> RunningIngest.Answer {
                try await ingest.send("POST", "/v1/preferences/\(id)/corrections", Data(body.utf8))
            }
            #expect(try await correct("{\"outcome\":\"b\"}").pointers == ["/reason"])
            #expect(try await correct("{\"outcome\":\"left\",\"reason\":\"x\"}").pointers == ["/outcome"])
            #expect(try await correct("{\"outcome\":\"b\",\"reason\":\"x\",\"prompt\":\"y\"}").pointers == ["/prompt"])
            #expect(try await correct("{\"outcome\":\"b\",\"reason\":\"x\"}", id: "pair_none").status == 404)
            let corrected = try await correct("{\"outcome\":\"b\",\"strength\":1,\"reason\":\"sides were swapped\",\"by\":\"ada\"}")
            #expect(corrected.status == 200 && corrected.text.contains("\"outcome\":\"b\"") && corrected.text.contains("\"revision\":1"))

            #expect(try await ingest.send("DELETE", "/v1/preferences/\(id)").status == 400)
            let retracted = try await ingest.send("DELETE", "/v1/preferences/\(id)?reason=wrong%20clip&by=bob")
            #expect(retracted.status == 200 && retracted.text.contains("\"retracted_at\":\"20"), "\(retracted.text)")
            #expect(try await ingest.send("DELETE", "/v1/preferences/\(id)?reason=again").text.contains("\"revision\":2"))
            #expect(try await correct("{\"outcome\":\"a\",\"reason\":\"x\"}").status == 409)
            #expect(try await correct("{\"retracted\":true,\"reason\":\"x\"}").pointers == ["/retracted"])
            let restored = try await correct("{\"retracted\":false,\"reason\":\"was right\"}")
            #expect(restored.status == 200 && !restored.text.contains("retracted_at"))

            struct History: Decodable {
                struct Entry: Decodable {
                    let revision: Int
                    let action: String
                    let label: PairLabel
                    let by: String
                    let reason: String?
                }
                let items: [Entry]
            }
            let history = try await ingest.send("GET", "/v1/preferences/\(id)/history").decode(History.self).items
            #expect(history.map(\.action) == ["posted", "corrected", "retracted", "restored"])
            #expect(history.map(\.by) == ["r1", "ada", "bob", "key:\(ingest.key.id)"])
            #expect(history.map(\.reason) == [nil, "sides were swapped", "wrong clip", "was right"])
            #expect(history.map(\.label.outcome) == [.a, .b, .b, .b])
            #expect(try await ingest.send("GET", "/v1/preferences/pair_none/history").status == 404)

            let rated = try await ingest.post(rating("\"rating\":4,\"scale\":{\"min\":1,\"max\":5}")).decode(RunningIngest.Stored.self).id
            #expect(try await correct("{\"rating\":6,\"reason\":\"x\"}", id: rated).pointers == ["/rating"])
            #expect(try await correct("{\"rating\":2,\"reason\":\"x\"}", id: rated).text.contains("\"rating\":2"))
            let ranked = try await ingest.post(ranking([("a", "1"), ("b", "2")])).decode(RunningIngest.Stored.self).id
            #expect(try await correct("{\"outcome\":\"a\",\"reason\":\"x\"}", id: ranked).status == 409)
            #expect(try await ingest.send("DELETE", "/v1/preferences/\(ranked)?reason=x").text.contains("retracted_at"))
        }
    }

    @Test func aSnapshotIsFrozenDescribedAndStreamed() async throws {
        try await RunningIngest.with { ingest in
            let descriptor = PairDescriptor(
                backbone: "wan-test", vae: "codec", layout: "CFHW", noiseKind: "flow", shape: [4, 3, 2, 2], tensors: [:])
            let pairs = (0..<1500).map { number in
                NewPair(
                    source: "studio", externalID: String(format: "%04d", number), prompt: "prompt \(number % 40)", dimension: "overall",
                    outcome: .a, rater: "r1", a: PairSide(url: "http://127.0.0.1:1/a?secret=1", sha256: String(repeating: "a", count: 64)),
                    b: PairSide(url: "http://127.0.0.1:1/b?secret=1", sha256: String(repeating: "b", count: 64)))
            }
            // Without a verification job that would look for files.
            let store = ingest.store
            try await ingest.client.transaction { connection in
                let results = try await store.post(pairs.map(NewLabel.pair), on: connection)
                let ids = results.compactMap { if case .created(let id) = $0 { id } else { nil } }
                try await store.settle(ids.map { .usable($0, descriptor) }, on: connection)
            }
            #expect(try await ingest.send("POST", "/v1/snapshots", Data("{\"dimension\":\"none\"}".utf8)).pointers == ["/dimension"])
            let frozen = try await ingest.send("POST", "/v1/snapshots", Data("{\"dimension\":\"overall\"}".utf8))
            #expect(frozen.status == 201, "\(frozen.text)")
            let path = try #require(frozen.headers["location"])
            struct Summary: Decodable, Equatable {
                let id, pairs, train, prompts: Int
                let digest: String
            }
            let summary = try await ingest.send("GET", path).decode(Summary.self)
            #expect(try frozen.decode(Summary.self) == summary)
            #expect(summary.pairs == 1500 && summary.prompts == 40 && summary.digest.utf8.count == 64)
            #expect(try await ingest.send("GET", "/v1/snapshots?dimension=overall").text.contains(summary.digest))

            let lines = try await ingest.send("GET", "\(path)/pairs")
            #expect(lines.status == 200 && lines.type == "application/x-ndjson" && !lines.text.contains("secret"))
            let keys = try lines.text.split(separator: "\n").map { line in
                try #require((try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])?["external_id"] as? String)
            }
            #expect(keys == pairs.map(\.externalID))
            #expect(try await ingest.send("GET", "\(path)/comparisons").text.split(separator: "\n").count == 40)
            #expect(try await ingest.send("GET", "\(path)/ratings").body.isEmpty)
            for unknown in ["/v1/snapshots/999", "/v1/snapshots/x", "/v1/snapshots/999/pairs", "\(path)/files"] {
                #expect(try await ingest.send("GET", unknown).status == 404, "\(unknown)")
            }
        }
    }
}
