import Foundation
import Migrations
import Postgres
import PostgresTesting
import Testing

extension ForetasteProcessTests {
    /// An operator at a terminal, and a program that reads what is printed.
    @Suite(.serialized) struct Operating {
        private func json(_ ended: Program.Ended) throws -> [[String: Any]] {
            let value = try JSONSerialization.jsonObject(with: Data(ended.output.utf8))
            if let object = value as? [String: Any] { return [object] }
            return try #require(value as? [[String: Any]], "\(ended.output)")
        }

        @Test func jobsAndQueuesAreOperatedFromTheCommandLine() async throws {
            try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
                try await withTemporaryFolder { folder in
                    func run(_ arguments: String...) async throws -> Program.Ended {
                        try await Program.run(arguments, in: folder, ["DATABASE_URL": database.url])
                    }
                    func read(_ arguments: String...) async throws -> [[String: Any]] {
                        try json(try await Program.run(arguments + ["--json"], in: folder, ["DATABASE_URL": database.url]))
                    }
                    let first = try await run("jobs", "enqueue", "generate", "--set", "seed=7").line
                    let second = try await run("jobs", "enqueue", "train_reward").line
                    #expect(Int64(first) != nil && Int64(second) != nil)
                    #expect(try await read("jobs", "list").map { "\($0["id"] ?? "")" } == [second, first])
                    let filtered = try await read("jobs", "list", "--kind", "generate", "--state", "ready", "--limit", "1")
                    #expect(filtered.count == 1 && (filtered[0]["args"] as? [String: Any])?["seed"] as? Int == 7)
                    #expect(try await read("jobs", "list", "--before", second).count == 1)
                    #expect(try await run("jobs", "cancel", first, "--reason", "a wrong one").line == "cancelled")
                    #expect(try await read("jobs", "show", first)[0]["state"] as? String == "cancelled")
                    #expect(try await run("jobs", "cancel", first, second).line == "\(first) finished\n\(second) cancelled")
                    #expect(try await run("jobs", "redrive").line == "0")
                    #expect(try await run("jobs", "redrive", "--reason", "cancelled", "--kind", "generate").line == "1")
                    #expect(try await run("jobs", "retry", second).status == 0)
                    #expect(try await run("jobs", "pause", "generate").status == 0)
                    let queues = try await read("queue", "list")
                    let generate = try #require(queues.first { $0["queue"] as? String == "generate" })
                    #expect(generate["paused"] as? Bool == true && generate["ready"] as? Int == 1)
                    #expect(try await run("queue", "list").output.contains("paused"))
                    #expect(try await run("jobs", "resume", "generate").status == 0)
                    #expect(try await read("workers", "--all").isEmpty)
                    let audit = try await database.client.query(
                        "select action from ops.audit where application = 'foretaste' and action <> 'define' order by at")
                    #expect(
                        try audit.map { try $0["action"].string } == ["cancel", "cancel", "redrive", "redrive", "retry", "pause", "resume"])
                }
            }
        }

        @Test func whatCannotBeDoneIsSaidInOneLine() async throws {
            try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
                try await withTemporaryFolder { folder in
                    let cases: [([String], Int32, String)] = [
                        (["jobs", "show", "4711"], 1, "there is no job 4711"), (["jobs", "retry", "4711"], 1, "there is no job 4711"),
                        (["jobs", "cancel", "4711"], 1, "there is no job 4711"),
                        (["jobs", "pause", "nothing"], 1, "there is no queue named nothing"),
                        (["jobs", "enqueue", "nothing"], 1, "there is no queue named nothing"),
                        (["jobs", "list", "--state", "odd"], 64, "there is no such state"),
                        (["jobs", "redrive", "--reason", "boredom"], 64, "there is no such reason"),
                        (["jobs", "list", "--limit", "0"], 64, "positive"),
                    ]
                    for (arguments, status, words) in cases {
                        let ended = try await Program.run(arguments, in: folder, ["DATABASE_URL": database.url])
                        #expect(ended.status == status && ended.errors.contains(words) && ended.output.isEmpty, "\(arguments): \(ended)")
                        if status == 1 { #expect(ended.errors.split(separator: "\n").count == 1, "\(ended.errors)") }
                    }
                }
            }
        }

        /// No superuser, no owner: a member of the operators' role migrates nothing and operates everything.
        @Test func anOperatorsOwnLoginIsEnough() async throws {
            try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
                let login = "operator_\(getpid())"
                try await database.client.query("create role \(login) login in role foretaste_operator")
                try await withTemporaryFolder { folder in
                    let mine = database.url.replacing("user=\(EmbeddedPostgres.databaseName)", with: "user=\(login)")
                    for arguments in [
                        ["migrate"], ["jobs", "enqueue", "generate"], ["jobs", "list"], ["queue", "list"], ["workers"],
                        ["schedule", "list"],
                        ["models", "list"], ["jobs", "pause", "generate"],
                    ] {
                        let ended = try await Program.run(arguments, in: folder, ["DATABASE_URL": mine])
                        #expect(ended.status == 0, "\(arguments): \(ended.errors)")
                    }
                }
                #expect(
                    try await database.client.query("select 1 from ops.audit where actor = $1 and action = 'pause'", [.string(login)]).count
                        == 1)
                try await database.client.query("drop role \(login)")
            }
        }
    }
}
