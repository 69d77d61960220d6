import Foundation
import JobQueue
import Postgres
import PostgresTesting
import Testing

extension JobQueueDatabaseTests {
    /// Dashboards come by every few seconds: what they ask must not read large tables from end to end.
    @Suite(.serialized) struct Plans {
        /// Tables read sequentially in a plan, by name.
        private func sequential(_ plan: Any) -> [String] {
            if let list = plan as? [Any] { return list.flatMap(sequential) }
            guard let node = plan as? [String: Any] else { return [] }
            let here = (node["Node Type"] as? String)?.hasSuffix("Seq Scan") == true ? [node["Relation Name"] as? String ?? "?"] : []
            return here + node.values.flatMap(sequential)
        }

        private func scans(_ sql: String, _ connection: PostgresConnection) async throws -> [String] {
            let text = try await connection.query("explain (format json) \(sql)")[0][0].string
            return sequential(try JSONSerialization.jsonObject(with: Data(text.utf8)))
        }

        @Test func noDashboardReadsJobsOrHistoryFromEndToEnd() async throws {
            try await withQueue { queue, database in
                let client = database.client
                _ = try await client.query(
                    "select count(*) from queue.enqueue_many('quick', array(select '{}'::jsonb from generate_series(1, 200000)))")
                try await client.execute(
                    """
                    insert into queue.done (id, token, queue_id, kind, attempt, failures, rescues, created_at, claimed_at)
                    select nextval('queue.job_id'), 1, q.id, q.name, 1, 0, 0, now(), now()
                    from queue.queue q, generate_series(1, 200000) where q.name = 'slow';
                    analyze queue.job; analyze queue.done;
                    """)
                let today = try await client.query(
                    "select c.relname::text as name from pg_class c where c.oid = (select tableoid from queue.done limit 1)")
                let large: Set<String> = ["job", try today[0]["name"].string]
                try await client.withConnection { connection in
                    var statements = try GrafanaFiles.statements().map { ($0.place, $0.expanded) }
                    let views = try await connection.query(
                        "select c.relname::text as name from pg_class c where c.relnamespace = 'ops'::regnamespace and c.relkind = 'v' and c.relname <> 'jobs'"
                    )
                    statements += try views.map { ("ops.\(try $0["name"].string)", "select * from ops.\(try $0["name"].string)") }
                    statements.append(("newest jobs", "select * from ops.jobs order by id desc limit 20"))
                    statements.append(("one job", "select * from ops.jobs where id = 4711"))
                    for (place, sql) in statements {
                        let found = try await scans(sql, connection)
                        #expect(large.isDisjoint(with: found), "\(place) reads \(found) from end to end")
                    }
                    // What the views call is a function: its body, with the function's own settings.
                    let body = try await connection.query(
                        "select prosrc, proconfig::text as settings from pg_proc where oid = 'queue.depth'::regproc")
                    #expect(try body[0]["settings"].string.contains("enable_seqscan=off"))
                    try await connection.query("set enable_seqscan = off")
                    #expect(large.isDisjoint(with: try await scans(try body[0]["prosrc"].string, connection)))
                    try await connection.query("reset enable_seqscan")
                }
                #expect(try await queue.queues().first { $0.name == "quick" }?.ready == 200_000)
            }
        }
    }
}
