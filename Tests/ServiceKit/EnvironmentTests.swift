import Foundation
import Logging
import Synchronization
import Testing

@testable import ServiceKit

@Suite("The environment")
struct EnvironmentTests {
    @Test("values are typed, and a wrong one is named with what was expected")
    func getters() throws {
        let environment = ServiceEnvironment(["A": "12", "B": "x", "C": "yes", "D": " a , ,b", "E": "", "F": "[::1]:8080", "G": "2.5"])
        #expect(try environment.integer("A") == 12)
        #expect(try environment.integer("E") == nil)
        #expect(throws: ConfigurationError.self) { try environment.integer("B") }
        let error = #expect(throws: ConfigurationError.self) { try environment.integer("A", in: 1...3) }
        #expect(error?.description == "A is '12'; expected a whole number from 1 to 3")
        #expect(try environment.boolean("C") == true)
        #expect(environment.list("D") == ["a", "b"])
        #expect(try environment.listenAddress("F") == ListenAddress(host: "::1", port: 8080))
        #expect(try environment.number("G") == 2.5)
        #expect(throws: ConfigurationError.self) { try environment.require("E", for: "tests") }
        #expect(throws: ConfigurationError.self) { try environment.choice("B", of: ["y", "z"]) }
    }

    @Test("a secret may stand in a file, but not in both places")
    func secretFiles() throws {
        let path = FileManager.default.temporaryDirectory.path + "/foretaste-secret-\(UInt64.random(in: 0...UInt64.max))"
        try Data("s3cret\n".utf8).write(to: URL(filePath: path))
        defer { unlink(path) }
        #expect(try ServiceEnvironment(["P_FILE": path]).secret("P") == "s3cret")
        #expect(try ServiceEnvironment(["P": "here"]).secret("P") == "here")
        #expect(throws: ConfigurationError.self) { try ServiceEnvironment(["P": "here", "P_FILE": path]).secret("P") }
        #expect(throws: ConfigurationError.self) { try ServiceEnvironment(["P_FILE": "/nowhere"]).secret("P") }
    }

    @Test("a service's configuration has defaults under the data folder")
    func configuration() throws {
        let configuration = try ServiceConfiguration.fromEnvironment(
            service: "reward-trainer", ServiceEnvironment(["FORETASTE_DATA": "/data", "FORETASTE_REWARD_TRAINER_LISTEN": "0.0.0.0:80"]))
        #expect(configuration.listen == ListenAddress(host: "0.0.0.0", port: 80))
        #expect(configuration.artifactsStore == "file:///data/artifacts")
        #expect(configuration.artifactsFileRoots == ["/data/artifacts"])
        #expect(configuration.artifactsCache == "/data/cache/artifacts")
        #expect(throws: ConfigurationError.self) { try configuration.requireDatabaseURL() }
        for wrong in [["FORETASTE_INGEST_LISTEN": "80"], ["FORETASTE_LOG_LEVEL": "loud"], ["FORETASTE_ARTIFACTS_FILE_ROOTS": "relative"]] {
            #expect(throws: ConfigurationError.self) {
                try ServiceConfiguration.fromEnvironment(
                    service: "ingest", ServiceEnvironment(wrong.merging(["FORETASTE_DATA": "/d"]) { a, _ in a }))
            }
        }
    }

    @Test(
        "secrets are taken out of what is shown",
        arguments: [
            ("postgresql://user:pw@host/db?password=x", "postgresql://***@host/db?***"),
            ("get https://h/a?sig=1 and go", "get https://h/a?*** and go"),
            ("host=h password=pw user=u", "host=h password=*** user=u"), ("nothing here", "nothing here"), ("http://h/a", "http://h/a"),
            ("{\"url\":\"https://h/a?x=1\"}", "{\"url\":\"https://h/a?***\"}"), ("https://h/@a", "https://h/@a"),
            // A query may have what looks like its end.
            ("of 'https://h/a?x=1,2&sig=(s)&y='.", "of 'https://h/a?***'."), ("(https://h/a?sig=1).", "(https://h/a?***)."),
            ("https://u:p'w@h/a", "https://***@h/a"), ("https://h/a,https://u:p@h/b?sig=1", "https://h/a,https://***@h/b?***"),
            ("https://h/a?next=https://i/b?sig=1", "https://h/a?***"),
        ])
    func redaction(text: String, shown: String) { #expect(Redaction.redact(text) == shown) }

    @Test("a log line is one JSON object without secrets, whatever a client wrote into it")
    func logLines() throws {
        let lines = Mutex<[String]>([])
        var logger = Logger(label: "ingest") { label in
            LineLogHandler(label: label, service: "ingest", level: .info, json: true) { line in lines.withLock { $0.append(line) } }
        }
        logger[metadataKey: "password"] = "pw"
        logger.info(
            "fetched http://h/a?sig=abc\n{\"level\":\"fake\"}", metadata: ["n": .stringConvertible(3), "level": "x", "q": "a\"\u{1}"])
        let line = try #require(lines.withLock { $0.first })
        #expect(line.dropLast().contains("\n") == false && line.hasSuffix("\n"))
        let object = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
        #expect(object["message"] as? String == "fetched http://h/a?***\n{\"level\":\"fake\"}")
        #expect(object["level"] as? String == "info" && object["field_level"] as? String == "x")
        #expect(object["password"] as? String == "***" && object["n"] as? Int == 3 && object["q"] as? String == "a\"\u{1}")
    }
}
