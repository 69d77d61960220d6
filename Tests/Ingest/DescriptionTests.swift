import Access
import OpenAPIChecks
import ServiceKit
import Testing

@testable import Ingest

/// `/openapi.json` against a validator, and the service against what it promises there.
@Suite(.timeLimit(.minutes(30))) struct DescriptionTests {
    @Test func theDescriptionIsValidAndTheServiceKeepsIt() async throws {
        try await RunningIngest.with(["FORETASTE_INGEST_MAX_BODY_BYTES": "65536"]) { ingest in
            _ = try await ingest.postLines((0..<5).map { example(String($0)) })
            let seconds = OpenAPIChecks.seconds(short: 30)
            let (status, output) = try await OpenAPIChecks.run(ingest.url, key: ingest.key.text, seconds: seconds)
            #expect(status == 0, "\(output.suffix(12000))")
            #expect(seconds == 0 || output.contains(" generated"))
            #expect(try await ingest.send("GET", "/readyz").status == 200)
        }
    }
}
