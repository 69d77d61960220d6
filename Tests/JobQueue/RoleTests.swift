import Foundation
import JobQueue
import Migrations
import Postgres
import PostgresTesting
import Synchronization
import Testing

private let logins = Atomic<Int>(0)

/// A login role that is a member of a group role, for as long as `body` takes.
private func withLogin(_ group: String, _ database: TestDatabase, _ body: (PostgresClient) async throws -> Void) async throws {
    let login = "login_\(getpid())_\(logins.wrappingAdd(1, ordering: .relaxed).newValue)"
    try await database.client.query("create role \(login) login in role \(group)")
    let url = database.url.replacing("user=\(EmbeddedPostgres.databaseName)", with: "user=\(login)")
    let client = PostgresClient(
        configuration: PostgresConfiguration(url: url), maximumConnections: 4, applicationName: group, logger: quiet)
    do {
        #expect(try await client.query("select session_user::text as name")[0]["name"].string == login)
        try await body(client)
    } catch {
        await client.close()
        try await database.client.query("drop role \(login)")
        throw error
    }
    await client.close()
    try await database.client.query("drop role \(login)")
}

/// Each statement must be refused for want of a right, and for nothing else.
private func expectRefused(_ statements: [String], _ client: PostgresClient) async {
    for statement in statements {
        let error = await failure { try await client.query(statement) }
        #expect((error as? PostgresError)?.sqlState == "42501", "\(statement): \(error)")
    }
}

private let services = ["foretaste_ingest", "foretaste_trainer", "foretaste_tuner"]

extension JobQueueDatabaseTests {
    /// Each service logs in as a member of its own group role, which may do its work and no more.
    @Suite(.serialized) struct Roles {
        @Test func eachServiceTurnsJobsFromEndToEndUnderItsOwnRole() async throws {
            try await withQueue { queue, database in
                for group in services {
                    try await database.client.execute("truncate public.effect; grant insert on public.effect to \(group)")
                    try await withLogin(group, database) { client in
                        let tries = Mutex(0)
                        let quick = JobHandler(kind: "quick") { job in
                            if tries.withLock({
                                $0 += 1; return $0 == 1
                            }) {
                                throw JobError.retryAfter(.milliseconds(10), "once")
                            }
                            return insertEffect(job)
                        }
                        let slow = JobHandler(kind: "slow") { job in
                            job.progress(0.5, "half")
                            try await job.checkpoint(step: 1, state: ["n": 1])
                            _ = try await job.lastCheckpoint()
                            return insertEffect(job)
                        }
                        let worker = Task {
                            try await JobWorker(client: client, service: "test", handlers: [quick, slow], logger: quiet).run()
                        }
                        let mine = JobQueue(client: client)
                        let first = try await mine.enqueue(kind: "quick")
                        let many = try await mine.enqueueMany(kind: "slow", jobs: [("{}", nil), ("{}", "k")])
                        for id in [first] + many { #expect(try await queue.finished(id).state == .succeeded) }
                        try await client.query("select * from queue.sweep()")
                        try await client.query("select queue.prune()")
                        worker.cancel()
                        try await worker.value
                        #expect(try await database.client.integer("select count(*) from public.effect") == 3)
                    }
                }
            }
        }

        @Test func nobodyChangesTablesOfTheQueueOrDropsAnything() async throws {
            try await withQueue { queue, database in
                try await queue.enqueue(kind: "quick")
                for group in services + ["foretaste_scorer", "foretaste_dashboard", "foretaste_operator"] {
                    try await withLogin(group, database) { client in
                        await expectRefused(
                            [
                                "insert into queue.job (queue_id, kind) values (1, 'quick')", "update queue.job set token = 0",
                                "delete from queue.job", "delete from queue.done", "truncate queue.dead", "drop table queue.job",
                                "drop schema queue cascade", "drop schema preferences cascade", "drop table registry.model",
                                "update queue.audit set actor = ''", "delete from queue.audit",
                                "insert into queue.audit (action, target, args) values ('','','{}')",
                                "create table queue.mine (x int)", "create function queue.mine() returns int language sql as 'select 1'",
                                "alter function queue.enqueue owner to \(group)", "set role foretaste_migrator",
                                "create role another", "delete from public.schema_migrations",
                                "select queue.bury(j, 'permanent') from queue.job j",
                                "update registry.model set url = ''", "delete from preferences.pair",
                            ], client)
                    }
                }
            }
        }

        @Test func onlyOperatorsDoWhatOperatorsDo() async throws {
            try await withQueue { queue, database in
                let id = try await queue.enqueue(kind: "quick")
                for group in services + ["foretaste_scorer", "foretaste_dashboard"] {
                    try await withLogin(group, database) { client in
                        await expectRefused(
                            [
                                "select queue.retry(\(id))", "select queue.cancel(\(id))", "select queue.redrive()",
                                "select queue.pause('quick')",
                                "select queue.resume('quick')", "select queue.define('mine')",
                                "select queue.set_retention('metric', '1 day')",
                                "select queue.schedule_add('mine', 'quick')", "select queue.schedule_remove('mine')",
                            ], client)
                    }
                }
            }
        }

        @Test func anOperatorMayOperateAndLookAndIsWrittenDown() async throws {
            try await withQueue { queue, database in
                try await withLogin("foretaste_operator", database) { client in
                    let mine = JobQueue(client: client)
                    let id = try await mine.enqueue(kind: "quick")
                    #expect(try await mine.cancel(id) == .cancelled)
                    try await mine.retry(id)
                    #expect(try await mine.redrive() == 0)
                    try await mine.pause("quick")
                    try await mine.resume("quick")
                    try await mine.define("new", isLong: true)
                    try await mine.addSchedule(key: "s", kind: "slow", everyNewPairs: 3)
                    #expect(try await mine.removeSchedule(key: "s"))
                    #expect(try await mine.show(id).state == .ready)
                    #expect(try await mine.queues().contains { $0.name == "new" })
                    #expect(try await mine.workers().isEmpty)
                    let actors = try await client.query("select distinct actor from ops.audit where action <> 'define'")
                    #expect(try actors.map { try $0["actor"].string.hasPrefix("login_") } == [true])
                    await expectRefused(
                        [
                            "select * from queue.claim(1, 'quick', 'quick', 1)", "select queue.complete('{1}', '{1}', '{null}')",
                            "select queue.fail(1, 1, '{}')", "select * from queue.heartbeat(1, '1 second')",
                        ], client)
                }
            }
        }

        @Test func ingestWritesPairsAndReadsNoSecretsAndRegistersNoModels() async throws {
            try await withQueue { _, database in
                try await withLogin("foretaste_ingest", database) { client in
                    try await client.withConnection { connection in
                        try await connection.transaction { connection in
                            try await connection.query(
                                """
                                insert into preferences.pair (source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url,
                                    b_sha256, content)
                                values ('s', '1', 'p', 'overall', 'a', 'r', 'u', repeat('0', 64), 'v', repeat('1', 64), 'c')
                                """)
                            try await connection.query("select queue.enqueue('verify_preference', '{}')")
                            try await connection.query("select queue.count_event('pairs.usable', 1)")
                        }
                    }
                    #expect(try await client.query("select 1 from preferences.pair").count == 1)
                    #expect(try await client.query("select * from registry.resolve('nothing')").isEmpty)
                    await expectRefused(
                        [
                            "insert into registry.model (name, version, kind, url, sha256, bytes) values ('m', 1, 'reward', 'u', repeat('0', 64), 1)",
                            "insert into registry.alias (name, alias, version, reason) values ('m', 'champion', 1, '')",
                            "select registry.set_alias('m', 'champion', 1, '')", "delete from preferences.pair",
                            "truncate preferences.pair",
                            "select kind from queue.job", "select args from queue.body", "select * from queue.dead",
                            "select * from ops.jobs",
                        ], client)
                }
            }
        }

        @Test func theTrainerRegistersModelsAndTouchesNoPair() async throws {
            try await withQueue { _, database in
                try await withLogin("foretaste_trainer", database) { client in
                    try await client.query(
                        "insert into registry.model (name, version, kind, url, sha256, bytes) values ('m', 1, 'reward', 'u', repeat('0', 64), 1)"
                    )
                    try await client.query("select registry.set_alias('m', 'champion', 1, 'the first')")
                    #expect(try await client.query("select name from registry.resolve('m@champion')").count == 1)
                    try await client.query("select preferences.freeze_snapshot(1, 'overall', null)")
                    await expectRefused(
                        [
                            "update preferences.pair set outcome = 'b'", "insert into preferences.pair (source) values ('s')",
                            "update registry.alias set version = 2",
                            "insert into registry.alias_history (name, alias, to_version, moved, reason) values ('','',1,true,'')",
                            "select * from ops.jobs",
                        ], client)
                }
            }
        }

        @Test func theDashboardReadsEveryViewOfOpsAndNothingElse() async throws {
            try await withQueue { queue, database in
                try await queue.enqueue(kind: "quick")
                try await withLogin("foretaste_dashboard", database) { client in
                    let views = try await client.query(
                        "select c.relname::text as name from pg_class c where c.relnamespace = 'ops'::regnamespace and c.relkind = 'v'")
                    #expect(views.count >= 20)
                    for view in try views.map({ try $0["name"].string }) { try await client.query("select * from ops.\(view)") }
                    #expect(try await client.query("select ops.percentile('{1,2,3}', 0.5) as p")[0]["p"].double > 0)
                    await expectRefused(
                        [
                            "select * from queue.job", "select queue.enqueue('quick')", "select * from preferences.pair",
                            "select * from registry.model",
                            "select * from public.schema_migrations", "create table public.t (x int)",
                        ], client)
                }
            }
        }

        /// A database's owner who may not create roles, on a server that has ours already and on one that has none.
        @Test func whoMayNotCreateRolesMigratesAllTheSame() async throws {
            try await withQueue { _, database in try await migrateAsOwner(database.client, database.url) }
            let folder = "/tmp/foretaste-roles-\(getpid())"
            let server = EmbeddedPostgres(dataDirectory: folder, durability: .testing, logger: quiet)
            defer { EmbeddedPostgres.destroy(dataDirectory: folder) }
            let url = try await server.start()
            let administrator = PostgresClient(configuration: PostgresConfiguration(url: url), maximumConnections: 1, logger: quiet)
            try await migrateAsOwner(administrator, url)
            #expect(try await administrator.integer("select count(*) from pg_roles where rolname like 'foretaste\\_%'") == 0)
            await administrator.close()
            await server.stop()
        }

        private func migrateAsOwner(_ administrator: PostgresClient, _ url: String) async throws {
            let name = "owner_\(getpid())_\(logins.wrappingAdd(1, ordering: .relaxed).newValue)"
            try await administrator.query("create role \(name) login")
            try await administrator.query("create database \(name) owner \(name)")
            let mine = url.replacing(/\/\/\/[^?]+/, with: "///\(name)").replacing(
                "user=\(EmbeddedPostgres.databaseName)", with: "user=\(name)")
            let client = PostgresClient(configuration: PostgresConfiguration(url: mine), maximumConnections: 4, logger: quiet)
            #expect(try await BundledMigrations.migrate(client).count == BundledMigrations.all().count)
            let queue = JobQueue(client: client)
            try await queue.define("quick", isLong: false)
            let worker = Task {
                try await JobWorker(
                    client: client, service: "test", handlers: [JobHandler(kind: "quick") { _ in JobResult() }], logger: quiet
                ).run()
            }
            #expect(try await queue.finished(try await queue.enqueue(kind: "quick")).state == .succeeded)
            worker.cancel()
            try await worker.value
            for view in ["queue_now", "workers", "health", "audit"] { try await client.query("select * from ops.\(view)") }
            let owner = try await client.query(
                "select distinct r.rolname::text as name from pg_class c join pg_roles r on r.oid = c.relowner where c.relnamespace = 'queue'::regnamespace"
            )
            #expect(try owner.map { try $0["name"].string } == [name])
            await client.close()
            try await administrator.query("drop database \(name)")
            try await administrator.query("drop role \(name)")
        }

        @Test func everyFunctionThatRunsWithItsOwnersRightsPinsItsSearchPath() async throws {
            try await withQueue { _, database in
                let client = database.client
                let loose = try await client.query(
                    """
                    select p.oid::regprocedure::text as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                    where p.prosecdef and n.nspname in ('queue', 'preferences', 'registry', 'access', 'ops')
                        and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)
                    """)
                #expect(try loose.map { try $0["name"].string } == [])
                let open = try await client.query(
                    """
                    select p.oid::regprocedure::text as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                    where n.nspname in ('queue', 'preferences', 'registry', 'access', 'ops') and has_function_privilege('public', p.oid, 'execute')
                    """)
                #expect(try open.map { try $0["name"].string } == [])
                // And the owner is no superuser.
                #expect(
                    try await client.integer("select count(distinct proowner) from pg_proc where pronamespace = 'queue'::regnamespace") == 1
                )
                let owner = try await client.query(
                    "select r.rolname::text as name, r.rolsuper from pg_proc p join pg_roles r on r.oid = p.proowner where p.pronamespace = 'queue'::regnamespace limit 1"
                )
                #expect(try owner[0]["name"].string == "foretaste_migrator" && !owner[0]["rolsuper"].bool)
            }
        }
    }
}
