import Foundation
import Glibc
public import Logging
import Synchronization

/// Why a private server could not be had.
public struct EmbeddedPostgresError: Error, Sendable, CustomStringConvertible {
    /// What happened, for a person.
    public let description: String
    init(_ description: String) { self.description = description }
}

/// A PostgreSQL server of our own over a folder, reachable through a Unix socket alone.
///
/// It ends with the process that started it. A second process over the same folder finds the running server and uses it.
public final class EmbeddedPostgres: Sendable {
    /// Whether data survives a power cut.
    public enum Durability: Sendable {
        /// `fsync` on: for data that matters.
        case durable
        /// Everything that costs time off: for tests.
        case testing
    }

    /// The server's superuser, and the database that ``start()`` makes.
    public static let databaseName = "foretaste"

    private let folder: String
    private let durability: Durability
    private let searchPath: [String]
    private let settings: [String: String]
    private let logger: Logger
    private let server = Mutex<ChildProcess?>(nil)

    /// Names a server; nothing happens before ``start()``.
    ///
    /// - Parameters:
    ///   - dataDirectory: the data lies below it (as root below `/var/lib/foretaste`, under a name made from this path and marked as this
    ///     folder's: another folder that is made at the same path later gets a database of its own).
    ///   - durability: whether data survives a power cut.
    ///   - settings: further server settings, such as `["max_connections": "50"]`.
    ///   - searchPath: folders to look for `initdb` and `postgres` in, besides the usual ones.
    public init(
        dataDirectory: String, durability: Durability = .durable, settings: [String: String] = [:], searchPath: [String] = [],
        logger: Logger = Logger(label: "postgres.embedded")
    ) {
        folder = dataDirectory
        self.durability = durability
        self.settings = settings
        self.searchPath = searchPath
        self.logger = logger
    }

    /// The connection URL of the server that runs over a folder now, whoever started it; nil when none does.
    public static func runningURL(dataDirectory: String) -> String? {
        guard let places = try? EmbeddedPlaces(folder: dataDirectory), let file = PostmasterFile.ofRunningServer(in: places.data),
            file.status == .ready, FolderMarker(folder: dataDirectory, places: places)?.fits ?? true
        else { return nil }
        return url(socket: file.socketDirectory)
    }

    /// Whether this object's server process is alive and was started here.
    public var isOurs: Bool { server.withLock { $0?.isRunning ?? false } }

    /// Waits until the server that was started here ends, which is a failure unless ``stop()`` was called. Returns at once when it
    /// was found running.
    public func exitStatus() async -> Int32? {
        guard let child = server.withLock({ $0 }) else { return nil }
        return await child.exitStatus()
    }

    /// Starts the server, or finds it running, and returns the URL of its database `foretaste`.
    public func start() async throws -> String {
        let places = try EmbeddedPlaces(folder: folder)
        try places.prepare()
        // One process at a time looks, makes and starts; the others find what it started.
        let lock = try await lockFile(places.home + "/lock")
        defer { close(lock) }
        let marker = FolderMarker(folder: folder, places: places)
        if let running = try await runningServer(places) {
            guard marker?.fits ?? true else {
                throw EmbeddedPostgresError(
                    "PostgreSQL (process \(running.process)) still runs over \(places.data), the database of a folder that was at \(folder) before; end it first"
                )
            }
            return try await withDatabase(socket: running.socketDirectory)
        }
        if let marker, !marker.fits { try begin(marker, places) }
        let version = FileManager.default.contents(atPath: places.data + "/PG_VERSION")
            .flatMap { Int(String(decoding: $0, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)) }
        let installation = try PostgresInstallation.find(majorVersion: version, searchPath: searchPath)
        if version == nil { try await initialise(places, installation) }
        try await launch(places, installation)
        return try await withDatabase(socket: places.socket)
    }

    /// Stops the server if it was started here: fast shutdown, harder after ten seconds.
    public func stop() async {
        guard let child = server.withLock({ $0 }), child.isRunning else { return }
        child.signal(SIGINT)
        if await child.ends(within: 10) { return }
        logger.warning("the private PostgreSQL does not stop; immediate shutdown")
        child.signal(SIGQUIT)
        if await child.ends(within: 5) { return }
        child.signal(SIGKILL)
        _ = await child.exitStatus()
    }

    /// Kills the server over a folder and removes its data, its socket and the folder: for tests and throw-away databases. Blocks.
    public static func destroy(dataDirectory: String) {
        guard let places = try? EmbeddedPlaces(folder: dataDirectory) else { return }
        if let file = PostmasterFile.ofRunningServer(in: places.data) {
            // Immediate shutdown: nothing is kept, so nothing is written.
            kill(file.process, SIGQUIT)
            for _ in 0..<500 where kill(file.process, 0) == 0 && PostmasterFile.ofRunningServer(in: places.data) != nil { usleep(10_000) }
        }
        // What was set aside belongs to somebody else.
        let entries = (try? FileManager.default.contentsOfDirectory(atPath: places.home)) ?? []
        let mine = entries.filter { !$0.hasPrefix("data-of-") }
        let whole = mine.count == entries.count ? [places.home] : mine.map { "\(places.home)/\($0)" }
        for path in whole + [places.socket, dataDirectory] { try? FileManager.default.removeItem(atPath: path) }
    }

    private static func url(socket: String, database: String = databaseName) -> String {
        "postgresql:///\(database)?host=\(socket)&user=\(databaseName)"
    }

    // MARK: - Steps

    /// A data folder without a database of its own gets a new one, whatever lies where that would be: it was a folder's that is gone.
    private func begin(_ marker: FolderMarker, _ places: EmbeddedPlaces) throws {
        if access(places.data, F_OK) == 0 {
            let place = try marker.setAside(places.data)
            logger.warning(
                "A new database is made: the one that was here belongs to another folder of this path. It was kept, and may be removed",
                metadata: ["folder": "\(folder)", "old": "\(place)"])
        } else if marker.isInFolder {
            logger.warning(
                "A new database is made: the one that this folder had is not where it was. Was the folder copied from elsewhere?",
                metadata: ["folder": "\(folder)", "expected": "\(places.data)"])
        }
        try marker.write()
    }

    /// A server that lives and is not about to die, once it is ready.
    private func runningServer(_ places: EmbeddedPlaces) async throws -> PostmasterFile? {
        let deadline = PollLoop.now + 30_000_000_000
        while let file = PostmasterFile.ofRunningServer(in: places.data) {
            if file.status == .ready, !file.isOrphaned { return file }
            guard PollLoop.now < deadline else {
                if file.status == .ready { return file }
                throw EmbeddedPostgresError(
                    "PostgreSQL (process \(file.process)) over \(places.data) has been \(file.status.rawValue) for 30 s")
            }
            try await PostgresActor.sleep(seconds: 0.05)
        }
        return nil
    }

    /// `initdb` into a folder beside, then a rename: a cluster that was being made when the power went is no cluster.
    private func initialise(_ places: EmbeddedPlaces, _ installation: PostgresInstallation) async throws {
        let fresh = places.data + ".new"
        try? FileManager.default.removeItem(atPath: fresh)
        var arguments = ["-D", fresh, "-U", Self.databaseName, "-A", "trust", "--locale=C", "-E", "UTF8"]
        if durability == .testing { arguments.append("--no-sync") }
        let log = places.home + "/initdb.log"
        let child = try await run(installation.binaries + "/initdb", arguments, places, log: log, signal: SIGKILL)
        guard await child.exitStatus() == 0 else { throw EmbeddedPostgresError("initdb failed: \(Self.tail(log))") }
        guard rename(fresh, places.data) == 0 else {
            throw EmbeddedPostgresError("cannot rename \(fresh): \(String(cString: strerror(errno)))")
        }
    }

    private func launch(_ places: EmbeddedPlaces, _ installation: PostgresInstallation) async throws {
        var configuration = [
            "listen_addresses": "", "unix_socket_directories": places.socket, "unix_socket_permissions": "0700", "port": "5432",
            "max_connections": "200", "client_connection_check_interval": "5s", "log_line_prefix": "%m [%p] %a ",
        ]
        if durability == .testing {
            configuration.merge(
                [
                    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "wal_level": "minimal",
                    "max_wal_senders": "0", "shared_buffers": "32MB",
                ]) { $1 }
        }
        configuration.merge(settings) { $1 }
        let arguments = ["-D", places.data] + configuration.sorted { $0.key < $1.key }.flatMap { ["-c", "\($0.key)=\($0.value)"] }
        let log = places.home + "/server.log"
        // The parent-death signal asks for a fast shutdown: backends are ended, and the next start needs no recovery.
        let child = try await run(installation.binaries + "/postgres", arguments, places, log: log, signal: SIGINT)
        server.withLock { $0 = child }
        let deadline = PollLoop.now + 60_000_000_000
        while true {
            if let file = PostmasterFile.ofRunningServer(in: places.data), file.process == child.identifier, file.status == .ready { break }
            guard child.isRunning else { throw EmbeddedPostgresError("PostgreSQL did not start: \(Self.tail(log))") }
            guard PollLoop.now < deadline else {
                await stop()
                throw EmbeddedPostgresError("PostgreSQL was not ready within 60 s: \(Self.tail(log))")
            }
            try await PostgresActor.sleep(seconds: 0.005)
        }
        logger.debug("private PostgreSQL started", metadata: ["process": "\(child.identifier)", "data": "\(places.data)"])
    }

    /// Makes the database unless it exists, and returns its URL.
    private func withDatabase(socket: String) async throws -> String {
        let client = PostgresClient(
            configuration: PostgresConfiguration(url: Self.url(socket: socket, database: "postgres")), maximumConnections: 1, logger: logger
        )
        do {
            if try await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [.string(Self.databaseName)]).isEmpty {
                try await client.query("CREATE DATABASE \(Self.databaseName)")
            }
        } catch let error as PostgresError where error.sqlState == "42P04" || error.isUniqueViolation {
            // Somebody else was faster.
        }
        await client.close()
        return Self.url(socket: socket)
    }

    private func run(
        _ program: String, _ arguments: [String], _ places: EmbeddedPlaces, log: String, signal: CInt
    ) async throws -> ChildProcess {
        let output = open(log, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | Self.logMode(log), 0o600)
        guard output >= 0 else { throw EmbeddedPostgresError("cannot write \(log): \(String(cString: strerror(errno)))") }
        defer { close(output) }
        var request = ChildProcess.Request(
            path: program, arguments: arguments, environment: ["PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"], directory: "/")
        request.standardOutput = output
        request.standardError = output
        request.user = places.user.map { ($0.identifier, $0.group) }
        request.deathSignal = signal
        return try await ChildProcess.start(request)
    }

    /// A log is continued until it is large, then begun anew.
    private static func logMode(_ path: String) -> CInt {
        var information = stat()
        return stat(path, &information) == 0 && information.st_size > 10 << 20 ? O_TRUNC : O_APPEND
    }

    private static func tail(_ log: String) -> String {
        let text = String(decoding: FileManager.default.contents(atPath: log) ?? Data(), as: UTF8.self)
        return text.split(separator: "\n").suffix(5).joined(separator: " | ")
    }

    private func lockFile(_ path: String) async throws -> CInt {
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw EmbeddedPostgresError("cannot open \(path): \(String(cString: strerror(errno)))") }
        do {
            while flock(descriptor, LOCK_EX | LOCK_NB) != 0 { try await PostgresActor.sleep(seconds: 0.02) }
        } catch {
            close(descriptor)
            throw error
        }
        return descriptor
    }
}
