import Access
import Foundation
import Postgres
import Preferences
import ServiceKit
import Testing

@testable import Ingest

/// Who is let in, and what is written down of it.
@Suite struct AuthenticationTests {
    private func status(_ ingest: RunningIngest, _ key: APIKey, _ method: String = "GET", _ path: String = "/v1/preferences") async throws
        -> Int
    {
        try await ingest.send(method, path, method == "POST" ? Data(example().utf8) : nil, authorization: "Bearer \(key.text)").status
    }

    @Test func withoutAKeyOnlyProbesAndDescriptionsAnswer() async throws {
        try await RunningIngest.with { ingest in
            for path in ["/livez", "/readyz", "/metrics", "/openapi.json", "/problems"] {
                #expect(try await ingest.send("GET", path, authorization: nil).status == 200, "\(path)")
            }
            for path in ["/v1/preferences", "/v1/preferences/summary", "/version", "/v1/audit", "/nowhere"] {
                let answer = try await ingest.send("GET", path, authorization: nil)
                #expect(answer.status == 401 && answer.type == "application/problem+json", "\(path)")
                #expect(answer.headers["www-authenticate"] == "Bearer realm=\"foretaste\"")
                let problem = try answer.decode(ProblemDocument.self)
                #expect(problem.type == "/problems#unauthorized" && problem.requestID == answer.headers["x-request-id"])
            }
            #expect(try await ingest.send("POST", "/v1/preferences", Data(example().utf8), authorization: nil).status == 401)
            #expect(try await ingest.store.summary().received == 0)
        }
    }

    @Test func whatIsNoValidKeyIsRefusedWithTheReason() async throws {
        try await RunningIngest.with { ingest in
            let stranger = APIKey.generate()
            let sameID = "ft_" + ingest.key.id + stranger.text.dropFirst(11)
            for (field, words) in [
                ("Basic dXNlcjpwYXNz", "another form"), ("Bearer", "another form"), ("Bearer a b", "another form"),
                ("Bearer ft_short", "cut off"), ("Bearer " + String(ingest.key.text.dropLast()), "cut off"),
                ("Bearer \(sameID)", "cut off"),
                ("Bearer \(stranger.text)", "not known"),
            ] {
                let answer = try await ingest.send("GET", "/v1/preferences", authorization: field)
                #expect(answer.status == 401, "\(field)")
                #expect(answer.text.contains(words), "\(field): \(answer.text)")
                #expect(answer.headers["www-authenticate"]?.contains("error=\"invalid_token\"") == true)
                #expect(!answer.text.contains(stranger.text.suffix(40)))
            }
            // An id that exists with another secret is as unknown as any.
            try await ingest.client.query(
                "select access.create_key($1, 'other', $2, array['read'])", [.string(stranger.id), .bytes(APIKey.generate().hash)])
            #expect(try await status(ingest, stranger) == 401)
            #expect(try await status(ingest, ingest.key) == 200)
            #expect(try await ingest.send("GET", "/v1/preferences", authorization: "bearer \(ingest.key.text)").status == 200)
        }
    }

    @Test func aScopeAllowsWhatItSaysAndAdminEverything() async throws {
        try await RunningIngest.with { ingest in
            let keys = KeyStore(client: ingest.client)
            let allowed: [(Scope, [Int])] = [
                (.ingest, [403, 201, 403]), (.read, [200, 403, 403]), (.score, [403, 403, 403]), (.admin, [200, 200, 200]),
            ]
            for (scope, expected) in allowed {
                let key = try await keys.create(name: "\(scope)", scopes: [scope])
                let found = [
                    try await status(ingest, key), try await status(ingest, key, "POST"), try await status(ingest, key, "GET", "/v1/audit"),
                ]
                #expect(found == expected, "\(scope)")
            }
            let reader = try await keys.create(name: "reader", scopes: [.read])
            let refused = try await ingest.send("POST", "/v1/preferences", Data(example().utf8), authorization: "Bearer \(reader.text)")
            #expect(refused.text.contains("'ingest'"))
            #expect(refused.headers["www-authenticate"]?.contains("scope=\"ingest\"") == true)
        }
    }

    @Test func aRevokedKeyIsRefusedWithinASecondAndAnExpiredOneAtOnce() async throws {
        try await RunningIngest.with { ingest in
            let keys = KeyStore(client: ingest.client)
            let key = try await keys.create(name: "leaver", scopes: [.read])
            #expect(try await status(ingest, key) == 200)
            #expect(try await keys.revoke(key.id, reason: "left"))
            #expect(try await keys.revoke(key.id, reason: "again") == false)
            let deadline = ContinuousClock.now + .seconds(5)
            while try await status(ingest, key) == 200, .now < deadline { try await Task.sleep(for: .milliseconds(20)) }
            let refused = try await ingest.send("GET", "/v1/preferences", authorization: "Bearer \(key.text)")
            #expect(refused.status == 401 && refused.text.contains("was revoked"))

            // Long enough to be used once on a busy machine.
            let end = Date.now + 5
            let short = try await keys.create(name: "short", scopes: [.read], expiresAt: end)
            #expect(try await status(ingest, short) == 200)
            try await Task.sleep(for: .seconds(max(0, end.timeIntervalSinceNow) + 0.2))
            #expect(try await status(ingest, short) == 401)
            // Guessed before it was made: the answer "unknown" is not kept against it.
            let late = APIKey.generate()
            #expect(try await status(ingest, late) == 401)
            try await ingest.client.query(
                "select access.create_key($1, 'late', $2, array['read'])", [.string(late.id), .bytes(late.hash)])
            let soon = ContinuousClock.now + .seconds(5)
            while try await status(ingest, late) != 200, .now < soon { try await Task.sleep(for: .milliseconds(20)) }
            #expect(try await status(ingest, late) == 200)
        }
    }

    @Test func nothingSecretIsStoredAndTheLogCannotBeChanged() async throws {
        try await RunningIngest.with { ingest in
            let keys = KeyStore(client: ingest.client)
            let key = try await keys.create(name: "studio", scopes: [.read], expiresAt: .now + 3600)
            _ = try await keys.revoke(key.id, reason: "tried")
            let stored = try await ingest.client.query(
                "select (select string_agg(k::text, ' ') from access.key k) || (select string_agg(a::text, ' ') from access.audit a) as all"
            )[0]["all"].string
            #expect(!stored.contains(key.text.dropFirst(11).prefix(43)) && stored.contains(key.id))
            let actions = try await ingest.client.query(
                "select action, actor from access.audit where object = $1 order by id", [.string(key.id)])
            #expect(try actions.map { try $0["action"].string } == ["key.created", "key.revoked"])
            #expect(try actions.allSatisfy { try $0["actor"].string.hasPrefix("sql:") })
            for statement in ["update access.audit set actor = 'me'", "delete from access.audit", "truncate access.audit"] {
                await #expect(throws: PostgresError.self) { try await ingest.client.query(statement) }
            }
            let listed = try await keys.list(all: true)
            #expect(listed.first { $0.id == key.id }?.state() == "revoked")
            #expect(try await keys.list().contains { $0.id == key.id } == false)
        }
    }

    @Test func failedAttemptsAndUsesAreWrittenDownWithoutARowEach() async throws {
        let stranger = APIKey.generate()
        try await RunningIngest.with { ingest in
            for _ in 0..<20 { #expect(try await status(ingest, stranger) == 401) }
            #expect(try await status(ingest, ingest.key) == 200)
            await ingest.stop()
            let rows = try await ingest.client.query(
                "select object, details->>'times' as times, host(ip) as ip, request_id from access.audit where action = 'authentication.failed'"
            )
            #expect(rows.count == 1)
            #expect(try rows[0]["object"].string == stranger.id)
            #expect(try rows[0]["times"].string == "20")
            #expect(try rows[0]["ip"].string == "127.0.0.1")
            #expect(try rows[0]["request_id"].string.isEmpty == false)
            #expect(try await KeyStore(client: ingest.client).list().first { $0.id == ingest.key.id }?.lastUsedAt != nil)
        }
    }

    @Test func anOperatorMaySwitchItOffOnPurpose() async throws {
        try await RunningIngest.with(["FORETASTE_AUTHENTICATION": "off"]) { ingest in
            let answer = try await ingest.send("POST", "/v1/preferences", Data(example().utf8), authorization: nil)
            #expect(answer.status == 201)
        }
        await #expect(throws: ConfigurationError.self) {
            try await RunningIngest.with(["FORETASTE_AUTHENTICATION": "maybe"]) { _ in }
        }
    }

    @Test func moreRequestsThanTheLimitAreToldToWait() async throws {
        try await RunningIngest.with(["FORETASTE_RATE_LIMIT": "0.02", "FORETASTE_RATE_BURST": "3"]) { ingest in
            var found: [Int] = []
            for _ in 0..<4 { found.append(try await status(ingest, ingest.key)) }
            #expect(found == [200, 200, 200, 429])
            let refused = try await ingest.send("GET", "/v1/preferences")
            #expect(refused.status == 429 && (Int(refused.headers["retry-after"] ?? "") ?? 0) > 1)
            #expect(refused.headers["ratelimit-policy"] == "\"default\";q=3;w=150")
            #expect(refused.headers["ratelimit"] == "\"default\";r=0;t=\(refused.headers["retry-after"] ?? "")")
            // Another key has a bucket of its own; probes have none.
            let other = try await KeyStore(client: ingest.client).create(name: "other", scopes: [.read])
            #expect(try await status(ingest, other) == 200)
            // What is left is said with every answer, one that the client has to mend too.
            let mended = try await ingest.send("GET", "/v1/preferences?page=1", authorization: "Bearer \(other.text)")
            #expect(mended.status == 400 && mended.headers["ratelimit"]?.hasPrefix("\"default\";r=1;t=") == true)
            for _ in 0..<5 { #expect(try await ingest.send("GET", "/readyz", authorization: nil).status == 200) }
        }
    }

    /// Nobody's word is taken for where a request comes from: X-Forwarded-For is the client's to write.
    @Test func theAddressThatIsLimitedAndWrittenDownIsTheConnections() async throws {
        try await RunningIngest.with(["FORETASTE_RATE_LIMIT": "0.02", "FORETASTE_RATE_BURST": "2"]) { ingest in
            let stranger = APIKey.generate()
            var found: [Int] = []
            for number in 1...3 {
                found.append(
                    try await ingest.send(
                        "GET", "/v1/preferences",
                        headers: [
                            "X-Forwarded-For": "203.0.113.\(number)", "Forwarded": "for=203.0.113.\(number)", "X-Real-IP": "203.0.113.9",
                        ],
                        authorization: "Bearer \(stranger.text)"
                    ).status)
            }
            #expect(found == [401, 401, 429])
            await ingest.stop()
            let rows = try await ingest.client.query("select host(ip) as ip from access.audit where action = 'authentication.failed'")
            #expect(try rows.map { try $0["ip"].string } == ["127.0.0.1"])
        }
    }

    @Test func correctionsRetractionsAndTheAuditLogItselfAreSeenByAdmins() async throws {
        struct Page: Decodable {
            struct Item: Decodable {
                let actor, action, object: String
                let details: [String: String]
            }
            let items: [Item]
            let next: String?
        }
        try await RunningIngest.with { ingest in
            let id = try await ingest.post(example()).decode(RunningIngest.Stored.self).id
            let corrected = try await ingest.send(
                "POST", "/v1/preferences/\(id)/corrections", Data(#"{"outcome":"b","reason":"swapped","by":"ada"}"#.utf8))
            #expect(corrected.status == 200, "\(corrected.text)")
            #expect(try await ingest.send("DELETE", "/v1/preferences/\(id)?reason=misread").status == 200)
            let page = try await ingest.send("GET", "/v1/audit?object=\(id)").decode(Page.self)
            #expect(page.items.map(\.action) == ["label.corrected", "label.retracted"] && page.next == nil)
            #expect(page.items.map { $0.details["by"] } == ["ada", "key:\(ingest.key.id)"])
            let first = try await ingest.send("GET", "/v1/audit?limit=1").decode(Page.self)
            #expect(first.items.map(\.action) == ["key.created"])
            let rest = try await ingest.send("GET", "/v1/audit?cursor=\(try #require(first.next))").decode(Page.self)
            #expect(rest.items.count == 2)
            for query in ["limit=0", "cursor=x", "page=1"] { #expect(try await ingest.send("GET", "/v1/audit?\(query)").status == 400) }
        }
    }
}
