import Artifacts
import DemoWorld
import Foundation
import Logging
import Postgres
import ServiceKit

/// The ground the demo stands on: a fresh data folder with a private PostgreSQL, an artifact server, and the four services, all of it gone at
/// the end.
enum DemoPlatform {
    /// Runs the demo and answers the report's path.
    static func run(settings: DemoSettings, output: String) async throws -> String {
        let output = output.hasSuffix("/") ? String(output.dropLast()) : output
        let terminal = Terminal()
        let started = Date()
        try prepare(output)
        terminal.headline("Foretaste demo: seed \(settings.seed), writing to \(output)")

        let data = FileManager.default.temporaryDirectory.appending(path: "foretaste-demo-\(ProcessInfo.processInfo.processIdentifier)")
            .path(percentEncoded: false)
        // Only what the demo itself says counts: not the user's database, store or allow-list.
        let own = ServiceEnvironment(
            ServiceEnvironment.process.variables.filter { name, _ in !name.hasPrefix("DATABASE_URL") && !name.hasPrefix("FORETASTE_") })
        let store = try await ArtifactProcess(root: data + "/artifacts", scratch: data, environment: own)
        defer {
            EmbeddedPostgres.destroy(dataDirectory: data)
            try? FileManager.default.removeItem(atPath: data)
        }
        let url = try await store.url()
        let folder = try DataFolder(
            option: data,
            environment: own.merging([
                "FORETASTE_ARTIFACTS_ALLOW": url + "/", "FORETASTE_ARTIFACTS_STORE": url + "/", "FORETASTE_LOG_LEVEL": "warning",
            ]))
        var options = try SupervisorOptions(folder: folder)
        options.databaseURL = nil
        options.output = .folder(output + "/logs")
        let supervisor = Supervisor(options, logger: Logger(label: "demo", factory: { _ in SwiftLogNoOpLogHandler() }))
        let interrupted = TerminationSignals()
        let system = try await supervisor.start()
        terminal.finished(
            "start the services", seconds: Date().timeIntervalSince(started), "PostgreSQL and \(system.processes.count) services of its own"
        )
        let result = await outcome(
            settings: settings, output: output, terminal: terminal, system: system, store: url, interrupted: interrupted)
        await supervisor.stop()
        await store.stop()
        if interrupted.arrived, case .failure = result { throw CommandFailure(description: "the demo was interrupted") }
        let figures = try result.get()
        terminal.headline(
            String(
                format: "Done in %.0f s. %d of %d figures reached.", Date().timeIntervalSince(started),
                figures.targets.count { $0.reached }, figures.targets.count))
        for finding in figures.findings { terminal.headline("  - " + finding.text) }
        return output + "/report.html"
    }

    private static func outcome(
        settings: DemoSettings, output: String, terminal: Terminal, system: RunningSystem, store: String, interrupted: TerminationSignals
    ) async -> Result<DemoFigures, any Error> {
        let work = Task { () throws -> DemoFigures in
            let client = PostgresClient(
                configuration: PostgresConfiguration(url: system.databaseURL), maximumConnections: 4, applicationName: "foretaste demo")
            let services = DemoServices(
                ingest: system.ingest, scorer: system.scorer, client: client, http: HTTPClient(apiKey: system.apiKey))
            let run = try DemoRun(
                settings: settings, output: output, terminal: terminal, services: services, store: ArtifactStore(location: store + "/"))
            do {
                try await run.run()
            } catch {
                await client.close()
                throw error
            }
            await client.close()
            return run.figures
        }
        let watch = Task {
            await interrupted.first()
            if interrupted.arrived { work.cancel() }
        }
        defer { watch.cancel() }
        return await work.result
    }

    /// The output folder with the base generator in it; what an earlier run left is replaced file by file.
    private static func prepare(_ output: String) throws {
        let files = FileManager.default
        let generator = output + "/generator"
        try files.createDirectory(atPath: generator, withIntermediateDirectories: true)
        for name in try files.contentsOfDirectory(atPath: DemoResources.generator)
        where name.hasSuffix(".json") || name.hasSuffix(".safetensors") {
            try? files.removeItem(atPath: generator + "/" + name)
            try files.copyItem(atPath: DemoResources.generator + "/" + name, toPath: generator + "/" + name)
        }
    }
}
