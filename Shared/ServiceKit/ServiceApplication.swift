import Foundation
public import Hummingbird
public import Logging
import NIOCore
public import ServiceLifecycle
import UnixSignals

/// A service: an HTTP server with health and metrics, its own routes, and whatever runs beside it.
///
/// ```swift
/// var application = ServiceApplication(configuration: configuration, logger: logger)
/// application.addReadinessCheck("database") { _ = try await client.query("SELECT 1") }
/// application.addRoutes { router in router.get("/v1/things") { request, context in … } }
/// application.addTask("jobs") { try await worker.run() }
/// application.onShutdown { await client.close() }
/// try await application.run()
/// ```
/// SIGTERM or SIGINT: `/readyz` fails at once, tasks and services are stopped in the opposite order of their addition, the HTTP server
/// finishes the requests that it has, `run` returns. What is not finished within the deadline is cancelled; what does not even notice that is
/// left behind by ending the process.
public struct ServiceApplication: Sendable {
    /// What the environment says.
    public let configuration: ServiceConfiguration
    /// The service's logger.
    public let logger: Logger
    /// The metrics that `/metrics` shows.
    public let metrics: MetricsRegistry

    private var routes: [@Sendable (ServiceRouter) throws -> Void] = []
    private var services: [ServiceGroupConfiguration.ServiceConfiguration] = []
    private var closings: [@Sendable () async -> Void] = []
    private let readiness = Readiness()
    private var requestGuard: (any RequestGuard)?

    /// An application without routes of its own, which already serves health and metrics.
    public init(configuration: ServiceConfiguration, logger: Logger, metrics: MetricsRegistry = .shared) {
        self.configuration = configuration
        self.logger = logger
        self.metrics = metrics
    }

    /// `/readyz` answers 503, naming the check, while `check` throws or takes longer than two seconds.
    public func addReadinessCheck(_ name: String, _ check: @escaping @Sendable () async throws -> Void) {
        readiness.add(name, check)
    }

    /// Adds routes. Errors that handlers throw become problem documents: throw a `Problem` for what the client has to know.
    public mutating func addRoutes(_ add: @escaping @Sendable (ServiceRouter) throws -> Void) {
        routes.append(add)
    }

    /// Asks `requestGuard` before every request who sends it; see ``RequestGuard/openPaths``. Without a guard everything is open.
    public mutating func guardRequests(with requestGuard: any RequestGuard) {
        self.requestGuard = requestGuard
    }

    /// Runs a swift-service-lifecycle service beside the HTTP server. When it ends or fails, the whole service ends.
    public mutating func addService(_ service: any Service, name: String) {
        services.append(.init(service: service, serviceName: name))
    }

    /// Runs `body` beside the HTTP server and cancels it on shutdown. When it fails, the whole service ends with its error; when it ends, the
    /// whole service ends unless `mayEnd`.
    public mutating func addTask(_ name: String, mayEnd: Bool = false, _ body: @escaping @Sendable () async throws -> Void) {
        services.append(
            .init(
                service: TaskService(name: name, logger: logger, body: body), successTerminationBehavior: mayEnd ? .ignore : .cancelGroup,
                serviceName: name))
    }

    /// Runs after everything has stopped, last added first: close pools here.
    public mutating func onShutdown(_ close: @escaping @Sendable () async -> Void) {
        closings.append(close)
    }

    /// Serves until a signal, `control.shutDown()` or the failure of a part.
    public func run(handlingSignals: Bool = true, control: ServiceControl = ServiceControl()) async throws {
        do {
            try await serve(handlingSignals: handlingSignals, control: control)
        } catch {
            await end(control, error)
            throw error
        }
        await end(control, nil)
        logger.info("Stopped")
    }

    private func end(_ control: ServiceControl, _ error: (any Error)?) async {
        for close in closings.reversed() { await close() }
        if let file = configuration.readyFile { ReadyFile.remove(file) }
        control.ended(error)
    }

    private func serve(handlingSignals: Bool, control: ServiceControl) async throws {
        _ = ProcessMetrics.startTime
        let http = try makeServer(control)
        let watch = ShutdownWatch(
            readiness: readiness, drain: configuration.drainDelay, deadline: configuration.shutdownDeadline, logger: logger,
            // Only a process of its own may be ended with force.
            endsProcess: handlingSignals)
        // Shutdown goes through the list from its end: readiness first, work next, HTTP last, so that /readyz can tell.
        var group = ServiceGroupConfiguration(
            services: [.init(service: http, serviceName: "http")] + services + [.init(service: watch, serviceName: "shutdown")],
            gracefulShutdownSignals: handlingSignals ? [.sigterm, .sigint] : [], logger: Logger(label: "lifecycle", factory: quieter))
        group.maximumGracefulShutdownDuration = configuration.shutdownDeadline + configuration.drainDelay
        let running = ServiceGroup(configuration: group)
        await control.started(running)
        defer { watch.finished() }
        do {
            try await running.run()
        } catch is CancellationError {
            // The deadline passed: what was still running has been cancelled.
            logger.warning("Running work was cancelled because the shutdown took longer than its deadline")
        }
    }

    /// The libraries' own lines are of interest only when something is wrong.
    private func quieter(_ label: String) -> any LogHandler {
        var handler = logger.handler
        handler.logLevel = max(handler.logLevel, .warning)
        return handler
    }

    private func makeServer(_ control: ServiceControl) throws -> some Service {
        let table = RouteTable()
        let router = ServiceRouter(context: ServiceContext.self, options: [.autoGenerateHeadEndpoints])
        router.add(middleware: RequestObserver(level: logger.logLevel))
        router.add(middleware: ProblemMiddleware(routes: table))
        router.add(middleware: AdmissionMiddleware(requestGuard: requestGuard, readiness: readiness))
        HealthRoutes.add(to: router, configuration: configuration, readiness: readiness, registry: metrics)
        for add in routes { try add(router) }
        table.fill(from: router.routes.map { ($0.method.rawValue, $0.path.description) })
        let (configuration, logger) = (configuration, logger)
        let limits = configuration.connectionLimits
        if let file = configuration.readyFile { unlink(file) }
        return Application(
            router: router,
            server: .http1(configuration: .init(additionalChannelHandlers: [ConnectionWatch(limits: limits)], idleTimeout: .seconds(75))),
            configuration: .init(
                address: .hostname(configuration.listen.host, port: configuration.listen.port), serverName: nil, backlog: 1024),
            onServerRunning: { channel in
                let port = channel.localAddress?.port ?? configuration.listen.port
                let url = Self.reachable(ListenAddress(host: configuration.listen.host, port: port)).url
                if let file = configuration.readyFile {
                    do {
                        try ReadyFile.write(file, url: url)
                    } catch {
                        logger.error("The ready file could not be written", metadata: ["error": "\(error)"])
                    }
                }
                logger.info("Listening", metadata: ["url": .string(url), "version": .string(BuildInformation.version)])
                control.bound(url)
            },
            // Hummingbird says without its URL that it listens. Requests get the service's own level back from `RequestObserver`.
            logger: Logger(label: "http", factory: quieter))
    }

    /// A wildcard address is no place to connect to; this machine's loopback is.
    private static func reachable(_ address: ListenAddress) -> ListenAddress {
        switch address.host {
        case "0.0.0.0": ListenAddress(host: "127.0.0.1", port: address.port)
        case "::": ListenAddress(host: "::1", port: address.port)
        default: address
        }
    }
}

/// Runs a closure until it ends or the shutdown cancels it.
private struct TaskService: Service {
    let name: String
    let logger: Logger
    let body: @Sendable () async throws -> Void

    func run() async throws {
        do {
            try await cancelWhenGracefulShutdown(body)
        } catch is CancellationError where Task.isShuttingDownGracefully {
            // That is how it is asked to stop.
        } catch  where Task.isShuttingDownGracefully {
            // What it needs may be going down as well, its database for one; a stop that was asked for is no failure.
            logger.warning("A task ended with an error during the shutdown", metadata: ["task": .string(name), "error": "\(error)"])
        }
    }
}
