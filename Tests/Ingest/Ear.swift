import Logging
import Synchronization

/// Everything that a test was told, log lines among it.
final class Ear: Sendable {
    let heard = Mutex<[(place: String, text: String)]>([])

    func hear(_ place: String, _ text: String) { heard.withLock { $0.append((place, text)) } }

    func hear(_ place: String, _ answer: RunningIngest.Answer) { hear(place, "\(answer.status) \(answer.headers) \(answer.text)") }

    /// Log lines as they are before the last line of defence, which takes queries out of whatever is logged.
    var logger: Logger {
        var logger = Logger(label: "ingest") { _ in RawLog(ear: self) }
        logger.logLevel = .trace
        return logger
    }

    private struct RawLog: LogHandler {
        let ear: Ear
        var logLevel = Logger.Level.trace
        var metadata: Logger.Metadata = [:]

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) { ear.hear("the log", "\(event.message) \(metadata) \(event.metadata ?? [:])") }
    }
}
