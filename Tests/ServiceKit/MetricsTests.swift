import CoreMetrics
import Testing

@testable import ServiceKit

/// A strict reader of Prometheus' text format: what it does not understand is an issue.
func parseMetrics(_ text: String) throws -> [String: Double] {
    var values: [String: Double] = [:]
    var types: [String: String] = [:]
    let sample = /([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*\})? ([-+.eE0-9]+|NaN|[-+]Inf)/
    for line in text.split(separator: "\n") {
        if line.hasPrefix("# TYPE ") {
            let parts = line.split(separator: " ")
            try #require(parts.count == 4 && ["counter", "gauge", "histogram"].contains(parts[3]))
            try #require(types.updateValue(String(parts[3]), forKey: String(parts[2])) == nil, "\(parts[2]) has two types")
        } else if !line.hasPrefix("# HELP ") {
            let match = try #require(try sample.wholeMatch(in: line), "\(line)")
            let family = String(match.1)
            let base = ["_bucket", "_sum", "_count"].first {
                family.hasSuffix($0) && types[String(family.dropLast($0.count))] == "histogram"
            }
            try #require(types[family] != nil || base != nil, "\(line) has no type")
            let key = family + (match.2.map(String.init) ?? "")
            try #require(values.updateValue(Double(match.3.replacing("Inf", with: "infinity"))!, forKey: key) == nil, "\(key) twice")
        }
    }
    return values
}

@Suite("Metrics")
struct MetricsTests {
    @Test("counters, gauges and histograms render as Prometheus reads them")
    func render() throws {
        let registry = MetricsRegistry()
        registry.describe("foretaste_things_total", "Things,\nof all kinds")
        Counter(label: "foretaste_things", dimensions: [("kind", "a \"b\"\\\n"), ("code", "200")], factory: registry).increment(by: 3)
        Counter(label: "foretaste_things", dimensions: [("code", "200"), ("kind", "a \"b\"\\\n")], factory: registry).increment()
        Gauge(label: "foretaste.queue-depth", factory: registry).record(2.5)
        Meter(label: "running", factory: registry).set(-1)
        registry.setBuckets("foretaste_score", [-1, 0, 1])
        let scores = Recorder(label: "foretaste_score", factory: registry)
        for value in [-5.0, -0.5, 0, 7] { scores.record(value) }
        CoreMetrics.Timer(label: "foretaste_compute", factory: registry).recordMilliseconds(3)
        let values = try parseMetrics(registry.render() + ProcessMetrics.render())
        #expect(values["foretaste_things_total{code=\"200\",kind=\"a \\\"b\\\"\\\\\\n\"}"] == 4)
        #expect(values["foretaste_queue_depth"] == 2.5)
        #expect(values["running"] == -1)
        #expect(values["foretaste_score_bucket{le=\"-1\"}"] == 1)
        #expect(values["foretaste_score_bucket{le=\"0\"}"] == 3)
        #expect(values["foretaste_score_bucket{le=\"1\"}"] == 3)
        #expect(values["foretaste_score_bucket{le=\"+Inf\"}"] == 4)
        #expect(values["foretaste_score_count"] == 4)
        #expect(values["foretaste_score_sum"] == 1.5)
        #expect(values["foretaste_compute_seconds_bucket{le=\"0.005\"}"] == 1)
        #expect(values["process_resident_memory_bytes"]! > 1e6)
        #expect(values["process_open_fds"]! > 2)
    }

    @Test("one name with two kinds of metric is still valid text")
    func clash() throws {
        let registry = MetricsRegistry()
        Counter(label: "x_total", factory: registry).increment()
        Meter(label: "x_total", factory: registry).set(2)
        let values = try parseMetrics(registry.render())
        #expect(values["x_total"] == 1 && values["x_total_gauge"] == 2)
    }

    @Test("a destroyed metric is gone")
    func destroy() {
        let registry = MetricsRegistry()
        let counter = Counter(label: "x", factory: registry)
        counter.increment()
        counter.destroy()
        #expect(registry.render() == "")
    }
}
