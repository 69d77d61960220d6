import Foundation
public import Logging

/// A service's `main`: arguments, configuration, logging, metrics, exit status.
public enum ServiceMain {
    /// Reads the configuration, starts logging and metrics, builds the application and runs it; then ends the process: 0 after a graceful
    /// shutdown, 64 for wrong arguments, 78 for a configuration that cannot be used, 1 for any other failure, with the reason on stderr.
    ///
    /// - Parameters:
    ///   - service: the service's name, such as `reward-trainer`; its program is `foretaste-<service>`.
    ///   - summary: one sentence for `--help`.
    ///   - variables: environment variables of this service alone, for `--help`.
    ///   - build: makes the application; connect to databases here.
    public static func run(
        service: String, summary: String, variables: [(name: String, meaning: String, fallback: String)] = [],
        arguments: [String] = CommandLine.arguments,
        _ build: @Sendable (ServiceConfiguration, Logger) async throws -> ServiceApplication
    ) async -> Never {
        let program = (arguments.first.map { URL(filePath: $0).lastPathComponent }) ?? "foretaste-\(service)"
        signal(SIGPIPE, SIG_IGN)
        switch arguments.dropFirst().first {
        case nil, "--print-config": break
        case "--help", "-h":
            print(help(program: program, service: service, summary: summary, variables: variables))
            exit(0)
        case "--version":
            print("\(program) \(BuildInformation.version)")
            exit(0)
        case .some(let other):
            fail(program, "unknown argument '\(other)'; \(program) is configured by its environment, see --help", status: 64)
        }
        let configuration: ServiceConfiguration
        do {
            configuration = try .fromEnvironment(service: service)
        } catch {
            fail(program, "\(error)", status: 78)
        }
        if arguments.dropFirst().first == "--print-config" {
            print(configuration.redactedDescription)
            exit(0)
        }
        let logger = Logs.bootstrap(configuration)
        MetricsRegistry.bootstrap()
        do {
            try await build(configuration, logger).run()
            exit(0)
        } catch let error as ConfigurationError {
            fail(program, "\(error)", status: 78)
        } catch {
            logger.critical("The service ended", metadata: ["error": "\(error)"])
            exit(1)
        }
    }

    static func help(
        program: String, service: String, summary: String, variables: [(name: String, meaning: String, fallback: String)]
    ) -> String {
        let all = ServiceConfiguration.variables(service: service) + variables
        let width = all.map(\.name.count).max() ?? 0
        let lines = all.map { "  \($0.name.padding(toLength: width, withPad: " ", startingAt: 0))  \($0.meaning) (\($0.fallback))" }
        return """
            \(summary)

            USAGE: \(program) [--help | --version | --print-config]

            Configured by environment variables (in brackets: when unset):
            \(lines.joined(separator: "\n"))

            Serves /livez, /readyz, /metrics and /version. SIGTERM or SIGINT ends it gracefully.
            """
    }

    private static func fail(_ program: String, _ message: String, status: Int32) -> Never {
        LineLogHandler.writeToStandardError("\(program): \(Redaction.redact(message))\n")
        exit(status)
    }
}
