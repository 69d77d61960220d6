import Access
import Foundation
import Postgres
import Preferences
import ServiceKit
import Testing

@testable import Ingest

/// What every request that changes something promises: once only, only to know, packed, and who did it.
@Suite struct ChangeTests {
    private func rating(_ key: String, _ value: String = "\"good\"") -> String {
        """
        {"type":"rating","source":"studio","external_id":"\(key)","prompt":"p","dimension":"vq","rater":"r1","rating":\(value),\
        "latent":{"url":"http://127.0.0.1:1/a?sig=1","sha256":"\(String(repeating: "a", count: 64))"}}
        """
    }

    private func send(
        _ ingest: RunningIngest, _ method: String, _ path: String, _ body: String?, _ headers: [String: String] = [:]
    ) async throws -> RunningIngest.Answer {
        try await ingest.send(method, path, body.map { Data($0.utf8) }, headers: headers)
    }

    @Test func everyChangeIsCarriedOutOnceForAKey() async throws {
        try await RunningIngest.with { ingest in
            let id = try await ingest.post(example()).decode(RunningIngest.Stored.self).id
            let changes = [
                ("POST", "/v1/preferences/\(id)/corrections", #"{"outcome":"b","reason":"swapped"}"#, 200),
                ("POST", "/v1/snapshots", #"{"dimension":"overall"}"#, 201),
                ("PUT", "/v1/dimensions/hands", #"{"description":"Do hands have five fingers?"}"#, 201),
                ("DELETE", "/v1/preferences/\(id)?reason=misread", nil, 200),
            ]
            for (number, (method, path, body, status)) in changes.enumerated() {
                let key = ["Idempotency-Key": "k\(number)"]
                let first = try await send(ingest, method, path, body, key)
                let again = try await send(ingest, method, path, body, key)
                #expect(first.status == status && again.status == status, "\(path): \(first.text) \(again.text)")
                #expect(first.body == again.body && first.headers["location"] == again.headers["location"])
                #expect(first.headers["idempotency-replayed"] == nil && again.headers["idempotency-replayed"] == "true", "\(path)")
                // The key is that of one request.
                let other = try await send(ingest, "POST", "/v1/snapshots", #"{"dimension":"vq"}"#, key)
                #expect(other.status == 422 && other.text.contains("/problems#idempotency-key-reused"), "\(path): \(other.text)")
                #expect(try await send(ingest, method, path, body, ["Idempotency-Key": "with space"]).status == 400)
            }
            #expect(try await ingest.client.query("select 1 from preferences.snapshot").count == 1)
            #expect(try await ingest.client.query("select 1 from preferences.revision where revision > 0").count == 2)
            // A change that is refused leaves its key free.
            let path = "/v1/preferences/\(id)/corrections"
            #expect(try await send(ingest, "POST", path, #"{"outcome":"a","reason":"x"}"#, ["Idempotency-Key": "free"]).status == 409)
            let restored = try await send(
                ingest, "POST", path, #"{"retracted":false,"reason":"was right"}"#, ["Idempotency-Key": "free"])
            #expect(restored.status == 200, "\(restored.text)")
        }
    }

    @Test func aDryRunOfAChangeSaysWhatWouldBeAndLeavesEverythingAsItWas() async throws {
        try await RunningIngest.with { ingest in
            let latent = LatentSample()
            let sides = (ingest.server.put("a", latent.bytes), ingest.server.put("b", latent.with { $0.value = -0.5 }.bytes))
            let id = try await ingest.settle(pair("1", sides.0, sides.1)).id
            let before = try await ingest.send("GET", "/v1/preferences/\(id)").text
            let audited = try await ingest.client.query("select 1 from access.audit").count

            let corrected = try await send(
                ingest, "POST", "/v1/preferences/\(id)/corrections?dry_run=true", #"{"outcome":"b","reason":"swapped"}"#)
            #expect(corrected.status == 200 && corrected.text.contains(#""dry_run":true"#) && corrected.text.contains(#""outcome":"b""#))
            let retracted = try await send(ingest, "DELETE", "/v1/preferences/\(id)?reason=misread&dry_run=1", nil)
            #expect(retracted.status == 200 && retracted.text.contains("retracted_at") && retracted.text.contains(#""dry_run":true"#))
            let frozen = try await send(ingest, "POST", "/v1/snapshots?dry_run=true", #"{"dimension":"overall"}"#)
            #expect(frozen.status == 200 && frozen.headers["location"] == nil, "\(frozen.text)")
            #expect(frozen.text.contains(#""pairs":1"#) && !frozen.text.contains(#""id""#) && frozen.text.contains(#""dry_run":true"#))
            let defined = try await send(ingest, "PUT", "/v1/dimensions/hands?dry_run=true", #"{"description":"Five fingers?"}"#)
            #expect(defined.status == 200 && defined.text.contains(#""dry_run":true"#), "\(defined.text)")
            // A key is not used up, and not looked at.
            let key = ["Idempotency-Key": "k"]
            #expect(try await send(ingest, "POST", "/v1/snapshots?dry_run=true", #"{"dimension":"overall"}"#, key).status == 200)

            #expect(try await ingest.send("GET", "/v1/preferences/\(id)").text == before)
            #expect(
                try await ingest.client.query("select 1 from preferences.snapshot union all select 1 from preferences.prompt_side").isEmpty)
            #expect(try await ingest.client.query("select 1 from access.answer").isEmpty)
            #expect(try await ingest.client.query("select 1 from preferences.dimension where name = 'hands'").isEmpty)
            #expect(try await ingest.client.query("select 1 from access.audit").count == audited)
            #expect(try await send(ingest, "POST", "/v1/snapshots", #"{"dimension":"overall"}"#, key).status == 201)

            // What is wrong is said as it would be, and a parameter that is not known is never taken for a dry run.
            #expect(
                try await send(ingest, "POST", "/v1/preferences/pair_no/corrections?dry_run=true", #"{"outcome":"b","reason":"x"}"#).status
                    == 404)
            for (method, path) in [
                ("POST", "/v1/preferences/\(id)/corrections"), ("POST", "/v1/snapshots"), ("PUT", "/v1/dimensions/hands"),
                ("POST", "/v1/preferences"),
            ] {
                for query in ["dryrun=true", "dry_run=maybe", "dry_run=true&dry_run=false"] {
                    let answer = try await send(ingest, method, "\(path)?\(query)", "{}")
                    #expect(answer.status == 400 && answer.type == "application/problem+json", "\(method) \(path)?\(query): \(answer.text)")
                }
            }
        }
    }

    @Test func everyBodyMayBePackedAndNoneMayBeTooLarge() async throws {
        try await RunningIngest.with(["FORETASTE_INGEST_MAX_BODY_BYTES": "20000"]) { ingest in
            let id = try await ingest.post(example()).decode(RunningIngest.Stored.self).id
            let packed = ["Content-Encoding": "gzip"]
            let bomb = gzip(Data(repeating: 0x20, count: 1 << 20))
            #expect(bomb.count < 20_000)
            for (method, path, body, status) in [
                ("POST", "/v1/preferences/\(id)/corrections", #"{"outcome":"b","reason":"swapped"}"#, 200),
                ("POST", "/v1/snapshots", #"{"dimension":"overall"}"#, 201),
                ("PUT", "/v1/dimensions/hands", #"{"description":"Do hands have five fingers?"}"#, 201),
            ] {
                let answer = try await ingest.send(method, path, gzip(Data(body.utf8)), headers: packed)
                #expect(answer.status == status, "\(path): \(answer.text)")
                #expect(try await ingest.send(method, path, bomb, headers: packed).status == 413, "\(path)")
                #expect(try await ingest.send(method, path, Data("no gzip".utf8), headers: packed).status == 400, "\(path)")
                let strange = try await ingest.send(method, path, Data(body.utf8), headers: ["Content-Encoding": "br"])
                #expect(strange.status == 415 && strange.headers["accept-encoding"] == "gzip", "\(path)")
                #expect(try await ingest.send(method, path, Data(body.utf8), type: "text/plain").status == 415, "\(path)")
                #expect(try await ingest.send(method, path, Data("[]".utf8)).status == 422, "\(path)")
            }
        }
    }

    @Test func whoChangedSomethingStandsInTheAuditLog() async throws {
        try await RunningIngest.with { ingest in
            let id = try await ingest.post(example()).decode(RunningIngest.Stored.self).id
            let headers = ["X-Request-Id": "mine-1"]
            _ = try await send(ingest, "POST", "/v1/preferences/\(id)/corrections", #"{"outcome":"b","reason":"swapped"}"#, headers)
            _ = try await send(ingest, "DELETE", "/v1/preferences/\(id)?reason=misread", nil, headers)
            _ = try await send(ingest, "POST", "/v1/snapshots", #"{"dimension":"overall"}"#, headers)
            _ = try await send(ingest, "PUT", "/v1/dimensions/hands", #"{"description":"Five?"}"#, headers)
            let rows = try await ingest.client.query(
                "select actor, action, object, request_id, host(ip) as ip from access.audit where request_id = 'mine-1' order by id")
            #expect(
                try rows.map { try $0["action"].string } == ["label.corrected", "label.retracted", "snapshot.frozen", "dimension.defined"])
            #expect(try rows.allSatisfy { try $0["actor"].string == "key:\(ingest.key.id)" && $0["ip"].string == "127.0.0.1" })
        }
    }

    @Test func ratingsAreListedPageByPageAndCountedBesideThePairs() async throws {
        struct Page: Decodable {
            struct Item: Decodable {
                let id, type: String
                let rating: Double
            }
            let items: [Item]
            let next: String?
        }
        struct Summary: Decodable {
            let received, quarantined: Int
            let ratings: PairSummary
        }
        try await RunningIngest.with(["FORETASTE_INGEST_RETRY_SECONDS": "600"]) { ingest in
            _ = try await ingest.postLines((0..<5).map { rating("g\($0)", $0 == 4 ? "\"bad\"" : "\"good\"") } + [example()])
            let first = try await ingest.send("GET", "/v1/preferences?type=rating&limit=3").decode(Page.self)
            #expect(first.items.map(\.rating) == [1, 1, 1] && first.items.allSatisfy { $0.type == "rating" && $0.id.hasPrefix("rating_") })
            let cursor = try #require(first.next)
            let second = try await ingest.send("GET", "/v1/preferences?type=rating&limit=3&cursor=\(cursor)")
            #expect(try second.decode(Page.self).items.map(\.rating) == [1, 0])
            #expect(second.text.contains("\"next\":null") && !second.text.contains("sig=1"))
            // A place in one listing is none in another.
            let pairs = try await ingest.send("GET", "/v1/preferences?cursor=\(cursor)")
            #expect(pairs.status == 400 && pairs.text.contains("cursor"))
            for (query, count) in [
                ("state=received", 5), ("state=usable", 0), ("dimension=vq", 5), ("dimension=mq", 0), ("source=else", 0),
            ] {
                #expect(
                    try await ingest.send("GET", "/v1/preferences?type=rating&\(query)").decode(Page.self).items.count == count, "\(query)")
            }
            let ranking = try await ingest.send("GET", "/v1/preferences?type=ranking")
            #expect(ranking.status == 400 && ranking.text.contains("pair, rating"))
            #expect(try await ingest.send("GET", "/v1/preferences?type=pair").text.contains("\"items\":[{"))
            let summary = try await ingest.send("GET", "/v1/preferences/summary").decode(Summary.self)
            #expect(summary.received == 1 && summary.ratings == PairSummary(received: 5))
        }
    }
}
