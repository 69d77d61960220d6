import Foundation
import FoundationNetworking
import Postgres
import Testing

extension ForetasteProcessTests {
    /// `foretaste up`, with its private PostgreSQL and the four services.
    @Suite(.serialized) struct Up {
        struct Ready: Decodable, Equatable {
            let ingest: String
            let scorer: String
            let database_url: String
            let api_key: String
            let processes: [String: Int32]
        }

        private func status(_ url: String, key: String? = nil) async -> Int {
            guard let url = URL(string: url) else { return 0 }
            var request = URLRequest(url: url, timeoutInterval: 10)
            if let key { request.setValue("Bearer \(key)", forHTTPHeaderField: "Authorization") }
            let answer = try? await URLSession.shared.data(for: request)
            return (answer?.1 as? HTTPURLResponse)?.statusCode ?? 0
        }

        private func read(_ file: String) throws -> Ready {
            try JSONDecoder().decode(Ready.self, from: #require(FileManager.default.contents(atPath: file)))
        }

        @Test func everythingIsStartedKeptAliveAndEnded() async throws {
            try await withTemporaryFolder { folder in
                let (data, file) = (folder + "/data", folder + "/ready.json")
                let up = try await Program.start(["up", "--data", data, "--ready-file", file], in: folder)
                // Whoever fails below leaves no system behind; as root the database lies outside of the folder.
                defer {
                    up.child.signal(SIGTERM)
                    EmbeddedPostgres.destroy(dataDirectory: data)
                }
                try await eventually(within: 120, "the ready file appears") {
                    try #require(up.child.isRunning, "\(up.shown)")
                    return FileManager.default.fileExists(atPath: file)
                }

                // Whole at once: the first look has every key.
                let keys = try #require(try JSONSerialization.jsonObject(with: Data(contentsOf: URL(filePath: file))) as? [String: Any])
                    .keys
                #expect(Set(keys) == ["ingest", "scorer", "database_url", "api_key", "processes"])
                let mode = try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int
                #expect(mode == 0o600)
                let ready = try read(file)
                #expect(Set(ready.processes.keys) == ["ingest", "reward-trainer", "scorer", "generator-tuner"])
                #expect(await status(ready.ingest + "/readyz") == 200)
                #expect(await status(ready.scorer + "/readyz") == 200)

                // The run's key opens both services; without one nothing is open but the probes. Other keys come and go.
                let summary = ready.ingest + "/v1/preferences/summary"
                #expect(await status(summary) == 401)
                #expect(await status(summary, key: ready.api_key) == 200)
                #expect(await status(ready.scorer + "/v1/score", key: ready.api_key) == 405)
                let made = try await Program.run(
                    ["keys", "create", "--name", "reader", "--scopes", "read", "--expires", "1d", "--data", data], in: folder)
                #expect(made.status == 0 && made.line.hasPrefix("ft_") && made.line.count == 60, "\(made)")
                #expect(await status(summary, key: made.line) == 200)
                #expect(await status(ready.scorer + "/v1/score", key: made.line) == 403)
                let shown = try await Program.run(["keys", "list", "--json", "--data", data], in: folder)
                let listed = try #require(try JSONSerialization.jsonObject(with: Data(shown.output.utf8)) as? [[String: Any]])
                #expect(listed.map { $0["run"] as? Bool } == [false, true] && !shown.output.contains(made.line))
                let revoked = try await Program.run(
                    ["keys", "revoke", made.line.dropFirst(3).prefix(8).description, "--data", data], in: folder)
                #expect(revoked.status == 0, "\(revoked)")
                try await eventually(within: 10, "the revoked key is refused") { await status(summary, key: made.line) == 401 }

                // A second one over the same folder is refused and disturbs nothing.
                let second = try await Program.run(["up", "--data", data, "--ready-file", file], in: folder)
                #expect(second.status == 1 && second.errors.contains("already"), "\(second)")
                #expect(try read(file) == ready)
                // Other commands find the system by its folder.
                let models = try await Program.run(["models", "list", "--json", "--data", data], in: folder)
                #expect(models.status == 0 && models.line == "[]", "\(models)")

                for name in ["ingest", "scorer", "reward-trainer"] {
                    let pid = try #require(ready.processes[name])
                    kill(pid, SIGKILL)
                    try await eventually(within: 60, "\(name) is back") {
                        let now = try read(file)
                        guard let new = now.processes[name], new != pid, ProcessEntry(new) != nil else { return false }
                        #expect(now.ingest == ready.ingest && now.scorer == ready.scorer, "it listens where it did")
                        return true
                    }
                }
                try await eventually(within: 60, "they answer again") {
                    let answers = (await status(ready.ingest + "/readyz"), await status(ready.scorer + "/readyz"))
                    return answers == (200, 200)
                }

                let processes = ProcessEntry.descendants(of: up.child.identifier)
                #expect(processes.count >= 5, "four services and a database")
                up.child.signal(SIGTERM)
                let ended = try await up.ended(within: 30)
                #expect(ended.status == 0, "\(ended)")
                #expect(!FileManager.default.fileExists(atPath: file), "nothing points at what is gone")
                // The run's key ended with the run.
                let ends = try await Program.run(["keys", "list", "--all", "--json", "--data", data], in: folder)
                let all = try #require(try JSONSerialization.jsonObject(with: Data(ends.output.utf8)) as? [[String: Any]])
                #expect(all.count == 2 && all.allSatisfy { $0["revoked_at"] != nil }, "\(ends)")
                // A process that was reaped by nobody yet is gone all the same.
                let left = processes.filter(\.isAlive)
                #expect(left.isEmpty, "\(left.map { (try? String(contentsOfFile: "/proc/\($0.pid)/cmdline", encoding: .utf8)) ?? "" })")
            }
        }

        @Test func anEndDuringTheStartIsAnEndAsWell() async throws {
            try await withTemporaryFolder { folder in
                let data = folder + "/data"
                let up = try await Program.start(["up", "--data", data, "--ready-file", folder + "/ready.json"], in: folder)
                defer {
                    up.child.signal(SIGKILL)
                    EmbeddedPostgres.destroy(dataDirectory: data)
                }
                try await eventually("it has begun to start") { !ProcessEntry.descendants(of: up.child.identifier).isEmpty }
                up.child.signal(SIGTERM)
                let ended = try await up.ended(within: 30)
                #expect(ended.status == 0, "\(ended)")
                #expect(!FileManager.default.fileExists(atPath: folder + "/ready.json"))
            }
        }
    }
}
