import Artifacts
import Foundation
import Hummingbird
import NIOCore
import Backbones
import Rewards
import Preferences
import ServiceKit
import Tensors

/// The scorer over HTTP.
struct ScorerRoutes: Sendable {
    let models: RewardModels
    let lane: ScoringLane
    let fetcher: ArtifactFetcher
    let configuration: ScorerConfiguration

    func add(to router: ServiceRouter) {
        router.post("/v1/score") { request, _ in try await answer(request, parameters: ["model", "dimension"]) { _, _ in nil } }
        router.post("/v1/best-of-n") { request, _ in
            try await answer(request, parameters: ["model", "dimension", "keep"], keep: Self.keep)
        }
        router.get("/openapi.json") { _, _ in Response.json(ScorerOpenAPI.document.utf8) }
    }

    /// The answer's shape; field names are the contract's.
    private struct Answer: Encodable {
        struct Model: Encodable {
            let name: String
            let version: Int
            let sha256: String
        }
        struct Result: Encodable {
            let index: Int
            let score: Float
        }
        struct Timing: Encodable {
            let queue_ms: Double
            let compute_ms: Double
            let prepare_ms: Double
        }
        let model: Model
        let results: [Result]
        let keep: [Int]?
        let timing: Timing
    }

    private func answer(_ request: Request, parameters: Set<String>, keep: (Query, Int) throws -> Int?) async throws -> Response {
        let began = ContinuousClock.now
        let query = try Query(request, known: parameters)
        let body = try await body(request)
        let count = body.latents.shape[0]
        let kept = try keep(query, count)
        let wish: RewardModels.Wish
        if let reference = query["model"] {
            guard query["dimension"] == nil else {
                throw Problem.badRequest("model names one reward; dimension is for choosing a champion.")
            }
            wish = .reference(reference)
        } else {
            wish = .champion(dimension: query["dimension"] ?? "overall", backbone: try body.backbone)
        }
        let model = try await models.model(wish)
        let batch = try body.batch(for: model)
        let prepared = ContinuousClock.now - began
        let scored = try await lane.run {
            do {
                return try await NumericThreads.run { try model.weights.scores(batch) }
            } catch let error as BackboneError {
                throw Problem.invalid([.init(pointer: "/latents", detail: error.description)])
            }
        }
        guard scored.value.allSatisfy(\.isFinite) else {
            throw Problem.invalid([
                .init(pointer: "/latents", detail: "lead to scores that are not finite: they are far from normalised latents")
            ])
        }
        let ranking = scored.value.enumerated().sorted { $0.element == $1.element ? $0.offset < $1.offset : $0.element > $1.element }
        func milliseconds(_ duration: Duration) -> Double { (duration / .microseconds(1)).rounded() / 1000 }
        let answer = Answer(
            model: .init(name: model.version.name, version: model.version.version, sha256: model.version.model.sha256),
            results: ranking.map { .init(index: $0.offset, score: $0.element) }, keep: kept.map { ranking.prefix($0).map(\.offset) },
            timing: .init(
                queue_ms: milliseconds(scored.queued), compute_ms: milliseconds(scored.worked), prepare_ms: milliseconds(prepared)))
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return .json(try encoder.encode(answer))
    }

    private func body(_ request: Request) async throws -> LatentBody {
        let type = try request.requireMediaType("application/octet-stream", "application/json")
        if type == "application/json" {
            let buffer = try await request.body(upTo: min(configuration.bodyLimit, 1 << 20))
            return try await LatentReferences(json: Array(buffer.readableBytesView)).load(fetcher, maximumBytes: configuration.bodyLimit)
        }
        let buffer = try await request.body(upTo: configuration.bodyLimit)
        return try await NumericThreads.run { try LatentBody(Array(buffer.readableBytesView)) }
    }

    private static func keep(_ query: Query, of count: Int) throws -> Int {
        guard let keep = try query.integer("keep", in: 1...count) else {
            throw Problem.badRequest("keep is missing: how many candidates go on, such as ?keep=4.")
        }
        return keep
    }
}
