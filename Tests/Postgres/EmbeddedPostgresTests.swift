import Foundation
import Glibc
import Testing

@testable import Postgres

@Suite(.serialized) struct EmbeddedPostgresTests {
    /// A server in a folder that its user cannot enter when we are root, as `$HOME` is.
    private func withFolder(_ body: (String) async throws -> Void) async throws {
        let folder = NSTemporaryDirectory() + "foretaste-embedded-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        defer { EmbeddedPostgres.destroy(dataDirectory: folder) }
        try await body(folder)
    }

    private func connect(_ url: String) -> PostgresClient { PostgresClient(configuration: PostgresConfiguration(url: url)) }

    @Test(.timeLimit(.minutes(2))) func dataSurvivesAStopAndASecondStarterFindsTheServer() async throws {
        try await withFolder { folder in
            let server = EmbeddedPostgres(dataDirectory: folder)
            let url = try await server.start()
            #expect(EmbeddedPostgres.runningURL(dataDirectory: folder) == url)
            let client = connect(url)
            #expect(try await client.query("SHOW fsync")[0][0].string == "on")
            #expect(try await client.query("SHOW listen_addresses")[0][0].string == "")
            try await client.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
            // Any name of the folder means the same server.
            let second = EmbeddedPostgres(dataDirectory: folder + "/../" + (folder as NSString).lastPathComponent)
            #expect(try await second.start() == url)
            #expect(!second.isOurs && server.isOurs)
            await second.stop()
            #expect(try await client.query("SELECT n FROM kept")[0]["n"].int == 42)
            await client.close()
            await server.stop()
            #expect(EmbeddedPostgres.runningURL(dataDirectory: folder) == nil)
            let again = connect(try await second.start())
            #expect(second.isOurs)
            #expect(try await again.query("SELECT n FROM kept")[0]["n"].int == 42)
            await again.close()
            await second.stop()
        }
    }

    @Test(.timeLimit(.minutes(2))) func aServerThatWasKilledStartsAgainOverItsStaleFile() async throws {
        try await withFolder { folder in
            let server = EmbeddedPostgres(dataDirectory: folder)
            let url = try await server.start()
            let client = connect(url)
            try await client.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
            let places = try EmbeddedPlaces(folder: folder)
            let process = try #require(PostmasterFile.ofRunningServer(in: places.data)).process
            kill(process, SIGKILL)
            #expect(await server.exitStatus() == 128 + SIGKILL)
            #expect(FileManager.default.fileExists(atPath: places.data + "/postmaster.pid"))
            #expect(EmbeddedPostgres.runningURL(dataDirectory: folder) == nil)
            // The killed server's backends hold its shared memory for a moment still.
            #expect(try await server.start() == url)
            #expect(try await client.query("SELECT n FROM kept")[0]["n"].int == 1)
            await client.close()
            await server.stop()
        }
    }

    @Test(.timeLimit(.minutes(2))) func startersAtTheSameTimeShareOneServer() async throws {
        try await withFolder { folder in
            let servers = (0..<4).map { _ in EmbeddedPostgres(dataDirectory: folder, durability: .testing) }
            let urls = try await withThrowingTaskGroup(of: String.self) { group in
                for server in servers { group.addTask { try await server.start() } }
                return try await group.reduce(into: Set<String>()) { $0.insert($1) }
            }
            #expect(urls.count == 1)
            #expect(servers.count { $0.isOurs } == 1)
            for server in servers { await server.stop() }
        }
    }

    @Test(.timeLimit(.minutes(2))) func writersThatTryAgainLoseNothingOverRestarts() async throws {
        try await withFolder { folder in
            let server = EmbeddedPostgres(dataDirectory: folder)
            let url = try await server.start()
            let client = connect(url)
            try await client.execute("CREATE TABLE log (writer int, n int, PRIMARY KEY (writer, n))")
            let writers = (0..<4).map { writer in
                Task {
                    for number in 0..<150 {
                        while true {
                            do {
                                try await client.query(
                                    "INSERT INTO log VALUES ($1, $2) ON CONFLICT DO NOTHING", [.int(writer), .int(number)])
                                break
                            } catch let error as PostgresError where error.isRetryable {
                                try await Task.sleep(for: .milliseconds(20))
                            }
                        }
                        try await Task.sleep(for: .milliseconds(2))
                    }
                }
            }
            var heard = client.listen("x").makeAsyncIterator()
            #expect(await heard.next() == .reconnected)
            for _ in 0..<2 {
                try await Task.sleep(for: .milliseconds(60))
                await server.stop()
                _ = try await server.start()
                #expect(await heard.next() == .reconnected)
            }
            for writer in writers { try await writer.value }
            #expect(try await client.query("SELECT count(*) AS n FROM log")[0]["n"].int == 600)
            await client.close()
            await server.stop()
        }
    }

    /// As root the database lies elsewhere and outlives its folder: who makes the folder anew must not find what somebody deleted.
    @Test(.timeLimit(.minutes(2))) func aNewFolderAtTheSamePathGetsADatabaseOfItsOwn() async throws {
        try await withFolder { folder in
            let home = try EmbeddedPlaces(folder: folder).home
            let server = EmbeddedPostgres(dataDirectory: folder, durability: .testing)
            let client = connect(try await server.start())
            try await client.execute("CREATE TABLE kept (n int)")
            try FileManager.default.removeItem(atPath: folder)
            if getuid() == 0 {
                // The old one's server is not taken for the new folder's either.
                #expect(EmbeddedPostgres.runningURL(dataDirectory: folder) == nil)
                await #expect(throws: EmbeddedPostgresError.self) {
                    try await EmbeddedPostgres(dataDirectory: folder, durability: .testing).start()
                }
            }
            await client.close()
            await server.stop()

            let next = EmbeddedPostgres(dataDirectory: folder, durability: .testing)
            let fresh = connect(try await next.start())
            #expect(try await fresh.query("SELECT to_regclass('kept') IS NULL AS gone")[0]["gone"].bool)
            try await fresh.execute("CREATE TABLE mine (n int)")
            await fresh.close()
            await next.stop()
            // It stays this folder's.
            let again = connect(try await next.start())
            #expect(try await again.query("SELECT count(*) FROM mine")[0][0].int == 0)
            await again.close()
            await next.stop()
            if getuid() == 0 {
                let aside = try FileManager.default.contentsOfDirectory(atPath: home).filter { $0.hasPrefix("data-of-") }
                #expect(aside.count == 1)
                #expect(FileManager.default.fileExists(atPath: "\(home)/\(aside.first ?? "")/PG_VERSION"))
                // Neither does the removal of the new one take it along.
                EmbeddedPostgres.destroy(dataDirectory: folder)
                #expect(try FileManager.default.contentsOfDirectory(atPath: home) == aside)
                try FileManager.default.removeItem(atPath: home)
            }
        }
    }

    @Test func asRootDataAndSocketLieWhereTheServersUserMayGo() throws {
        let places = try EmbeddedPlaces(folder: "/root/some/very/long/path/" + String(repeating: "x", count: 150))
        #expect((places.socket + "/.s.PGSQL.5432").utf8.count < 100)
        if getuid() == 0 {
            #expect(places.data.hasPrefix("/var/lib/foretaste/") && places.socket.hasPrefix("/run/foretaste/"))
            #expect(places.user != nil)
        }
    }

    @Test func thePostmastersFileIsRead() {
        let file = PostmasterFile("4711\n/data\n1763708400\n5432\n/run/x\n\n  1234 5678\nready   \n")
        #expect(file?.process == 4711 && file?.socketDirectory == "/run/x" && file?.status == .ready)
        #expect(PostmasterFile("4711\n/data\n1763708400\n5432\n/run/x\n")?.status == .starting)
        #expect(PostmasterFile("") == nil)
    }
}
