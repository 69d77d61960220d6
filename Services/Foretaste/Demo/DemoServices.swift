import Alignment
import Foundation
import JobQueue
import Postgres
import Preferences
import Safetensors
import Tensors

/// The demo's side of the wire: posts pairs as a labelling tool, asks for scores as a generation script, and looks after jobs.
struct DemoServices: Sendable {
    let ingest: String
    let scorer: String
    let client: PostgresClient
    let http: HTTPClient

    var queue: JobQueue { JobQueue(client: client) }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// How long a service may be away, in seconds: one that died is started again at the same address.
    static let patience = 60.0

    /// Sends a request again, after a short pause, for as long as nobody answers or the answer is 502, 503 or 504. Only for requests that may
    /// arrive twice: reading, scoring, and posting pairs, which are known by their `external_id`.
    private func patiently(_ request: () async throws -> HTTPClient.Response) async throws -> HTTPClient.Response {
        let deadline = ContinuousClock.now + .seconds(Self.patience)
        while true {
            do {
                let answer = try await request()
                guard (502...504).contains(answer.status), ContinuousClock.now < deadline else { return answer }
            } catch let failure as HTTPClient.Failure {
                guard ContinuousClock.now < deadline else { throw failure }
            }
            try await Task.sleep(for: .milliseconds(200))
        }
    }

    /// Posts pairs as NDJSON; every one must be accepted.
    func post(_ pairs: [[String: Any]]) async throws {
        for start in stride(from: 0, to: pairs.count, by: 500) {
            let lines = try pairs[start..<min(start + 500, pairs.count)].map {
                try JSONSerialization.data(withJSONObject: $0, options: [.withoutEscapingSlashes])
            }
            let body = Data(lines.joined(separator: Data("\n".utf8)))
            let answer = try await patiently { try await http.post(ingest + "/v1/preferences", body, contentType: "application/x-ndjson") }
            guard answer.status == 200 else {
                throw Failure(description: "ingest answered \(answer.status): \(String(decoding: answer.body.prefix(600), as: UTF8.self))")
            }
        }
    }

    struct Summary: Decodable {
        var received: Int
        var usable: Int
        var quarantined: Int
    }

    func summary() async throws -> Summary {
        let answer = try await patiently { try await http.get(ingest + "/v1/preferences/summary") }
        guard answer.status == 200 else {
            throw Failure(description: "ingest answered \(answer.status): \(String(decoding: answer.body.prefix(600), as: UTF8.self))")
        }
        return try JSONDecoder().decode(Summary.self, from: answer.body)
    }

    /// Waits until so many pairs are usable; a quarantined one is an error, for the demo's pairs are sound.
    func waitForUsable(_ count: Int, progress: (Double) -> Void) async throws {
        while true {
            let now = try await summary()
            if now.quarantined > 0 { throw Failure(description: "ingest quarantined \(now.quarantined) of the demo's pairs") }
            progress(Double(now.usable) / Double(count))
            if now.usable >= count { return }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// Waits for a job; one that does not succeed is an error with its reason.
    func wait(for id: Int64, _ progress: (JobRecord) -> Void) async throws -> JobRecord {
        var last: JobRecord?
        for try await job in queue.wait(id) {
            progress(job)
            last = job
        }
        guard let last, last.state == .succeeded else {
            throw Failure(
                description: "job \(id) (\(last?.kind ?? "?")) \(last?.state.rawValue ?? "vanished"): \(last?.error ?? "no reason given")")
        }
        return last
    }

    private struct Scores: Decodable {
        struct Result: Decodable {
            var index: Int
            var score: Float
        }
        struct Timing: Decodable {
            var compute_ms: Double
        }
        var results: [Result]
        var keep: [Int]?
        var timing: Timing
    }

    /// Asks the scoring service for one group's scores at one noise level, through the Best-of-N route.
    /// - Returns: scores in the candidates' order, and the seconds that the service computed.
    func scores(latents: Tensor, promptEmbeds: Tensor, condition: Tensor, sigma: Float, keep: Int = 1) async throws -> ([Float], Double) {
        let body = SafetensorsWriter.data(
            tensors: [("latents", latents), ("prompt_embeds", promptEmbeds), ("condition", condition)],
            metadata: [
                "backbone": "wan-demo", "vae": DemoRun.vae, "layout": "CFHW", "space": "normalized", "noise.kind": "flow",
                "noise.sigma": "\(sigma)",
                "noise.timestep": "\(1000 * sigma)",
            ])
        let answer = try await patiently {
            try await http.post(scorer + "/v1/best-of-n?keep=\(keep)", Data(body), contentType: "application/octet-stream")
        }
        guard answer.status == 200 else {
            throw Failure(description: "the scorer answered \(answer.status): \(String(decoding: answer.body.prefix(600), as: UTF8.self))")
        }
        let scores = try JSONDecoder().decode(Scores.self, from: answer.body)
        var values = [Float](repeating: 0, count: latents.shape[0])
        for result in scores.results { values[result.index] = result.score }
        return (values, scores.timing.compute_ms / 1000)
    }
}
