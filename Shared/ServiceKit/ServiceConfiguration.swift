import Foundation
import NIOCore
public import Logging

/// What every service is told by its environment.
public struct ServiceConfiguration: Sendable {
    /// The service's name in lower case with hyphens: `ingest`, `reward-trainer`, `scorer`, `generator-tuner`.
    public let service: String
    /// Where these values came from; services read their own further variables through it.
    public let environment: Environment
    /// `DATABASE_URL` (or the content of `DATABASE_URL_FILE`): a libpq URL. May hold a password: never log it.
    public let databaseURL: String?
    /// `FORETASTE_DATA`: an absolute path; the user's data folder when unset.
    public let dataDirectory: String
    /// `FORETASTE_<SERVICE>_LISTEN`; 127.0.0.1 and any free port when unset.
    public let listen: ListenAddress
    /// `FORETASTE_ARTIFACTS_ALLOW`: URL prefixes that artifacts may be fetched from. The own store is allowed as well.
    public let artifactsAllow: [String]
    /// `FORETASTE_ARTIFACTS_STORE`: where this system puts its own artifacts; `artifacts/` in the data folder when unset.
    public let artifactsStore: String
    /// `FORETASTE_ARTIFACTS_FILE_ROOTS`: folders that `file:` URLs may name. The own store's folder, when it is one, is among them.
    public let artifactsFileRoots: [String]
    /// `FORETASTE_ARTIFACTS_CACHE`: the folder of fetched artifacts by digest; `cache/artifacts` in the data folder when unset.
    public let artifactsCache: String
    /// `FORETASTE_ARTIFACTS_MAX_BYTES`: the largest artifact that is fetched; 4 GiB when unset.
    public let artifactsMaximumBytes: Int
    /// `FORETASTE_ARTIFACTS_CACHE_LIMIT`: how many bytes the cache may have before what was not used for longest is deleted; 64 GiB when unset.
    public let artifactsCacheLimit: Int
    /// `FORETASTE_ARTIFACTS_DEADLINE_SECONDS`: the longest that fetching one artifact may take; by its size when unset.
    public let artifactsDeadlineSeconds: Int?
    /// `FORETASTE_SLOT`: the slot of which each training job takes a permit, so that one trains at a time; `trainer:` and the host's name
    /// when unset, nil for `none`. Processes that share a GPU or a machine name the same one.
    public var slot: String?
    /// `FORETASTE_<SERVICE>_READY_FILE`: written, whole and at once, when the listener is bound.
    public let readyFile: String?
    /// `FORETASTE_LOG_LEVEL`: `trace`, `debug`, `info` (default), `notice`, `warning`, `error`, `critical`.
    public let logLevel: Logger.Level
    /// `FORETASTE_LOG_FORMAT`: `json` or `text`; when unset, text on a terminal and JSON elsewhere.
    public let logFormat: LogFormat
    /// `FORETASTE_SHUTDOWN_SECONDS`: how long a graceful shutdown may take before running work is cancelled; 20 when unset.
    public let shutdownDeadline: Duration
    /// `FORETASTE_DRAIN_SECONDS`: how long the service keeps serving, not ready, after SIGTERM, so that a load balancer sees it; 0 when unset.
    public let drainDelay: Duration

    /// `FORETASTE_HEAD_SECONDS`, `FORETASTE_BODY_SECONDS`: how long slow clients are waited for.
    let connectionLimits: ConnectionLimits

    /// Reads and checks everything; throws a `ConfigurationError` for the first variable that cannot be used.
    public static func fromEnvironment(service: String, _ environment: Environment = .process) throws -> ServiceConfiguration {
        try ServiceConfiguration(service: service, environment: environment)
    }

    /// The database's URL; throws when there is none.
    public func requireDatabaseURL() throws -> String {
        guard let databaseURL else {
            throw ConfigurationError(
                variable: "DATABASE_URL",
                problem:
                    "is not set; \(service) needs a PostgreSQL database. `foretaste up` starts a private one and sets it for every service")
        }
        return databaseURL
    }

    /// `FORETASTE_INGEST_` for `ingest`, `FORETASTE_REWARD_TRAINER_` for `reward-trainer`.
    public static func prefix(service: String) -> String {
        "FORETASTE_" + service.uppercased().replacing("-", with: "_") + "_"
    }

    private init(service: String, environment: Environment) throws {
        let prefix = Self.prefix(service: service)
        self.service = service
        self.environment = environment
        databaseURL = try environment.secret("DATABASE_URL")
        dataDirectory = try Self.dataDirectory(environment)
        listen = try environment.listenAddress(prefix + "LISTEN") ?? ListenAddress(host: "127.0.0.1", port: 0)
        artifactsAllow = environment.list("FORETASTE_ARTIFACTS_ALLOW")
        artifactsStore = environment.string("FORETASTE_ARTIFACTS_STORE") ?? URL(filePath: dataDirectory + "/artifacts").absoluteString
        var roots = environment.list("FORETASTE_ARTIFACTS_FILE_ROOTS")
        if let url = URL(string: artifactsStore), url.isFileURL { roots.append(url.path(percentEncoded: false)) }
        for root in roots where !root.hasPrefix("/") {
            throw ConfigurationError(variable: "FORETASTE_ARTIFACTS_FILE_ROOTS", problem: "has '\(root)'; expected absolute paths")
        }
        artifactsFileRoots = roots
        artifactsCache = environment.string("FORETASTE_ARTIFACTS_CACHE") ?? dataDirectory + "/cache/artifacts"
        slot = environment.string("FORETASTE_SLOT") ?? "trainer:" + ProcessInfo.processInfo.hostName
        if slot == "none" { slot = nil }
        artifactsMaximumBytes = try environment.integer("FORETASTE_ARTIFACTS_MAX_BYTES", in: 1...Int.max) ?? 4 << 30
        artifactsCacheLimit = try environment.integer("FORETASTE_ARTIFACTS_CACHE_LIMIT", in: 1...Int.max) ?? 64 << 30
        artifactsDeadlineSeconds = try environment.integer("FORETASTE_ARTIFACTS_DEADLINE_SECONDS", in: 1...604_800)
        readyFile = environment.string(prefix + "READY_FILE")
        let levels = Logger.Level.allCases.map(\.rawValue)
        logLevel = try environment.choice("FORETASTE_LOG_LEVEL", of: levels).flatMap(Logger.Level.init(rawValue:)) ?? .info
        logFormat = try environment.choice("FORETASTE_LOG_FORMAT", of: ["json", "text"]).flatMap(LogFormat.init(rawValue:)) ?? .automatic
        shutdownDeadline = .seconds(try environment.number("FORETASTE_SHUTDOWN_SECONDS", in: 0.1...3600) ?? 20)
        drainDelay = .seconds(try environment.number("FORETASTE_DRAIN_SECONDS", in: 0...600) ?? 0)
        var limits = ConnectionLimits()
        if let seconds = try environment.number("FORETASTE_HEAD_SECONDS", in: 0.1...3600) {
            limits.head = .nanoseconds(Int64(seconds * 1e9))
        }
        if let seconds = try environment.number("FORETASTE_BODY_SECONDS", in: 0.1...3600) {
            limits.bodyGrace = .nanoseconds(Int64(seconds * 1e9))
        }
        connectionLimits = limits
    }

    /// `FORETASTE_DATA` as an absolute path. Unset: `$XDG_DATA_HOME/foretaste`, else `~/.local/share/foretaste`; for root, whose home other
    /// users cannot enter, `/var/lib/foretaste`.
    public static func dataDirectory(_ environment: Environment = .process) throws -> String {
        if let path = environment.string("FORETASTE_DATA") {
            return path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
        }
        if geteuid() == 0 { return "/var/lib/foretaste" }
        if let path = environment.string("XDG_DATA_HOME"), path.hasPrefix("/") { return path + "/foretaste" }
        return try environment.require("HOME", for: "the data folder, ~/.local/share/foretaste (or set FORETASTE_DATA)")
            + "/.local/share/foretaste"
    }

    /// The variables that every service understands, for `--help`: name, meaning, default.
    public static func variables(service: String) -> [(name: String, meaning: String, fallback: String)] {
        let prefix = prefix(service: service)
        return [
            ("DATABASE_URL", "PostgreSQL, as a libpq URL; or DATABASE_URL_FILE", "none"),
            ("FORETASTE_DATA", "the data folder", "the user's data folder"),
            (prefix + "LISTEN", "HOST:PORT to serve on, port 0 for any free one", "127.0.0.1:0"),
            (prefix + "READY_FILE", "a file to write {\"url\",\"pid\"} to once the port is bound", "none"),
            ("FORETASTE_ARTIFACTS_ALLOW", "URL prefixes that artifacts may come from, by commas", "the own store"),
            ("FORETASTE_ARTIFACTS_STORE", "where own artifacts go: file:///…, http://…, s3://bucket/…", "artifacts/ in the data folder"),
            ("FORETASTE_ARTIFACTS_FILE_ROOTS", "folders that file: URLs may name, by commas", "the own store"),
            ("FORETASTE_ARTIFACTS_CACHE", "the folder of fetched artifacts", "cache/artifacts in the data folder"),
            ("FORETASTE_ARTIFACTS_CACHE_LIMIT", "bytes that the cache may have; the least recently used goes first", "68719476736"),
            ("FORETASTE_ARTIFACTS_MAX_BYTES", "the largest artifact that is fetched", "4294967296"),
            ("FORETASTE_ARTIFACTS_DEADLINE_SECONDS", "the longest that fetching one artifact may take", "60 and 4 a MiB"),
            (
                "FORETASTE_SLOT", "what training jobs take a permit of, so that one trains at a time: a GPU, a machine; none",
                "trainer: and the host"
            ),
            ("FORETASTE_LOG_LEVEL", "trace, debug, info, notice, warning, error, critical", "info"),
            ("FORETASTE_LOG_FORMAT", "json or text", "text on a terminal, else json"),
            ("FORETASTE_SHUTDOWN_SECONDS", "how long a graceful shutdown may take", "20"),
            ("FORETASTE_DRAIN_SECONDS", "how long to serve on, not ready, after SIGTERM", "0"),
            ("FORETASTE_HEAD_SECONDS", "how long a request's head may take to arrive", "15"),
            ("FORETASTE_BODY_SECONDS", "how long a body is waited for before it must bring 8 KiB/s", "30"),
        ]
    }

    /// The configuration for people, secrets taken out.
    public var redactedDescription: String {
        [
            "service=\(service)", "database_url=\(Redaction.redact(databaseURL ?? "none"))", "data=\(dataDirectory)", "listen=\(listen)",
            "artifacts_allow=\(Redaction.redact(artifactsAllow.joined(separator: ",")))",
            "artifacts_store=\(Redaction.redact(artifactsStore))",
            "artifacts_file_roots=\(artifactsFileRoots.joined(separator: ","))", "artifacts_cache=\(artifactsCache)",
            "artifacts_cache_limit=\(artifactsCacheLimit)",
            "artifacts_max_bytes=\(artifactsMaximumBytes)",
            "artifacts_deadline_seconds=\(artifactsDeadlineSeconds.map { "\($0)" } ?? "by size")", "ready_file=\(readyFile ?? "none")",
            "log_level=\(logLevel)",
            "log_format=\(logFormat.rawValue)", "shutdown_seconds=\(shutdownDeadline)", "drain_seconds=\(drainDelay)",
            "head_seconds=\(Double(connectionLimits.head.nanoseconds) * 1e-9)",
            "body_seconds=\(Double(connectionLimits.bodyGrace.nanoseconds) * 1e-9)",
        ].joined(separator: "\n")
    }
}
