import Foundation
import JobQueue
import Postgres
import PostgresTesting
import Testing

/// The statements of Grafana's dashboards and alerts, as they stand in the repository.
enum GrafanaFiles {
    struct Statement: CustomTestStringConvertible, Sendable {
        let place: String
        let sql: String
        /// A panel's number of columns tells nothing; an alert's rule needs one named value.
        let isAlert: Bool
        var testDescription: String { place }

        /// As Grafana's PostgreSQL data source would send it.
        var expanded: String {
            sql.replacing(/\$__timeFilter\(([a-z]+)\)/) { "\($0.output.1) BETWEEN now() - interval '6 hours' AND now()" }
                .replacing("$queue", with: "'quick','slow','train_reward'")
        }
    }

    static let folder = URL(filePath: #filePath).resolvingSymlinksInPath().deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "compose/grafana")

    static func read(_ path: String) throws -> [String: Any] {
        let data = try Data(contentsOf: folder.appending(path: path))
        return try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any], "\(path) is no JSON object")
    }

    static func dashboards() throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: folder.appending(path: "dashboards").path(percentEncoded: false))
            .filter { $0.hasSuffix(".json") }.sorted()
    }

    static func statements() throws -> [Statement] {
        var found: [Statement] = []
        for file in try dashboards() {
            let board = try read("dashboards/\(file)")
            let variables = (board["templating"] as? [String: Any])?["list"] as? [[String: Any]] ?? []
            for variable in variables {
                let sql = try #require(variable["query"] as? String)
                found.append(Statement(place: "\(file): variable \(variable["name"] ?? "")", sql: sql, isAlert: false))
            }
            for panel in try #require(board["panels"] as? [[String: Any]]) {
                for target in panel["targets"] as? [[String: Any]] ?? [] {
                    let sql = try #require(target["rawSql"] as? String)
                    found.append(Statement(place: "\(file): \(panel["title"] ?? "")", sql: sql, isAlert: false))
                }
            }
        }
        let alerts = try read("provisioning/alerting/foretaste.json")
        for group in try #require(alerts["groups"] as? [[String: Any]]) {
            for rule in try #require(group["rules"] as? [[String: Any]]) {
                for query in try #require(rule["data"] as? [[String: Any]]) {
                    guard let sql = (query["model"] as? [String: Any])?["rawSql"] as? String else { continue }
                    found.append(Statement(place: "alert: \(rule["title"] ?? "")", sql: sql, isAlert: true))
                }
            }
        }
        return found
    }
}

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Dashboards {
        @Test func everyPanelsAndAlertsStatementRunsUnderTheDashboardsRole() async throws {
            let statements = try GrafanaFiles.statements()
            #expect(statements.count >= 50)
            try await withQueue { queue, database in
                try await queue.enqueue(kind: "quick")
                try await database.client.query("select queue.fold_tallies()")
                try await database.client.withConnection { connection in
                    try await connection.query("set role foretaste_dashboard")
                    for statement in statements {
                        do {
                            let rows = try await connection.query(statement.expanded)
                            if statement.isAlert, let row = rows.first {
                                #expect(row.columns.contains("value"), "\(statement.place)")
                                #expect(row.columns.count <= 2, "\(statement.place): a label and a value")
                            }
                        } catch {
                            Issue.record("\(statement.place): \(error)\n\(statement.expanded)")
                        }
                    }
                    try await connection.query("reset role")
                }
            }
        }

        @Test func panelsAreWellFormedAndDoNotOverlap() throws {
            for file in try GrafanaFiles.dashboards() {
                let board = try GrafanaFiles.read("dashboards/\(file)")
                #expect(board["uid"] is String && board["title"] is String)
                let panels = try #require(board["panels"] as? [[String: Any]])
                #expect(Set(panels.compactMap { $0["id"] as? Int }).count == panels.count)
                var taken: Set<[Int]> = []
                for panel in panels {
                    let place = try #require(panel["gridPos"] as? [String: Int])
                    let (x, y, w, h) = (place["x"] ?? -1, place["y"] ?? -1, place["w"] ?? 0, place["h"] ?? 0)
                    #expect(x >= 0 && x + w <= 24 && w > 0 && h > 0, "\(file): \(panel["title"] ?? "")")
                    for column in x..<(x + w) {
                        for line in y..<(y + h) {
                            #expect(taken.insert([column, line]).inserted, "\(file): \(panel["title"] ?? "") covers another panel")
                        }
                    }
                    #expect((panel["datasource"] as? [String: String])?["uid"] == "foretaste")
                }
            }
            let alerts = try GrafanaFiles.read("provisioning/alerting/foretaste.json")
            let rules = try #require((alerts["groups"] as? [[String: Any]])?.first?["rules"] as? [[String: Any]])
            #expect(Set(rules.compactMap { $0["uid"] as? String }).count == rules.count && rules.count >= 10)
        }
    }
}
