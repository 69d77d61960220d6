import Foundation
import Glibc
import Logging
import Migrations
import Postgres

/// What the harness itself could not do; never a violation.
public struct ChaosError: Error, Sendable, CustomStringConvertible {
    /// What happened.
    public let description: String
    init(_ description: String) { self.description = description }
}

let quiet: Logger = {
    var logger = Logger(label: "chaos")
    logger.logLevel = .critical
    return logger
}()

/// The harness's own PostgreSQL, which it restarts, kills and starves.
///
/// Commits are synchronous as in production, without `fsync`: processes die here, the machine does not.
public actor ChaosServer {
    private let folder: String
    private var server: EmbeddedPostgres
    private var baseURL = ""
    private var dataDirectory = ""
    private var counter = 0
    private static let template = "chaos_template"

    static let settings = [
        "synchronous_commit": "on", "fsync": "off", "max_connections": "90", "superuser_reserved_connections": "3",
        "max_prepared_transactions": "0", "deadlock_timeout": "200ms",
        // Counts statements, for the idle test.
        "shared_preload_libraries": "pg_stat_statements",
        // So that the log fits on the small disk that one fault fills.
        "min_wal_size": "32MB", "max_wal_size": "64MB",
    ]

    /// Starts a server in a temporary place and makes the database that every round starts from.
    public init() async throws {
        folder = FileManager.default.temporaryDirectory.path + "/foretaste-chaos-\(getpid())"
        server = EmbeddedPostgres(dataDirectory: folder, durability: .testing, settings: Self.settings, logger: quiet)
        ChaosCleanUp.register(folder)
        baseURL = try await server.start()
        let client = client(EmbeddedPostgres.databaseName)
        dataDirectory = try await client.query("show data_directory")[0][0].string
        try await client.query("create database \(Self.template)")
        await client.close()
        let watcher = self.client("postgres", connections: 1)
        try await watcher.query("create extension pg_stat_statements")
        await watcher.close()
        let fresh = self.client(Self.template)
        try await BundledMigrations.migrate(fresh)
        for script in [Instrumentation.queues, Instrumentation.tables, Instrumentation.points] { try await fresh.execute(script) }
        await fresh.close()
    }

    /// PostgreSQL's socket.
    var socketPath: String {
        let host = baseURL.firstMatch(of: /host=([^&]+)/).map { String($0.output.1) } ?? ""
        return host + "/.s.PGSQL.5432"
    }

    func url(_ database: String) -> String { baseURL.replacing("/\(EmbeddedPostgres.databaseName)?", with: "/\(database)?") }

    /// Straight to the server, past every fault of the network.
    func client(_ database: String, connections: Int = 4, name: String = "harness") -> PostgresClient {
        var configuration = PostgresConfiguration(url: url(database))
        configuration.connectTimeout = 5
        return PostgresClient(configuration: configuration, maximumConnections: connections, applicationName: name, logger: quiet)
    }

    /// A fresh database with the queue's schema and the instruments; its name.
    func makeDatabase() async throws -> String {
        counter += 1
        let name = "chaos_\(counter)"
        let client = client("postgres", connections: 1)
        try await client.query("create database \(name) template \(Self.template)")
        // A sequence that is copied in the middle of what it has logged ahead logs nothing for a while, and is set back by a crash; not
        // after a checkpoint. (The product's databases are migrated, not copied.)
        try await client.query("checkpoint")
        await client.close()
        return name
    }

    func drop(_ database: String) async {
        let client = client("postgres", connections: 1)
        _ = try? await client.query("drop database if exists \(database) with (force)")
        await client.close()
    }

    enum Restart: Sendable, CaseIterable { case fast, immediate, backendKilled }

    /// Takes the server down and up again. `backend` is the process that dies when it is one backend's death that takes the others along.
    func restart(_ how: Restart, backend: Int32?) async throws {
        switch how {
        case .backendKilled:
            guard let backend else { throw ChaosError("the victim has no backend") }
            kill(backend, SIGKILL)
        case .fast, .immediate:
            guard let postmaster else { throw ChaosError("no postmaster") }
            kill(postmaster, how == .fast ? SIGINT : SIGQUIT)
            _ = await server.exitStatus()
        }
        try await revive()
    }

    /// Starts the server if it is down, and waits until it answers.
    func revive() async throws {
        for attempt in 0..<60 {
            if !server.isOurs || attempt == 30 {
                server = EmbeddedPostgres(dataDirectory: folder, durability: .testing, settings: Self.settings, logger: quiet)
                _ = try? await server.start()
            }
            let client = client("postgres", connections: 1)
            let answers = (try? await client.query("select 1")) != nil
            await client.close()
            if answers { return }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw ChaosError("PostgreSQL did not come back")
    }

    private var postmaster: pid_t? {
        let text = FileManager.default.contents(atPath: dataDirectory + "/postmaster.pid").map { String(decoding: $0, as: UTF8.self) }
        return text?.split(separator: "\n").first.flatMap { pid_t($0) }
    }

    // MARK: - A small disk for the write-ahead log

    private var smallDisk: String?

    /// Moves the write-ahead log onto a small file system of its own. Takes root; answers why it cannot be done otherwise.
    func shrinkDisk() async throws -> String? {
        guard smallDisk == nil else { return nil }
        guard getuid() == 0 else { return "a small file system for the write-ahead log takes root" }
        let mountPoint = "/var/lib/foretaste/chaos-wal-\(getpid())"
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
        guard mount("tmpfs", mountPoint, "tmpfs", 0, "size=144m") == 0 else {
            let reason = "mount: \(String(cString: strerror(errno)))"
            try? FileManager.default.removeItem(atPath: mountPoint)
            return reason
        }
        ChaosCleanUp.registerMount(mountPoint)
        await server.stop()
        let (log, moved) = (dataDirectory + "/pg_wal", mountPoint + "/pg_wal")
        try FileManager.default.copyItem(atPath: log, toPath: moved)
        var owner = stat()
        stat(dataDirectory, &owner)
        chown(mountPoint, owner.st_uid, owner.st_gid)
        for path in [moved] + ((try? FileManager.default.subpathsOfDirectory(atPath: moved)) ?? []).map({ moved + "/" + $0 }) {
            chown(path, owner.st_uid, owner.st_gid)
        }
        try FileManager.default.removeItem(atPath: log)
        try FileManager.default.createSymbolicLink(atPath: log, withDestinationPath: moved)
        smallDisk = mountPoint
        try await revive()
        return nil
    }

    /// Fills the log's disk to the last block, or makes room again.
    func fillDisk(_ full: Bool) {
        if let smallDisk { Self.fill(smallDisk, full) }
    }

    /// Writes a file until there is no room left, or removes it.
    nonisolated static func fill(_ folder: String, _ full: Bool) {
        let ballast = folder + "/ballast"
        unlink(ballast)
        guard full else { return }
        let descriptor = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        let block = [UInt8](repeating: 1, count: 1 << 20)
        var size = block.count
        while size >= 4096 { if write(descriptor, block, size) < size { size /= 2 } }
        close(descriptor)
    }

    /// Stops the server and removes what it wrote.
    public func stop() async {
        await server.stop()
        ChaosCleanUp.run()
    }
}

/// What is removed at the end, whichever end it is.
enum ChaosCleanUp {
    private nonisolated(unsafe) static var folders: [String] = []
    private nonisolated(unsafe) static var mounts: [String] = []
    private static let lock = NSLock()

    static func register(_ folder: String) {
        lock.withLock {
            if folders.isEmpty, mounts.isEmpty { atexit { ChaosCleanUp.run() } }
            folders.append(folder)
        }
    }

    static func registerMount(_ path: String) { lock.withLock { mounts.append(path) } }

    static func run() {
        let (folders, mounts) = lock.withLock {
            defer { (Self.folders, Self.mounts) = ([], []) }
            return (Self.folders, Self.mounts)
        }
        for folder in folders { EmbeddedPostgres.destroy(dataDirectory: folder) }
        for path in mounts {
            umount2(path, CInt(MNT_DETACH))
            rmdir(path)
        }
    }
}
