import Access
import Foundation
import PostgresTesting
import ServiceKit
import Testing

@testable import LatentScorer

@Suite struct ScorerAccessTests {
    @Test func scoresAreForKeysWithTheScopeScore() async throws {
        try await RunningScorer.with { scorer in
            for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
                #expect(try await scorer.send(path, method: "GET", authorization: nil).status == 200, "\(path)")
            }
            for path in ["/v1/score", "/v1/best-of-n?keep=1"] {
                #expect(try await scorer.send(path, RunningScorer.body(), authorization: nil).status == 401)
                let reader = try await KeyStore(client: scorer.database.client).create(name: "reader", scopes: [.read, .ingest])
                let refused = try await scorer.send(path, RunningScorer.body(), authorization: "Bearer \(reader.text)")
                #expect(refused.status == 403 && refused.text.contains("'score'"))
                // There is no champion here: who may ask is told so.
                #expect(try await scorer.send(path, RunningScorer.body()).status == 409)
            }
        }
    }
}
