import Foundation
import Postgres
import Preferences
import ServiceKit
import Testing

@testable import Ingest

/// What a client gets for what it posts.
@Suite struct PostTests {
    @Test func aPairIsCreatedReplayedAndShownAsPosted() async throws {
        try await RunningIngest.with { ingest in
            let created = try await ingest.post(example())
            #expect(created.status == 201)
            let stored = try created.decode(RunningIngest.Stored.self)
            #expect(stored.state == "received")
            #expect(created.headers["location"] == "/v1/preferences/\(stored.id)")
            let replayed = try await ingest.post(example())
            #expect(replayed.status == 200)
            #expect(try replayed.decode(RunningIngest.Stored.self).id == stored.id)
            let conflict = try await ingest.post(example("42", ("\"outcome\":\"a\"", "\"outcome\":\"tie\"")))
            #expect(conflict.status == 409)
            #expect(conflict.type == "application/problem+json")
            #expect(try conflict.pointers == ["/outcome"])

            let shown = try await ingest.send("GET", "/v1/preferences/\(stored.id)")
            var object = try #require(try JSONSerialization.jsonObject(with: shown.body) as? [String: Any])
            #expect(object.removeValue(forKey: "id") as? String == stored.id)
            #expect(object.removeValue(forKey: "state") is String)
            #expect(object.removeValue(forKey: "reason") != nil)
            let posted = try JSONSerialization.jsonObject(with: Data(example().utf8)) as? NSDictionary
            #expect(object as NSDictionary == posted)
        }
    }

    @Test func everyWrongFieldIsNamedByItsPointer() async throws {
        try await RunningIngest.with { ingest in
            let digest = "\"sha256\":\"\(String(repeating: "a", count: 64))\""
            let cases: [(String, [String])] = [
                ("", [""]), ("{", [""]), ("[]", [""]), ("null", [""]), ("\"text\"", [""]), ("{\"source\":\"studio\",}", [""]),
                (example() + "}", [""]), (example("42", ("{\"source\"", "{\"rater\":\"r2\",\"source\"")), [""]), ("\u{0}", [""]),
                ("{}", ["/source", "/external_id", "/prompt", "/dimension", "/outcome", "/rater", "/a", "/b"]),
                (example("42", ("\"outcome\":\"a\"", "\"outcome\":\"left\"")), ["/outcome"]),
                (example("42", ("\"outcome\":\"a\"", "\"outcome\":1")), ["/outcome"]),
                (example("42", ("," + digest, "")), ["/a/sha256"]),
                (example("42", (digest, "\"sha256\":\"abc\"")), ["/a/sha256"]),
                (example("42", (digest, "\"sha256\":\"\(String(repeating: "g", count: 64))\"")), ["/a/sha256"]),
                (example("42", ("{\"source\"", "{\"extra/~\":1,\"source\"")), ["/extra~1~0"]),
                (example("42", (digest, digest + ",\"size\":3")), ["/a/size"]),
                (example("42", ("\"http://127.0.0.1:1/a.safetensors\"", "\"ftp://host/a\"")), ["/a/url"]),
                (example("42", ("\"http://127.0.0.1:1/a.safetensors\"", "\"a.safetensors\"")), ["/a/url"]),
                (example("42", ("\"http://127.0.0.1:1/a.safetensors\"", "\"http://user:secret@host/a\"")), ["/a/url"]),
                (example("42", ("\"http://127.0.0.1:1/a.safetensors\"", "7")), ["/a/url"]),
                (example("42", ("\"studio\"", "\"\"")), ["/source"]),
                (example("42", ("\"studio\"", "\"a\\u0000b\"")), ["/source"]),
                (example("42", ("\"r1\"", "null")), ["/rater"]),
                (example("42", ("\"overall\"", "\"over all\"")), ["/dimension"]),
                (example("42", ("red diamond moving right", "a\\u0000b")), ["/prompt"]),
                (example("42", ("red diamond moving right", String(repeating: "x", count: 1_000_000))), ["/prompt"]),
            ]
            for (json, pointers) in cases {
                let answer = try await ingest.post(json)
                #expect(answer.status == 422, "\(json.prefix(300))")
                #expect(answer.type == "application/problem+json")
                #expect(try answer.pointers == pointers, "\(json.prefix(300)) → \(answer.text.prefix(300))")
                #expect(answer.body.count < 4000)
            }
            #expect(try await ingest.store.summary() == PairSummary())
            #expect(try await ingest.client.query("select 1 from ops.jobs").isEmpty)
        }
    }

    @Test func bytesThatAreNoTextAreRefused() async throws {
        try await RunningIngest.with { ingest in
            var bytes = Data(example().utf8)
            bytes[bytes.firstRange(of: Data("diamond".utf8))!.lowerBound] = 0xff
            let answer = try await ingest.send("POST", "/v1/preferences", bytes)
            #expect(answer.status == 422)
            #expect(try answer.pointers == [""])
            let deep = Data(String(repeating: "[", count: 100_000).utf8)
            #expect(try await ingest.send("POST", "/v1/preferences", deep).status == 422)
        }
    }

    @Test func anotherMediaTypeIsRefusedByName() async throws {
        try await RunningIngest.with { ingest in
            for type in ["text/plain", "application/xml", "application/x-www-form-urlencoded"] {
                let answer = try await ingest.send("POST", "/v1/preferences", Data(example().utf8), type: type)
                #expect(answer.status == 415)
                #expect(answer.text.contains("application/x-ndjson"))
            }
            let body = Data(example().utf8)
            let brotli = try await ingest.send("POST", "/v1/preferences", body, headers: ["Content-Encoding": "br"])
            #expect(brotli.status == 415 && brotli.headers["accept-encoding"] == "gzip")
            #expect(try await ingest.send("POST", "/v1/preferences", body, type: "Application/JSON; charset=utf-8").status == 201)
            #expect(try await ingest.send("DELETE", "/v1/preferences").status == 405)
        }
    }

    @Test func aBodyOverTheLimitIsRefusedAndTheServiceStaysUp() async throws {
        try await RunningIngest.with(["FORETASTE_INGEST_MAX_BODY_BYTES": "4096", "FORETASTE_INGEST_MAX_BULK_BYTES": "8192"]) { ingest in
            let large = example("42", ("red diamond moving right", String(repeating: "x", count: 5000)))
            let answer = try await ingest.post(large)
            #expect(answer.status == 413)
            #expect(answer.text.contains("4096"))
            #expect(try await ingest.postLines([large]).status == 200)
            #expect(try await ingest.postLines([large, large]).status == 413)
            #expect(try await ingest.store.summary().received == 1)
            #expect(try await ingest.send("GET", "/readyz").status == 200)
        }
    }

    struct Bulk: Decodable {
        struct Line: Decodable {
            let line: Int
            let status: Int
            let id: String?
            let errors: [ProblemDocument.FieldError]?
        }

        let counts: [String: Int]
        let results: [Line]
    }

    @Test func aBulkBodyHasAResultForEachLine() async throws {
        try await RunningIngest.with { ingest in
            let all = try await ingest.postLines([example("1"), example("2"), ""])
            #expect(all.status == 200)
            #expect(all.type == "application/json")
            let first = try all.decode(Bulk.self)
            #expect(first.counts == ["created": 2, "replayed": 0, "rejected": 0])
            #expect(first.results.map(\.status) == [201, 201] && first.results.map(\.line) == [1, 2])

            let some = try await ingest.postLines([
                "not json", example("2") + "\r", "", example("3"), example("1", ("\"r1\"", "\"r2\"")),
                example("4", ("\"outcome\":\"a\"", "\"outcome\":\"c\"")),
            ])
            #expect(some.status == 207)
            let mixed = try some.decode(Bulk.self)
            #expect(mixed.counts == ["created": 1, "replayed": 1, "rejected": 3])
            #expect(mixed.results.map(\.line) == [1, 2, 4, 5, 6])
            #expect(mixed.results.map(\.status) == [422, 200, 201, 409, 422])
            #expect(mixed.results[1].id == first.results[1].id)
            #expect(mixed.results[3].errors?.map(\.pointer) == ["/rater"])
            #expect(mixed.results[4].errors?.map(\.pointer) == ["/outcome"])

            let none = try await ingest.postLines(["{", "[1]", example("1", ("\"r1\"", "\"r2\""))])
            #expect(none.status == 422)
            #expect(try none.decode(Bulk.self).counts == ["created": 0, "replayed": 0, "rejected": 3])
            #expect(try await ingest.postLines(["", " "]).status == 422)
            #expect(try await ingest.store.summary().received == 3)
        }
    }

    @Test func aLongBulkBodyKeepsItsLinesInOrderAndReplaysWhole() async throws {
        try await RunningIngest.with { ingest in
            let lines = (0..<1300).map { $0 % 100 == 99 ? "broken" : example(String($0)) }
            let answer = try await ingest.postLines(lines)
            #expect(answer.status == 207)
            let bulk = try answer.decode(Bulk.self)
            #expect(bulk.results.map(\.line) == Array(1...1300))
            #expect(bulk.counts == ["created": 1287, "replayed": 0, "rejected": 13])
            let again = try await ingest.postLines(lines).decode(Bulk.self)
            #expect(again.counts == ["created": 0, "replayed": 1287, "rejected": 13])
            #expect(again.results.map(\.id) == bulk.results.map(\.id))
        }
    }

    @Test func pairsAreListedPageByPageAndCounted() async throws {
        struct Page: Decodable {
            let items: [RunningIngest.Stored]
            let next: String?
        }
        try await RunningIngest.with { ingest in
            _ = try await ingest.postLines((0..<5).map { example(String($0)) })
            let first = try await ingest.send("GET", "/v1/preferences?limit=3").decode(Page.self)
            #expect(first.items.count == 3)
            let cursor = try #require(first.next)
            let second = try await ingest.send("GET", "/v1/preferences?limit=3&cursor=\(cursor)")
            #expect(second.text.contains("\"next\":null"))
            #expect(try second.decode(Page.self).items.count == 2)
            for query in ["limit=0", "limit=x", "state=lost", "cursor=!", "page=2"] {
                #expect(try await ingest.send("GET", "/v1/preferences?\(query)").status == 400, "\(query)")
            }
            #expect(try await ingest.send("GET", "/v1/preferences?state=usable").decode(Page.self).items.isEmpty)
            #expect(try await ingest.send("GET", "/v1/preferences/pair_unknown").status == 404)
            let summary = try await ingest.send("GET", "/v1/preferences/summary").decode(PairSummary.self)
            #expect(summary.received + summary.quarantined == 5)
        }
    }

    @Test func theDescriptionIsOpenAPIAndKnowsEveryRoute() async throws {
        try await RunningIngest.with { ingest in
            let answer = try await ingest.send("GET", "/openapi.json")
            #expect(answer.status == 200 && answer.type == "application/json")
            let document = try #require(try JSONSerialization.jsonObject(with: answer.body) as? [String: Any])
            #expect(document["openapi"] as? String == "3.1.0")
            let paths = try #require(document["paths"] as? [String: [String: Any]])
            #expect(
                Set(paths.keys).isSuperset(of: [
                    "/v1/preferences", "/v1/preferences/summary", "/v1/preferences/{id}", "/v1/preferences/{id}/corrections",
                    "/v1/preferences/{id}/history", "/v1/dimensions", "/v1/dimensions/{name}", "/v1/snapshots", "/v1/snapshots/{id}",
                    "/v1/snapshots/{id}/pairs", "/v1/snapshots/{id}/comparisons", "/v1/snapshots/{id}/ratings",
                ]))
            #expect(paths["/v1/preferences"]?.keys.sorted() == ["get", "post"])
            // Each $ref leads somewhere.
            let schemas = try #require((document["components"] as? [String: Any])?["schemas"] as? [String: Any])
            for match in answer.text.matches(of: /#\/components\/schemas\/([A-Za-z]+)/) { #expect(schemas[String(match.output.1)] != nil) }
        }
    }
}
