import Foundation
import HTTPTypes
import Testing

@testable import ServiceKit

@Suite struct ProblemTests {
    @Test func everyKindIsExplainedWhereItsTypeLeads() throws {
        let document = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../docs/problems.md").standardizedFileURL
        let text = try String(contentsOf: document, encoding: .utf8)
        if text != ProblemKind.markdown {
            // Written anew with FORETASTE_WRITE_DOCS=1 in the environment.
            if ProcessInfo.processInfo.environment["FORETASTE_WRITE_DOCS"] == "1" {
                try ProblemKind.markdown.write(to: document, atomically: true, encoding: .utf8)
            }
            Issue.record("docs/problems.md is not what ProblemKind says")
        }
        for kind in ProblemKind.allCases {
            #expect(ProblemKind.html.contains("<h2 id=\"\(kind.type.dropFirst("/problems#".count))\">"))
            #expect(Problem(.init(code: kind.statuses[0]), kind: kind).document.type == kind.type)
        }
        // The usual kind of each status that services answer is one of that status.
        for status in [400, 401, 403, 404, 405, 408, 409, 413, 415, 417, 422, 429, 500, 502, 503] {
            #expect(try #require(ProblemKind.usual(status)).statuses == [status])
        }
    }
}
