import Access
import Foundation
import Postgres
import Preferences
import ServiceKit
import Testing

@testable import Ingest

/// What a client may ask for beside the body: once only, all or nothing, only to know, packed.
@Suite struct PostOptionsTests {
    private func lines(_ range: Range<Int>, broken: Set<Int> = []) -> String {
        range.map { broken.contains($0) ? "{" : example(String($0)) }.joined(separator: "\n")
    }

    private func post(
        _ ingest: RunningIngest, _ body: Data, _ query: String = "", type: String = "application/json", headers: [String: String] = [:]
    ) async throws -> RunningIngest.Answer {
        try await ingest.send("POST", "/v1/preferences" + query, body, type: type, headers: headers)
    }

    private func bulk(
        _ ingest: RunningIngest, _ body: String, _ query: String = "", _ headers: [String: String] = [:]
    ) async throws -> RunningIngest.Answer {
        try await post(ingest, Data(body.utf8), query, type: "application/x-ndjson", headers: headers)
    }

    @Test func aRequestWithTheSameKeyGetsTheSameAnswer() async throws {
        try await RunningIngest.with { ingest in
            let key = ["Idempotency-Key": "\"8e03978e-40d5-43dd-bc93-6894a57f9324\""]
            let first = try await post(ingest, Data(example("1").utf8), headers: key)
            #expect(first.status == 201 && first.headers["idempotency-replayed"] == nil)
            // Without quotation marks it is the same key; 201 again, where a second post alone would be a 200.
            let again = try await post(
                ingest, Data(example("1").utf8), headers: ["Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"])
            #expect(again.status == 201 && again.body == first.body && again.headers["location"] == first.headers["location"])
            #expect(again.headers["idempotency-replayed"] == "true" && again.headers["x-request-id"] != first.headers["x-request-id"])
            let other = try await post(ingest, Data(example("2").utf8), headers: key)
            #expect(other.status == 422 && other.text.contains("/problems#idempotency-key-reused"))
            #expect(try await post(ingest, Data(example("1").utf8), "?dry_run=false", headers: key).status == 422)

            // A key belongs to whoever sent it.
            let stranger = try await KeyStore(client: ingest.client).create(name: "stranger", scopes: [.ingest])
            let theirs = try await ingest.send(
                "POST", "/v1/preferences", Data(example("1").utf8), headers: key, authorization: "Bearer \(stranger.text)")
            #expect(theirs.status == 200)

            let body = lines(10..<1210, broken: [50, 900])
            let many = try await bulk(ingest, body, "", ["Idempotency-Key": "bulk-1"])
            let repeated = try await bulk(ingest, body, "", ["Idempotency-Key": "bulk-1"])
            #expect(many.status == 207 && repeated.status == 207 && many.body == repeated.body)
            #expect(try await ingest.store.summary().received == 1199)
        }
    }

    @Test func aRefusedRequestLeavesItsKeyFree() async throws {
        try await RunningIngest.with { ingest in
            let key = ["Idempotency-Key": "k"]
            #expect(
                try await post(ingest, Data(example("1", ("\"outcome\":\"a\"", "\"outcome\":\"left\"")).utf8), headers: key).status == 422)
            #expect(try await bulk(ingest, "{\n", "", key).status == 422)
            #expect(try await post(ingest, Data(example("1").utf8), headers: key).status == 201)
            for wrong in ["", "with space", String(repeating: "x", count: 256), "\"\""] {
                #expect(try await post(ingest, Data(example("1").utf8), headers: ["Idempotency-Key": wrong]).status == 400, "'\(wrong)'")
            }
            // After its time a key is new again.
            try await ingest.client.query("update access.answer set at = at - interval '25 hours'")
            #expect(try await post(ingest, Data(example("2").utf8), headers: key).status == 201)
            try await ingest.client.query("update access.answer set at = at - interval '25 hours'")
            #expect(try await ingest.client.query("select access.sweep() as removed")[0]["removed"].int == 1)
        }
    }

    @Test func twoAtOnceWithTheSameKeyAreCarriedOutOnce() async throws {
        try await RunningIngest.with { ingest in
            // Somebody holds the pair's key, so that the first request waits with its Idempotency-Key taken.
            let body = example("1")
            try await ingest.client.transaction { connection in
                _ = try await ingest.store.post([.pair(try JSONDecoder().decode(NewPair.self, from: Data(body.utf8)))], on: connection)
                let first = Task { try await post(ingest, Data(body.utf8), headers: ["Idempotency-Key": "k"]) }
                let deadline = ContinuousClock.now + .seconds(20)
                let waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'transactionid'"
                while try await ingest.client.query(waits).isEmpty, .now < deadline {
                    try await Task.sleep(for: .milliseconds(10))
                }
                let second = try await post(ingest, Data(body.utf8), headers: ["Idempotency-Key": "k"])
                #expect(second.status == 409 && second.text.contains("/problems#idempotency-key-in-use"))
                #expect(second.headers["retry-after"] == "1")
                Task { _ = try? await first.value }
            }
            let deadline = ContinuousClock.now + .seconds(20)
            var last = 409
            while last == 409, .now < deadline { last = try await post(ingest, Data(body.utf8), headers: ["Idempotency-Key": "k"]).status }
            #expect(last == 200)
            #expect(try await ingest.client.query("select 1 from access.answer").count == 1)
        }
    }

    @Test func anAnswerIsKeptOnlyWithItsEffects() async throws {
        try await RunningIngest.with { ingest in
            // The database refuses to keep the answer: then the pair must not be there either.
            try await ingest.client.execute(
                """
                create function access.refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
                create trigger refuse before insert on access.answer for each row execute function access.refuse();
                """)
            #expect(try await post(ingest, Data(example("1").utf8), headers: ["Idempotency-Key": "k"]).status == 500)
            #expect(try await ingest.store.summary().received == 0)
            try await ingest.client.query("drop trigger refuse on access.answer")
            #expect(try await post(ingest, Data(example("1").utf8), headers: ["Idempotency-Key": "k"]).status == 201)
        }
    }

    @Test func aDryRunSaysEverythingAndStoresNothing() async throws {
        try await RunningIngest.with { ingest in
            #expect(try await post(ingest, Data(example("1").utf8)).status == 201)
            let new = try await post(ingest, Data(example("2").utf8), "?dry_run=true")
            #expect(new.status == 200 && new.text == #"{"dry_run":true,"state":"received"}"#)
            let replay = try await post(ingest, Data(example("1").utf8), "?dry_run=1")
            #expect(replay.status == 200 && replay.text.contains("pair_"))
            let tie = example("1", ("\"outcome\":\"a\"", "\"outcome\":\"tie\""))
            #expect(try await post(ingest, Data(tie.utf8), "?dry_run=true").status == 409)
            #expect(try await post(ingest, Data("{}".utf8), "?dry_run=true").status == 422)
            let many = try await bulk(ingest, lines(0..<4, broken: [3]), "?dry_run=true")
            #expect(many.status == 207)
            let document = try many.decode(PostTests.Bulk.self)
            #expect(
                document.results.map(\.status) == [201, 200, 201, 422]
                    && document.results.map { $0.id != nil } == [false, true, false, false])
            #expect(many.text.contains("\"dry_run\":true"))
            #expect(try await ingest.store.summary().received == 1)
            #expect(try await ingest.client.query("select 1 from ops.jobs").count <= 1)
            for query in ["?dry_run=yes", "?dryrun=true"] {
                #expect(try await post(ingest, Data(example("9").utf8), query).status == 400, "\(query)")
            }
        }
    }

    @Test func anAtomicBulkIsStoredWholeOrNotAtAll() async throws {
        try await RunningIngest.with { ingest in
            let broken = try await bulk(ingest, lines(0..<1200, broken: [1100]), "?atomic=true")
            #expect(broken.status == 422 && broken.type == "application/json")
            var document = try broken.decode(PostTests.Bulk.self)
            #expect(document.counts == ["created": 0, "replayed": 0, "rejected": 1200])
            #expect(Set(document.results.map(\.status)) == [422, 424] && document.results[1100].status == 422)
            #expect(document.results.allSatisfy { $0.id == nil })
            #expect(try await ingest.store.summary().received == 0)

            #expect(try await bulk(ingest, lines(0..<1200), "?atomic=true").status == 200)
            #expect(try await ingest.store.summary().received == 1200)
            // A key that is taken by another content; a line that is a replay stays one.
            let taken = try await bulk(
                ingest, [example("1"), example("2", ("\"r1\"", "\"r2\"")), example("5000")].joined(separator: "\n"), "?atomic=true")
            #expect(taken.status == 409)
            document = try taken.decode(PostTests.Bulk.self)
            #expect(document.results.map(\.status) == [200, 409, 424])
            #expect(try await ingest.store.summary().received == 1200)
        }
    }

    @Test func aPackedBodyIsReadAndABombIsNot() async throws {
        try await RunningIngest.with(["FORETASTE_INGEST_MAX_BODY_BYTES": "100000", "FORETASTE_INGEST_MAX_BULK_BYTES": "1000000"]) {
            ingest in
            let packed = ["Content-Encoding": "gzip"]
            #expect(try await post(ingest, gzip(Data(example("1").utf8)), headers: packed).status == 201)
            #expect(try await post(ingest, gzip(Data(lines(2..<1000).utf8)), type: "application/x-ndjson", headers: packed).status == 200)
            #expect(
                try await post(ingest, gzip(Data(lines(1000..<2000).utf8)), "?atomic=true", type: "application/x-ndjson", headers: packed)
                    .status == 200)
            // A thousandth of what it unpacks to.
            let bomb = gzip(Data(repeating: 0x20, count: 150 << 20))
            #expect(bomb.count < 900_000)
            for query in ["", "?atomic=true"] {
                let before = residentBytes()
                let answer = try await post(ingest, bomb, query, type: "application/x-ndjson", headers: packed)
                #expect(answer.status == 413, "\(answer.text)")
                #expect(residentBytes() - before < 100 << 20)
            }
            #expect(try await post(ingest, bomb.prefix(90_000), headers: packed).status == 413)
            #expect(try await post(ingest, Data("no gzip".utf8), headers: packed).status == 400)
            #expect(try await post(ingest, gzip(Data(example("1").utf8)).dropLast(9), headers: packed).status == 400)
            var damaged = gzip(Data(example("1").utf8))
            damaged[damaged.count - 6] ^= 1
            #expect(try await post(ingest, damaged, headers: packed).status == 400)
            // Two members, one behind the other, are one content.
            let halves = Data(example("9999").utf8)
            #expect(try await post(ingest, gzip(halves.prefix(40)) + gzip(halves.dropFirst(40)), headers: packed).status == 201)
            #expect(try await ingest.send("GET", "/readyz").status == 200)
        }
    }

    private func residentBytes() -> Int {
        let text = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
        return (Int(text.split(separator: " ").dropFirst().first ?? "0") ?? 0) * 4096
    }
}
