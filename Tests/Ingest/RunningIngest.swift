import Access
import Foundation
import FoundationNetworking
import Logging
import Migrations
import Postgres
import PostgresTesting
import Preferences
import ServiceKit
import Testing

@testable import Ingest

/// The service in this process: real database, real socket, real artifact server.
struct RunningIngest: Sendable {
    let url: String
    let database: TestDatabase
    let server: LatentServer
    /// The database as the service logs in to it.
    let serviceDatabase: String
    /// FORETASTE_DATA.
    let folder: String
    /// With every scope.
    let key: APIKey
    private let control: ServiceControl
    private let running: Task<Void, any Error>
    var client: PostgresClient { database.client }
    var store: PreferenceStore { PreferenceStore(client: database.client) }

    /// Starts everything, runs `body`, stops everything.
    /// - Parameter group: the service logs in as a member of this role and nothing else; nil for the database's owner.
    static func with(
        _ variables: [String: String] = [:], logger: Logger? = nil, as group: String? = nil, _ body: (RunningIngest) async throws -> Void
    ) async throws {
        let folder = FileManager.default.temporaryDirectory.path + "/foretaste-ingest-\(UInt64.random(in: 0...UInt64.max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let server = try LatentServer()
        try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
            var url = database.url
            let login = group.map { "\($0)_of_\(database.name)" }
            if let group, let login {
                try await database.client.query("create role \(login) login in role \(group)")
                url = url.replacing("user=\(EmbeddedPostgres.databaseName)", with: "user=\(login)")
            }
            let environment = ServiceEnvironment([
                "DATABASE_URL": url, "FORETASTE_DATA": folder, "FORETASTE_ARTIFACTS_ALLOW": "\(server.url)/,http://127.0.0.1:1/",
                "FORETASTE_INGEST_RETRY_SECONDS": "0.1", "FORETASTE_SHUTDOWN_SECONDS": "5",
            ]).merging(variables)
            let configuration = try ServiceConfiguration.fromEnvironment(service: "ingest", environment)
            var quiet = Logger(label: "ingest")
            quiet.logLevel = .error
            let application = try await IngestService.application(configuration, logger ?? quiet)
            let key = try await KeyStore(client: database.client).create(name: "tests", scopes: Set(Scope.allCases))
            let control = ServiceControl()
            let running = Task { try await application.run(handlingSignals: false, control: control) }
            do {
                try await body(
                    RunningIngest(
                        url: try await control.listening(), database: database, server: server, serviceDatabase: url, folder: folder,
                        key: key,
                        control: control, running: running))
                await control.shutDown()
                try await running.value
                if let login { try await database.client.query("drop role \(login)") }
            } catch {
                await control.shutDown()
                _ = try? await running.value
                throw error
            }
        }
    }

    /// Ends the service; the database stays.
    func stop() async {
        await control.shutDown()
        _ = try? await running.value
    }

    struct Answer: Sendable {
        let status: Int
        let type: String
        let headers: [String: String]
        let body: Data

        var text: String { String(decoding: body, as: UTF8.self) }

        func decode<Value: Decodable>(_ type: Value.Type) throws -> Value { try JSONDecoder().decode(type, from: body) }

        /// The JSON Pointers of a problem document.
        var pointers: [String] {
            get throws { try decode(ProblemDocument.self).errors?.map(\.pointer) ?? [] }
        }
    }

    func send(
        _ method: String = "GET", _ path: String, _ body: Data? = nil, type: String? = "application/json", headers: [String: String] = [:],
        authorization: String? = "key"
    ) async throws -> Answer {
        var request = URLRequest(url: try #require(URL(string: url + path)))
        request.httpMethod = method
        request.httpBody = body
        if body != nil { request.setValue(type, forHTTPHeaderField: "Content-Type") }
        if let authorization {
            request.setValue(authorization == "key" ? "Bearer \(key.text)" : authorization, forHTTPHeaderField: "Authorization")
        }
        for (name, value) in headers { request.setValue(value, forHTTPHeaderField: name) }
        let (data, response) = try await URLSession.shared.data(for: request)
        let http = try #require(response as? HTTPURLResponse)
        var fields: [String: String] = [:]
        for (name, value) in http.allHeaderFields { fields["\(name)".lowercased()] = "\(value)" }
        return Answer(status: http.statusCode, type: fields["content-type"] ?? "", headers: fields, body: data)
    }

    func post(_ json: String) async throws -> Answer { try await send("POST", "/v1/preferences", Data(json.utf8)) }

    func post(_ pair: NewPair) async throws -> Answer { try await send("POST", "/v1/preferences", try JSONEncoder().encode(pair)) }

    func postLines(_ lines: [String]) async throws -> Answer {
        try await send("POST", "/v1/preferences", Data(lines.joined(separator: "\n").utf8), type: "application/x-ndjson")
    }

    struct Stored: Decodable {
        let id: String
        let state: String
        let reason: String?
    }

    /// Posts a pair and waits for its verdict.
    func settle(_ pair: NewPair) async throws -> Stored {
        let answer = try await post(pair)
        #expect(answer.status == 201, "\(answer.text)")
        return try await settled(try answer.decode(Stored.self).id)
    }

    /// Waits until a pair is no longer `received`.
    func settled(_ id: String) async throws -> Stored {
        for _ in 0..<600 {
            let stored = try await send("GET", "/v1/preferences/\(id)").decode(Stored.self)
            if stored.state != "received" { return stored }
            try await Task.sleep(for: .milliseconds(50))
        }
        Issue.record("the pair \(id) was not settled within 30 seconds")
        return Stored(id: id, state: "received", reason: nil)
    }
}

/// A pair whose sides are given.
func pair(_ key: String, _ a: PairSide, _ b: PairSide, outcome: Outcome = .a) -> NewPair {
    NewPair(
        source: "studio", externalID: key, prompt: "red diamond moving right", dimension: "overall", outcome: outcome, rater: "r1", a: a,
        b: b)
}

/// The contract's example of a pair, with another key.
func example(_ key: String = "42", _ changes: (String, String)...) -> String {
    var text = """
        {"source":"studio","external_id":"\(key)","prompt":"red diamond moving right","dimension":"overall","outcome":"a","rater":"r1",\
        "a":{"url":"http://127.0.0.1:1/a.safetensors","sha256":"\(String(repeating: "a", count: 64))"},\
        "b":{"url":"http://127.0.0.1:1/b.safetensors","sha256":"\(String(repeating: "b", count: 64))"}}
        """
    for (old, new) in changes { text.replace(old, with: new) }
    return text
}

/// gzip as the program of that name packs it.
func gzip(_ data: Data) -> Data {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = ["gzip", "-c", "-1"]
    let (input, output) = (Pipe(), Pipe())
    (process.standardInput, process.standardOutput) = (input, output)
    try! process.run()
    Thread.detachNewThread {
        try! input.fileHandleForWriting.write(contentsOf: data)
        try! input.fileHandleForWriting.close()
    }
    return output.fileHandleForReading.readDataToEndOfFile()
}
