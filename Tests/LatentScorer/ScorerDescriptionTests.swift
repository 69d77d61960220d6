import Access
import Foundation
import OpenAPIChecks
import PostgresTesting
import ServiceKit
import Testing

@testable import LatentScorer

/// `/openapi.json` against a validator, and the scorer against what it promises there.
@Suite(.timeLimit(.minutes(30))) struct ScorerDescriptionTests {
    @Test func theDescriptionIsValidAndTheScorerKeepsIt() async throws {
        try await RunningScorer.with(["FORETASTE_SCORER_MAX_BODY_BYTES": "65536"]) { scorer in
            let trunk = try await scorer.importBackbone()
            try await scorer.promoteHead(on: trunk, seed: 1)
            let seconds = OpenAPIChecks.seconds(short: 12)
            let (status, output) = try await OpenAPIChecks.run(scorer.url, key: scorer.key.text, seconds: seconds)
            #expect(status == 0, "\(output.suffix(12000))")
            #expect(seconds == 0 || output.contains(" generated"))
            // Still alive, and still right.
            let answer = try await scorer.send("/v1/score", RunningScorer.body())
            #expect(answer.status == 200, "\(answer.text)")
        }
    }
}
