public import CoreMetrics
import Foundation
import Synchronization

/// A backend for swift-metrics that renders Prometheus' text format (version 0.0.4).
///
/// Names become legal by replacing other characters with `_`. Counters end in `_total`. Timers become histograms in seconds that end in
/// `_seconds`; aggregating recorders become histograms, others gauges, and meters gauges. Dimensions become labels: keep them few and of few
/// values, because each combination is a series that stays.
public final class MetricsRegistry: MetricsFactory {
    /// The registry that `bootstrap()` installs and `/metrics` shows.
    public static let shared = MetricsRegistry()

    /// Upper bounds of a histogram's buckets in seconds, from 1 ms to 10 minutes.
    public static let secondsBuckets: [Double] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
    ]

    /// Upper bounds for counts of things: powers of two to 4096.
    public static let countBuckets: [Double] = (0...12).map { Double(1 << $0) }

    enum Kind: String {
        case counter, gauge, histogram
    }

    struct Family {
        let kind: Kind
        var help: String?
        var series: [String: any MetricSeries] = [:]
    }

    private struct State {
        var families: [String: Family] = [:]
        var helps: [String: String] = [:]
        var buckets: [String: [Double]] = [:]
    }

    private let state = Mutex(State())

    /// An empty registry.
    public init() {}

    private static let installed: Void = MetricsSystem.bootstrap(MetricsRegistry.shared)

    /// Makes `shared` the backend of swift-metrics in this process. Calling it again does nothing.
    public static func bootstrap() { _ = installed }

    /// Sets a metric's `# HELP` line. `name` as it is rendered.
    public func describe(_ name: String, _ help: String) {
        state.withLock {
            $0.helps[name] = help
            $0.families[name]?.help = help
        }
    }

    /// Sets the upper bounds of a histogram's buckets, ascending. `name` as it is rendered; before the metric is first made.
    public func setBuckets(_ name: String, _ bounds: [Double]) {
        state.withLock { $0.buckets[name] = bounds }
    }

    func series<S: MetricSeries>(_ name: String, _ kind: Kind, _ dimensions: [(String, String)], make: ([Double]?) -> S) -> S {
        let labels = PrometheusText.labels(dimensions)
        return state.withLock { state in
            // A name that is taken by another kind of metric gets the kind behind it: two types under one name is no valid text.
            let key = state.families[name].map { $0.kind == kind } ?? true ? name : "\(name)_\(kind.rawValue)"
            if let existing = state.families[key]?.series[labels] as? S { return existing }
            let made = make(state.buckets[key])
            state.families[key, default: Family(kind: kind, help: state.helps[key])].series[labels] = made
            return made
        }
    }

    /// The text for a scraper.
    public func render() -> String {
        let families = state.withLock { $0.families }
        var text = ""
        for (name, family) in families.sorted(by: { $0.key < $1.key }) where !family.series.isEmpty {
            if let help = family.help { text += "# HELP \(name) \(PrometheusText.escapedHelp(help))\n" }
            text += "# TYPE \(name) \(family.kind.rawValue)\n"
            for (labels, series) in family.series.sorted(by: { $0.key < $1.key }) { text += series.render(name: name, labels: labels) }
        }
        return text
    }

    private func remove(_ handler: AnyObject) {
        state.withLock { state in
            state.families = state.families.mapValues { family in
                var family = family
                family.series = family.series.filter { $0.value !== handler }
                return family
            }
        }
    }

    // MARK: MetricsFactory

    public func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler { makeNumber(label, .counter, dimensions) }

    public func makeFloatingPointCounter(label: String, dimensions: [(String, String)]) -> any FloatingPointCounterHandler {
        makeNumber(label, .counter, dimensions)
    }

    public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler { makeNumber(label, .gauge, dimensions) }

    public func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        guard aggregate else { return makeNumber(label, .gauge, dimensions) }
        return series(PrometheusText.name(label), .histogram, dimensions) { HistogramSeries(bounds: $0 ?? Self.countBuckets) }
    }

    public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        series(PrometheusText.name(label, suffix: "_seconds"), .histogram, dimensions) {
            HistogramSeries(bounds: $0 ?? Self.secondsBuckets)
        }
    }

    private func makeNumber(_ label: String, _ kind: Kind, _ dimensions: [(String, String)]) -> NumberSeries {
        series(PrometheusText.name(label, suffix: kind == .counter ? "_total" : ""), kind, dimensions) { _ in NumberSeries() }
    }

    public func destroyCounter(_ handler: any CounterHandler) { remove(handler) }
    public func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) { remove(handler) }
    public func destroyMeter(_ handler: any MeterHandler) { remove(handler) }
    public func destroyRecorder(_ handler: any RecorderHandler) { remove(handler) }
    public func destroyTimer(_ handler: any TimerHandler) { remove(handler) }
}
