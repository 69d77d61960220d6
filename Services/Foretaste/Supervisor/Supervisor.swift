import Access
import Foundation
import Logging
import Migrations
import Postgres
import ServiceKit

/// What to run, and over what.
struct SupervisorOptions: Sendable {
    /// The folder that the system is known by.
    var folder: DataFolder
    /// The database; nil for a private one in the folder.
    var databaseURL: String?
    /// Whether the private database survives a power cut.
    var durability = EmbeddedPostgres.Durability.durable
    /// Which services.
    var services = ServiceProgram.all
    /// The folder of their executables.
    var programs = SupervisorOptions.ownFolder
    /// Where their logs go.
    var output = ServiceOutput.standardError
    /// A file that appears when everything answers.
    var readyFile: String?
    /// How long everything may take to become ready, in seconds.
    var startDeadline = 120.0

    /// `DATABASE_URL` decides about the database unless the caller says otherwise.
    init(folder: DataFolder) throws {
        self.folder = folder
        databaseURL = try folder.environment.secret("DATABASE_URL")
    }

    /// The folder of the running executable, whatever it was called by.
    static var ownFolder: String {
        let executable = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
        return (executable as NSString).deletingLastPathComponent
    }
}

/// Runs a whole system on this machine: database, migrations, services. What it starts ends with it.
actor Supervisor {
    /// How long services may take to end before they are killed, in seconds. Together with the database's ten, below thirty.
    static let stopDeadline = 16.0

    private let options: SupervisorOptions
    private let logger: Logger
    private var lock: FolderLock?
    private var server: EmbeddedPostgres?
    private var serverWatch: Task<Void, Never>?
    private var services: [SupervisedService] = []
    private var databaseURL = ""
    private var runKey: RunKey?
    private var isReady = false
    private var isStopping = false

    init(_ options: SupervisorOptions, logger: Logger = Logger(label: "foretaste.up")) {
        self.options = options
        self.logger = logger
    }

    /// Starts everything and returns once all of it answers `/readyz`. On an error everything is stopped again.
    func start() async throws -> RunningSystem {
        do {
            return try await startAll()
        } catch {
            await stop()
            throw error
        }
    }

    /// Ends everything that was started: services first, then the database. Within thirty seconds; may be called more than once.
    func stop() async {
        isStopping = true
        isReady = false
        // Without the lock the files are those of the system that runs already.
        if lock != nil {
            for path in [options.readyFile, options.folder.runningFile] { path.map { _ = unlink($0) } }
        }
        for service in services { await service.terminate() }
        await withTaskGroup(of: Void.self) { group in
            for service in services { group.addTask { await service.end(within: Self.stopDeadline) } }
        }
        services = []
        await runKey?.end()
        runKey = nil
        serverWatch?.cancel()
        await server?.stop()
        server = nil
        lock = nil
    }

    /// What runs now.
    func system() async -> RunningSystem {
        var system = RunningSystem(ingest: "", scorer: "", databaseURL: databaseURL, apiKey: runKey?.key.text ?? "", processes: [:])
        for service in services {
            let url = await service.url ?? ""
            if service.program.name == "ingest" { system.ingest = url }
            if service.program.name == "scorer" { system.scorer = url }
            system.processes[service.program.name] = await service.process
        }
        return system
    }

    /// Starts everything, calls `ready`, and stays until SIGTERM or SIGINT; then ends everything.
    static func runUntilSignal(
        _ options: SupervisorOptions, logger: Logger = Logger(label: "foretaste.up"),
        ready: @escaping @Sendable (RunningSystem) -> Void = { _ in }
    ) async throws {
        let supervisor = Supervisor(options, logger: logger)
        let signals = TerminationSignals()
        // A signal may come while things are still starting.
        let starting = Task { ready(try await supervisor.start()) }
        let watching = Task {
            await signals.first()
            starting.cancel()
        }
        do {
            try await starting.value
        } catch {
            watching.cancel()
            await supervisor.stop()
            if signals.arrived { return }
            throw error
        }
        await watching.value
        logger.info("stopping")
        await supervisor.stop()
    }

    // MARK: - Steps

    private func startAll() async throws -> RunningSystem {
        let folder = options.folder
        try folder.make()
        guard let lock = try FolderLock(folder.lockFile) else {
            throw CommandFailure(description: "a system is running over \(folder.path) already")
        }
        self.lock = lock
        for path in [folder.runningFile, options.readyFile] { path.map { _ = unlink($0) } }
        databaseURL = try await database()
        let client = PostgresClient(configuration: PostgresConfiguration(url: databaseURL), maximumConnections: 1, logger: logger)
        do {
            let applied = try await BundledMigrations.migrate(client)
            if !applied.isEmpty { logger.info("migrated the database", metadata: ["migrations": "\(applied.count)"]) }
            await client.close()
        } catch {
            await client.close()
            throw error
        }
        try Task.checkCancellation()
        runKey = try await RunKey(databaseURL: databaseURL, logger: logger)
        try await startServices()
        isReady = true
        await publish()
        return await system()
    }

    private func database() async throws -> String {
        if let url = options.databaseURL { return url }
        let server = EmbeddedPostgres(dataDirectory: options.folder.path, durability: options.durability, logger: logger)
        self.server = server
        let url = try await server.start()
        serverWatch = Task { await self.watch(server) }
        return url
    }

    /// Starts a private server that died again; clients come back to the same socket.
    private func watch(_ server: EmbeddedPostgres) async {
        var policy = RestartPolicy()
        let clock = ContinuousClock()
        while !isStopping, !Task.isCancelled {
            let began = clock.now
            guard let status = await server.exitStatus(), !isStopping else { return }
            let pause = policy.pause(afterLiving: (clock.now - began) / .seconds(1))
            logger.error("the private PostgreSQL ended; starting it again", metadata: ["status": "\(status)", "pause_s": "\(pause)"])
            try? await Task.sleep(for: .seconds(pause))
            guard !isStopping else { return }
            do {
                _ = try await server.start()
            } catch {
                logger.error("the private PostgreSQL could not be started", metadata: ["error": "\(error)"])
            }
        }
    }

    private func startServices() async throws {
        var changes = ["DATABASE_URL": databaseURL, "DATABASE_URL_FILE": ""]
        // Services end before we lose patience with them.
        if options.folder.environment.string("FORETASTE_SHUTDOWN_SECONDS") == nil {
            changes["FORETASTE_SHUTDOWN_SECONDS"] = String(Self.stopDeadline - 3)
        }
        let environment = options.folder.environment.merging(changes)
        let scratch = options.folder.path + "/run"
        try FileManager.default.createDirectory(
            atPath: scratch, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        services = options.services.map { program in
            SupervisedService(
                program, folder: options.programs, environment: environment, scratch: scratch, output: options.output, logger: logger
            ) { [weak self] in await self?.publish() }
        }
        for service in services { await service.start() }
        let deadline = options.startDeadline
        try await withThrowingTaskGroup(of: Void.self) { group in
            for service in services { group.addTask { try await service.waitUntilReady(within: deadline) } }
            // One that cannot start ends the waiting for the others.
            try await group.waitForAll()
        }
    }

    /// Writes the files that tell what runs, again whenever a service has a new process.
    private func publish() async {
        guard isReady else { return }
        let system = await system()
        guard isReady else { return }
        do {
            try system.write(to: options.folder.runningFile)
            if let file = options.readyFile { try system.write(to: file) }
        } catch {
            logger.error("cannot say what runs", metadata: ["error": "\(error)"])
        }
    }
}
