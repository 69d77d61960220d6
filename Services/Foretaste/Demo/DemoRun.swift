import Alignment
import Artifacts
import Backbones
import DemoWorld
import Foundation
import JobQueue
import Preferences
import Tensors

/// The whole loop, step by step: sample, label, train, prune, tune, report. Each step's file says what it does.
final class DemoRun {
    static let vae = "demo-haar"
    static let generatorName = "wan-demo"
    static let rewardName = "reward-overall"

    let settings: DemoSettings
    let output: String
    let terminal: Terminal
    let services: DemoServices
    let store: ArtifactStore
    let sampler: DemoSampler
    let world: DemoConditioning
    var figures = DemoFigures()
    var sheets: [ReportPage.Sheet] = []

    init(settings: DemoSettings, output: String, terminal: Terminal, services: DemoServices, store: ArtifactStore) throws {
        self.settings = settings
        self.output = output
        self.terminal = terminal
        self.services = services
        self.store = store
        sampler = try DemoSampler(folder: output + "/generator", settings: settings)
        world = sampler.world
        figures.seed = Int(settings.seed)
        figures.machine = machine
    }

    func run() async throws {
        let registry = ModelRegistry(client: services.client)
        let generator = try await ModelImport.register(output + "/generator", name: Self.generatorName, registry: registry, store: store)

        let pool = try await timed("sample and label") { try await sampleAndLabel(generator: generator.reference) }
        let reward = try await timed("train the reward") { try await trainReward(generator: generator.reference) }
        let tests = try await timed("sample Best-of-8 candidates") { try await sampleBestOfN() }
        try await timed("evaluate the reward") { try await evaluateReward(reward, pool: pool, tests: tests) }
        try await timed("train a head for each axis") { try await trainAxes(pool: pool, generator: generator.reference, tests: tests) }
        try await timed("prune Best-of-8") { try await bestOfN(tests) }
        let adapters = try await timed("tune the generator") { try await tune(generator: generator.reference) }
        try await timed("compare tuned and base") { try await compare(adapters, reward: reward) }
        try await report()
    }

    /// Runs one step of the demo and notes its wall seconds; `body` answers the step's line on the terminal.
    private func timed<Value>(_ step: String, _ body: () async throws -> (Value, String)) async throws -> Value {
        let started = Date()
        let (value, line) = try await body()
        let seconds = Date().timeIntervalSince(started)
        figures.seconds[step] = seconds
        figures.step_order.append(step)
        terminal.finished(step, seconds: seconds, line)
        return value
    }

    private func timed(_ step: String, _ body: () async throws -> String) async throws {
        try await timed(step) { ((), try await body()) }
    }

    /// The jobs that ran and what was fetched, then the two reports.
    private func report() async throws {
        figures.jobs = try await services.queue.list(limit: 100_000).map { job in
            DemoFigures.Job(
                id: String(job.id), kind: job.kind, state: job.state.rawValue, attempts: job.attempt, worker: job.worker ?? "",
                pid: job.pid ?? 0,
                seconds: job.startedAt.flatMap { start in job.finishedAt.map { $0.timeIntervalSince(start) } } ?? 0)
        }.reversed()
        figures.fetches = try await ArtifactFetchLog(client: services.client).list().map {
            DemoFigures.Fetch(url: $0.url, sha256: $0.sha256, bytes: Int($0.bytes), service: $0.service)
        }
        DemoVerdict.judge(&figures, settings: settings)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try encoder.encode(figures).write(to: URL(filePath: output + "/report.json"), options: .atomic)
        try Data(ReportPage(figures: figures, sheets: sheets).html().utf8).write(
            to: URL(filePath: output + "/report.html"), options: .atomic)
    }
}
