import Artifacts
import Foundation
import Logging
import Postgres
import Preferences
import ServiceKit
import Synchronization
import Testing

@testable import Ingest

/// A presigned URL lets whoever has it read the file: its query is kept where fetches need it, and shown nowhere.
@Suite struct SignatureTests {
    private static let signature = "f00dfacef00dfacef00dfacef00dface"
    private static let query = "?X-Amz-Credential=AKIA,x&X-Amz-Signature=\(signature)"

    private func signed(_ side: PairSide) -> PairSide { PairSide(url: side.url + Self.query, sha256: side.sha256) }

    private func ranking(_ sides: [PairSide]) throws -> Data {
        var object =
            try JSONSerialization.jsonObject(
                with: JSONEncoder().encode(
                    NewRanking(
                        source: "studio", externalID: "ranking", prompt: "p", dimension: "overall", rater: "r1",
                        items: sides.enumerated().map { .init(url: $1.url, sha256: $1.sha256, rank: $0 + 1) }))) as! [String: Any]
        object["type"] = "ranking"
        return try JSONSerialization.data(withJSONObject: object)
    }

    private func rating(_ side: PairSide) throws -> Data {
        let latent = String(decoding: try JSONEncoder().encode(side), as: UTF8.self)
        return Data(
            """
            {"type":"rating","source":"studio","external_id":"rating","prompt":"p","dimension":"overall","rater":"r1","rating":"good",
            "latent":\(latent)}
            """.utf8)
    }

    @Test(.timeLimit(.minutes(3))) func aSignatureIsSeenByTheStoreOfArtifactsAlone() async throws {
        let ear = Ear()
        try await RunningIngest.with(logger: ear.logger) { ingest in
            let good = LatentSample()
            // The store answers only whoever sends the query too.
            let a = signed(PairSide(url: "\(ingest.server.url)/a", sha256: ingest.server.put("a\(Self.query)", good.bytes).sha256))
            let b = signed(
                PairSide(
                    url: "\(ingest.server.url)/b",
                    sha256: ingest.server.put("b\(Self.query)", good.with { $0.value = -0.5 }.bytes).sha256))
            let usable = try await ingest.settle(pair("usable", a, b))
            #expect(usable.state == "usable", "\(usable.reason ?? "")")
            #expect(try await ingest.store.get(usable.id)?.pair.a.url.hasSuffix(Self.signature) == true)

            try await complain(ingest, ear, a, b)
            let ids = [
                usable.id,
                try await ingest.send("POST", "/v1/preferences", ranking([a, b])).decode(RunningIngest.Stored.self).id,
                try await ingest.send("POST", "/v1/preferences", rating(a)).decode(RunningIngest.Stored.self).id,
            ]
            for id in ids { _ = try await ingest.settled(id) }
            try await change(ingest, ear, ids)
            try await export(ingest, ear)
            ear.hear("metrics", try await ingest.send("GET", "/metrics"))
            await ingest.stop()
            try await remember(ingest, ear)
        }
        let heard = ear.heard.withLock { $0 }
        #expect(heard.count > 80)
        #expect(heard.contains { $0.place == "the log" } && heard.contains { $0.place.hasPrefix("queue.") })
        for (place, text) in heard where text.contains(Self.signature) { Issue.record("\(place): \(text.prefix(2000))") }
    }

    /// Whatever can be wrong with a pair whose URLs are signed.
    private func complain(_ ingest: RunningIngest, _ ear: Ear, _ a: PairSide, _ b: PairSide) async throws {
        func json(_ key: String, _ changes: [String: Any] = [:], without: String? = nil) throws -> Data {
            var object = try JSONSerialization.jsonObject(with: JSONEncoder().encode(pair(key, a, b))) as! [String: Any]
            object.merge(changes) { $1 }
            if let without { object[without] = nil }
            return try JSONSerialization.data(withJSONObject: object)
        }
        let wrong: [(String, Data)] = [
            ("a digest that is a URL", try json("1", ["a": ["url": a.url, "sha256": a.url]])),
            ("an outcome that is a URL", try json("2", ["outcome": a.url])),
            ("a field too many", try json("3", ["c": ["url": a.url]])),
            ("no URL", try json("4", ["a": ["url": "ftp://h/a\(Self.query)", "sha256": a.sha256]])),
            ("a URL with a password", try json("5", ["a": ["url": "https://u:\(Self.signature)@h/a", "sha256": a.sha256]])),
            ("a field too few", try json("6", without: "rater")),
            ("a dimension that is a URL", try json("7", ["dimension": "https://h/?\(Self.signature)"])),
            ("another content", try json("usable", ["a": ["url": a.url + "1", "sha256": a.sha256]])),
            ("no JSON", Data("{\"a\":{\"url\":\"\(a.url)\",}".utf8)),
        ]
        for (what, body) in wrong {
            let answer = try await ingest.send("POST", "/v1/preferences", body)
            #expect((400..<500).contains(answer.status), "\(what): \(answer.text)")
            ear.hear(what, answer)
        }
        let lines =
            wrong.map { String(decoding: $0.1, as: UTF8.self) }.filter { !$0.contains("\n") } + [
                String(decoding: try json("bulk"), as: UTF8.self)
            ]
        ear.hear("a bulk post", try await ingest.postLines(lines))
        ear.hear("a dry run", try await ingest.send("POST", "/v1/preferences?dry_run=true", try json("dry")))
        let key = ["Idempotency-Key": "k"]
        for _ in 0..<2 { ear.hear("a kept answer", try await ingest.send("POST", "/v1/preferences", try json("kept"), headers: key)) }
        // What verification has to say, of digests that the cache has not.
        let unknown = String(repeating: "c", count: 64)
        for (key, url) in [
            ("missing", "\(ingest.server.url)/missing\(Self.query)"), ("forbidden", "https://example.org/a\(Self.query)"),
            ("unreachable", "http://127.0.0.1:1/a\(Self.query)"),
        ] {
            let stored = try await ingest.settle(pair(key, PairSide(url: url, sha256: unknown), b))
            #expect(stored.state == "quarantined" && stored.reason?.isEmpty == false, "\(key)")
            ear.hear(key, "\(stored.reason ?? "")")
        }
        let other = try await ingest.settle(pair("digest", PairSide(url: a.url, sha256: String(repeating: "0", count: 64)), b))
        #expect(other.reason?.contains("sha256") == true)
    }

    private func change(_ ingest: RunningIngest, _ ear: Ear, _ ids: [String]) async throws {
        for id in ids {
            let path = "/v1/preferences/\(id)"
            let document = try await ingest.send("GET", path)
            #expect(document.status == 200 && document.text.contains("\(ingest.server.url)/a\""), "\(document.text)")
            ear.hear("GET \(id)", document)
            ear.hear("history of \(id)", try await ingest.send("GET", "\(path)/history"))
            for body in [#"{"outcome":"b","reason":"swapped"}"#, #"{"rating":"bad","reason":"slipped"}"#] {
                ear.hear("a correction of \(id)", try await ingest.send("POST", "\(path)/corrections", Data(body.utf8)))
            }
            ear.hear("a retraction of \(id)", try await ingest.send("DELETE", "\(path)?reason=misread"))
            ear.hear(
                "a return of \(id)",
                try await ingest.send("POST", "\(path)/corrections", Data(#"{"retracted":false,"reason":"not misread"}"#.utf8)))
        }
    }

    private func export(_ ingest: RunningIngest, _ ear: Ear) async throws {
        for path in ["", "?state=quarantined", "/summary"] {
            ear.hear("preferences\(path)", try await ingest.send("GET", "/v1/preferences\(path)"))
        }
        let frozen = try await ingest.send("POST", "/v1/snapshots", Data(#"{"dimension":"overall"}"#.utf8))
        #expect(frozen.status == 201, "\(frozen.text)")
        ear.hear("a snapshot", frozen)
        let location = try #require(frozen.headers["location"])
        for part in SnapshotCatalog.Part.allCases {
            let lines = try await ingest.send("GET", "\(location)/\(part.rawValue)")
            #expect(part == .comparisons || lines.text.contains("\(ingest.server.url)/a"), "\(part): \(lines.text)")
            ear.hear("export of \(part)", lines)
        }
        ear.hear("audit", try await ingest.send("GET", "/v1/audit?limit=1000"))
    }

    /// What stays: every table and view but for the columns that fetches read, the server's own log, and the files of the service.
    private func remember(_ ingest: RunningIngest, _ ear: Ear) async throws {
        let kept = [
            "preferences.pair": ["a_url", "b_url"], "preferences.frozen_pair": ["a_url", "b_url"], "preferences.rating": ["url"],
            "preferences.frozen_rating": ["url"], "preferences.ranking": ["items"],
        ]
        let relations = try await ingest.client.query(
            """
            select n.nspname || '.' || c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname in ('queue', 'preferences', 'registry', 'access', 'ops') and c.relkind in ('r', 'p', 'v', 'm')
            """)
        #expect(relations.count > 60)
        for relation in try relations.map({ try $0["name"].string }) {
            let rows = try await ingest.client.query(
                "select (to_jsonb(t) - $1::text[])::text as row from \(relation) t", [.array(kept[relation] ?? [])])
            let text = try rows.map { try $0["row"].string }.joined(separator: "\n")
            ear.hear(relation, text)
            // Bytes are shown in hexadecimal.
            let hexadecimal = Self.signature.utf8.map { String($0, radix: 16) }.joined()
            #expect(!text.contains(hexadecimal), "\(relation)")
        }
        let directory = try await ingest.client.query("show data_directory")[0]["data_directory"].string
        let log = try #require(FileManager.default.contents(atPath: (directory as NSString).deletingLastPathComponent + "/server.log"))
        ear.hear("the database's log", String(decoding: log, as: UTF8.self))
        let files = try #require(FileManager.default.enumerator(atPath: ingest.folder)).compactMap { $0 as? String }
        #expect(files.contains { $0.hasPrefix("cache/") })
        for file in files {
            let content = FileManager.default.contents(atPath: "\(ingest.folder)/\(file)") ?? Data()
            ear.hear("the file \(file)", file + String(decoding: content, as: UTF8.self))
        }
    }
}
