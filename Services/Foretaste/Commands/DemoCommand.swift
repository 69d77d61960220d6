import ArgumentParser
import Foundation

/// `foretaste demo`.
struct DemoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo", abstract: "The whole loop in about five minutes on two cores: labels, reward, Best-of-N, tuning, report.",
        discussion: """
            Runs the real services as processes of their own over a fresh private database that is removed at the end; DATABASE_URL is not looked at. \
            Leaves report.html, report.json, generator/, lora/ and reward/ in the output folder (docs/demo.md says what they hold).
            """)
    @Option(help: "Where to write; may exist already.") var output = "foretaste-demo"
    @Option(help: "Seed of noise, labels and training.") var seed: UInt64 = 7
    @Flag(help: .hidden) var miniature = false

    func validate() throws {
        guard seed <= UInt64(Int32.max) else { throw ValidationError("--seed: expected 0 to \(Int32.max)") }
    }

    func run() async throws {
        var settings = miniature ? DemoSettings.miniature : DemoSettings()
        settings.seed = seed
        let report = try await DemoPlatform.run(settings: settings, output: URL(filePath: output).path(percentEncoded: false))
        print(report)
    }
}
