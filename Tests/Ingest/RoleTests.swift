import Access
import Foundation
import Postgres
import Preferences
import ServiceKit
import Synchronization
import Testing

@testable import Ingest

/// Ingest as a member of `foretaste_ingest`, which may do its work and no more.
@Suite struct RoleTests {
    /// What the code calls of the schema `preferences`, inside its statements.
    private static let functions: Set<String> = [
        "comparisons", "correct", "define_dimension", "freeze_snapshot", "label", "ranking_state", "set_retracted",
    ]

    private func label(_ type: String, _ key: String, _ more: String) -> String {
        """
        {"type":"\(type)","source":"studio","external_id":"\(key)","prompt":"p","dimension":"overall","rater":"r1",\(more)}
        """
    }

    @Test(.timeLimit(.minutes(3))) func everythingThatItDoesIsAllowed() async throws {
        let ear = Ear()
        try await RunningIngest.with(logger: ear.logger, as: "foretaste_ingest") { ingest in
            let a = ingest.server.put("a", LatentSample().bytes)
            let b = ingest.server.put("b", LatentSample().with { $0.value = -0.5 }.bytes)
            let posted = try await ingest.settle(pair("1", a, b))
            #expect(posted.state == "usable", "\(posted.reason ?? "")")
            let missing = try await ingest.settle(
                pair("2", PairSide(url: "http://127.0.0.1:1/x", sha256: String(repeating: "c", count: 64)), b))
            #expect(missing.state == "quarantined")
            let side = String(decoding: try JSONEncoder().encode(a), as: UTF8.self)
            let items = [a, b].enumerated().map { #"{"url":"\#($1.url)","sha256":"\#($1.sha256)","rank":\#($0 + 1)}"# }.joined(
                separator: ",")
            let lines = [
                label("rating", "3", #""rating":"good","latent":\#(side)"#), label("ranking", "4", #""items":[\#(items)]"#), example("5"),
                example("5"), example("5", ("\"r1\"", "\"r2\"")),
            ]
            for (query, headers) in [("?dry_run=true", [:]), ("?atomic=true", [:]), ("", ["Idempotency-Key": "k"]), ("", [:])] {
                let answer = try await ingest.send(
                    "POST", "/v1/preferences\(query)", Data(lines.joined(separator: "\n").utf8), type: "application/x-ndjson",
                    headers: headers)
                #expect([207, 409].contains(answer.status), "\(answer.text)")
            }
            let stored = try await ingest.postLines(lines).decode(PostTests.Bulk.self).results.compactMap(\.id)
            try await change(ingest, [posted.id] + stored.prefix(2))
            // Ratings and pairs are listed, snapshots frozen and read out, and the log is read.
            let frozen = try await ingest.send("POST", "/v1/snapshots", Data(#"{"dimension":"overall"}"#.utf8))
            #expect(frozen.status == 201, "\(frozen.text)")
            let snapshot = try #require(frozen.headers["location"])
            for path in ["/pairs", "/comparisons", "/ratings", ""].map({ snapshot + $0 }) + [
                "/v1/snapshots", "/v1/preferences", "/v1/preferences?type=rating", "/v1/preferences/summary", "/v1/dimensions", "/v1/audit",
            ] {
                let answer = try await ingest.send("GET", path)
                #expect(answer.status == 200, "\(path): \(answer.text)")
            }
            let hands = Data(#"{"description":"Do hands have five fingers?"}"#.utf8)
            for status in [201, 200] { #expect(try await ingest.send("PUT", "/v1/dimensions/hands", hands).status == status) }
            // A verification that got lost.
            let mine = PostgresClient(configuration: PostgresConfiguration(url: ingest.serviceDatabase), maximumConnections: 1)
            try await ingest.client.query(
                "update preferences.pair set state = 'received', settled_at = null, verify_job = -1 where id = $1", [.string(posted.id)])
            #expect(try await PreferenceStore(client: mine).rescueLostVerifications() >= 1)
            await mine.close()
            #expect(try await ingest.settled(posted.id).state == "usable")
            await ingest.stop()
        }
        for (_, line) in ear.heard.withLock({ $0 }) where line.contains("permission denied") || line.contains("42501") {
            Issue.record("\(line)")
        }
    }

    private func change(_ ingest: RunningIngest, _ ids: [String]) async throws {
        for id in ids {
            let path = "/v1/preferences/\(id)"
            let correction = id.hasPrefix("rating") ? #"{"rating":"bad","reason":"slipped"}"# : #"{"outcome":"b","reason":"swapped"}"#
            let corrected = try await ingest.send("POST", "\(path)/corrections", Data(correction.utf8))
            #expect(corrected.status == (id.hasPrefix("ranking") ? 409 : 200), "\(corrected.text)")
            for (method, path, body) in [
                ("DELETE", "\(path)?reason=misread", nil), ("POST", "\(path)/corrections", #"{"retracted":false,"reason":"not misread"}"#),
                ("GET", path, nil),
            ] {
                let answer = try await ingest.send(method, path, body.map { Data($0.utf8) })
                #expect(answer.status == 200, "\(method) \(path): \(answer.text)")
            }
            let history = try await ingest.send("GET", "\(path)/history")
            #expect(history.status == (id.hasPrefix("ranking") ? 404 : 200), "\(history.text)")
        }
    }

    @Test func nothingElseIsAllowed() async throws {
        try await RunningIngest.with(as: "foretaste_ingest") { ingest in
            let granted = try await ingest.client.query(
                """
                select distinct p.proname::text as name from pg_proc p where p.pronamespace = 'preferences'::regnamespace
                    and has_function_privilege('foretaste_ingest', p.oid, 'execute')
                """)
            #expect(Set(try granted.map { try $0["name"].string }) == Self.functions)
            // The list is what the code says, not what somebody once thought.
            let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            let folder = root.appending(path: "Shared/Preferences")
            let code = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil).map {
                try String(contentsOf: $0, encoding: .utf8)
            }.joined()
            for function in Self.functions { #expect(code.contains("preferences.\(function)("), "\(function) is not called") }

            let client = PostgresClient(configuration: PostgresConfiguration(url: ingest.serviceDatabase), maximumConnections: 1)
            for statement in [
                "update preferences.pair set outcome = 'b'", "update preferences.pair set rater = 'r'",
                "update preferences.pair set a_url = ''",
                "update preferences.rating set value = 0", "update preferences.pair set retracted_at = null",
                "update preferences.ranking set items = '[]'", "delete from preferences.pair", "truncate preferences.rating",
                "insert into preferences.revision (subject, revision, action, label, actor, at) values ('p', 0, 'posted', '{}', 'a', now())",
                "insert into preferences.snapshot (dimension, held_out, digest, pairs, ratings, train, prompts) values ('', 0, '', 0, 0, 0, 0)",
                "insert into preferences.dimension (name, description) values ('mine', '')", "delete from preferences.dimension",
                "select * from preferences.erasure", "select preferences.erase_rater('r', '')", "select preferences.reverify('p')",
                "select * from preferences.prompt_side", "select hash from access.key", "select * from access.audit",
                "select * from access.answer",
                "select access.create_key('aaaaaaaa', 'n', '', '{}')", "select access.rotate_key('a', 'b', '', '0')",
                "update registry.model set url = ''", "select registry.set_alias('m', 'champion', 1, '')", "select args from queue.body",
                "select * from ops.jobs",
            ] {
                do {
                    try await client.query(statement)
                    Issue.record("allowed: \(statement)")
                } catch let error as PostgresError {
                    #expect(error.sqlState == "42501", "\(statement): \(error)")
                }
            }
            await client.close()
        }
    }
}
