import Artifacts
import Logging
import Preferences
import Tensors

/// Fetches and checks the artifacts of pairs and ratings.
struct PairVerifier: Sendable {
    /// How many labels of a job are looked at together; the files of one are read one after the other.
    static let width = 4

    let fetcher: ArtifactFetcher
    let registry: ModelRegistry
    let artifactLimit: Int
    let logger: Logger

    /// What is known of a label after one look.
    enum Finding: Sendable {
        case settled(PairVerdict)
        /// An artifact could not be had just now; a later try may.
        case unreachable(id: String, reason: String)
    }

    /// What a look at several labels brought: their findings in the order of the labels, and what was fetched for them.
    struct Report: Sendable {
        var findings: [Finding] = []
        var fetches: [ArtifactFetchLog.Fetch] = []
    }

    /// Looks at labels, several at a time. Whatever is wrong with one stays with it; only the database's own trouble is thrown.
    func verify(_ labels: [VerificationSubject], progress: @Sendable (Int) -> Void = { _ in }) async throws -> Report {
        let backbones = BackboneTable(registry: registry)
        return try await withThrowingTaskGroup(of: (Int, Finding, [ArtifactFetchLog.Fetch]).self) { group in
            var next = 0
            func start() {
                guard next < labels.count else { return }
                let (index, label) = (next, labels[next])
                next += 1
                group.addTask {
                    let (finding, fetches) = try await verify(label, backbones: backbones)
                    return (index, finding, fetches)
                }
            }
            for _ in 0..<Self.width { start() }
            var findings = [Finding?](repeating: nil, count: labels.count)
            var report = Report()
            var done = 0
            for try await (index, finding, fetches) in group {
                findings[index] = finding
                report.fetches += fetches
                done += 1
                progress(done)
                start()
            }
            report.findings = findings.compactMap { $0 }
            return report
        }
    }

    private func verify(
        _ label: VerificationSubject, backbones: BackboneTable
    ) async throws -> (Finding, [ArtifactFetchLog.Fetch]) {
        var files: [(name: String, file: LatentFile)] = []
        var fetches: [ArtifactFetchLog.Fetch] = []
        var wrong: [String] = []
        var unreachable: [String] = []
        for side in label.sides {
            let (name, side) = (side.name, side.artifact)
            do {
                let fetched = try await fetcher.retrieve(side.url, sha256: side.sha256, maximumBytes: artifactLimit)
                fetches.append(.init(url: fetched.url, sha256: fetched.sha256, bytes: Int64(fetched.bytes), service: "ingest"))
                let path = fetched.path
                let file = try await NumericThreads.run { try LatentFile(path: path) }
                if let requirements = try await backbones.requirements(file.backbone) { try requirements.check(file) }
                files.append((name, file))
            } catch ArtifactError.storage(let path, let reason) {
                // Our own disk: no fault of the label, so the job is tried again.
                throw ArtifactError.storage(path: path, reason: reason)
            } catch let error as ArtifactError {
                let field = if case .digestMismatch = error { "sha256" } else { "url" }
                let reason = "/\(name)/\(field): \(error)"
                if error.isPermanent { wrong.append(reason) } else { unreachable.append(reason) }
            } catch let problem as LatentProblem {
                wrong.append("/\(name) \(problem)")
            }
        }
        if !wrong.isEmpty { return (.settled(.quarantined(label.id, wrong.joined(separator: "; "))), fetches) }
        if !unreachable.isEmpty { return (.unreachable(id: label.id, reason: unreachable.joined(separator: "; ")), fetches) }
        let a = files[0].file
        for (_, b) in files.dropFirst() {
            guard let difference = Self.difference(a, b) else { continue }
            return (.settled(.quarantined(label.id, difference)), fetches)
        }
        var tensors = ["prompt_embeds": a.promptEmbeds]
        tensors["condition"] = a.condition
        tensors["image_embeds"] = a.imageEmbeds
        let descriptor = PairDescriptor(
            backbone: a.backbone, vae: a.vae, layout: a.layout, noiseKind: a.noiseKind, shape: a.latents, tensors: tensors)
        return (.settled(.usable(label.id, descriptor)), fetches)
    }

    /// The first thing in which two sides differ that can be compared only when it is the same.
    static func difference(_ a: LatentFile, _ b: LatentFile) -> String? {
        func text(_ shape: [Int]?) -> String { shape.map { "\($0)" } ?? "none" }
        let fields = [
            ("metadata backbone", a.backbone, b.backbone), ("metadata vae", a.vae, b.vae), ("metadata layout", a.layout, b.layout),
            ("metadata noise.kind", a.noiseKind, b.noiseKind), ("latents", text(a.latents), text(b.latents)),
            ("prompt_embeds", text(a.promptEmbeds), text(b.promptEmbeds)), ("condition", text(a.condition), text(b.condition)),
            ("image_embeds", text(a.imageEmbeds), text(b.imageEmbeds)),
        ]
        guard let (field, left, right) = fields.first(where: { $0.1 != $0.2 }) else { return nil }
        return "/a and /b differ in \(field): \(left) and \(right). A pair compares two latents of one generator for one prompt"
    }
}

/// The registered generators that the files of a job name, each looked up once.
private actor BackboneTable {
    private let registry: ModelRegistry
    private var known: [String: BackboneRequirements?] = [:]

    init(registry: ModelRegistry) {
        self.registry = registry
    }

    /// Nil for a name that is not a registered generator's: there is nothing to compare with then.
    func requirements(_ reference: String) async throws -> BackboneRequirements? {
        if let found = known[reference] { return found }
        let model = try await registry.find(reference)
        let requirements = try model.flatMap { $0.kind == .generator ? try BackboneRequirements($0) : nil }
        known[reference] = .some(requirements)
        return requirements
    }
}
