import Foundation
import JobQueue
import Migrations
import Postgres
@testable import PostgresTesting
import Testing

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Outages {
        @Test func killedConnectionsCostNoJobAndNoEffectTwice() async throws {
            try await withQueue { queue, database in
                let handler = JobHandler(kind: "quick", concurrency: 4) { job in
                    try await Task.sleep(for: .milliseconds(5))
                    return insertEffect(job)
                }
                let count = 300
                _ = try await queue.enqueueMany(kind: "quick", jobs: (0..<count).map { (json: #"{"n":\#($0)}"#, dedupeKey: nil) })
                try await withWorkers(2, database, [handler]) {
                    for _ in 0..<5 {
                        try await Task.sleep(for: .milliseconds(200))
                        // All of them: claims, effects under way, leases, listeners.
                        _ = try? await database.client.query(
                            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                        )
                    }
                    try await eventually(within: 30, "all are done") {
                        try await database.client.integer("select count(*) from queue.done") == count
                    }
                }
                #expect(try await database.client.integer("select count(*) from public.effect") == count)
                #expect(try await database.client.integer("select count(distinct job) from public.effect") == count)
            }
        }

        @Test func aRestartedServerFindsItsWorkersAgain() async throws {
            let folder = "/tmp/foretaste-queue-\(ProcessInfo.processInfo.processIdentifier)"
            defer { EmbeddedPostgres.destroy(dataDirectory: folder) }
            var server = EmbeddedPostgres(dataDirectory: folder, durability: .testing)
            let url = try await server.start()
            let client = PostgresClient(configuration: PostgresConfiguration(url: url), logger: quiet)
            try await BundledMigrations.migrate(client)
            try await client.execute("create table public.effect (job bigint, token bigint, pid int)")
            let queue = JobQueue(client: client)
            let database = TestDatabase(url: url, client: client, name: "foretaste")
            let handler = JobHandler(kind: "train_reward") { job in
                for _ in 0..<30 {
                    try job.checkCancellation()
                    try await Task.sleep(for: .milliseconds(100))
                }
                return insertEffect(job)
            }
            try await withWorkers(1, database, [handler]) {
                let id = try await queue.enqueue(kind: "train_reward")
                try await eventually("it runs") { try await queue.show(id).state == .leased }
                await server.stop()
                try await Task.sleep(for: .milliseconds(500))
                server = EmbeddedPostgres(dataDirectory: folder, durability: .testing)
                #expect(try await server.start() == url)
                let job = try await queue.finished(id)
                #expect(job.state == .succeeded && job.attempt == 1, "the lease outlived the restart")
            }
            #expect(try await client.integer("select count(*) from public.effect") == 1)
            await client.close()
            await server.stop()
        }
    }
}
