import CoreMetrics
import Foundation
import Synchronization

/// One line, or one histogram's lines, of a metric.
protocol MetricSeries: AnyObject, Sendable {
    func render(name: String, labels: String) -> String
}

/// A counter's or a gauge's value.
final class NumberSeries: MetricSeries, CounterHandler, FloatingPointCounterHandler, MeterHandler, RecorderHandler {
    private let value = Mutex(0.0)

    func increment(by amount: Int64) { value.withLock { $0 += Double(amount) } }
    func increment(by amount: Double) { value.withLock { $0 += amount } }
    func decrement(by amount: Double) { value.withLock { $0 -= amount } }
    func set(_ new: Int64) { value.withLock { $0 = Double(new) } }
    func set(_ new: Double) { value.withLock { $0 = new } }
    func record(_ new: Int64) { set(new) }
    func record(_ new: Double) { set(new) }
    func reset() { value.withLock { $0 = 0 } }

    func render(name: String, labels: String) -> String {
        "\(name)\(PrometheusText.braced(labels)) \(PrometheusText.number(value.withLock { $0 }))\n"
    }
}

/// A histogram: how many observations were at most each bound, their count and sum.
final class HistogramSeries: MetricSeries, RecorderHandler, TimerHandler {
    private struct State {
        var counts: [UInt64]
        var sum = 0.0
    }

    private let bounds: [Double]
    private let state: Mutex<State>

    init(bounds: [Double]) {
        self.bounds = bounds.sorted()
        state = Mutex(State(counts: Array(repeating: 0, count: bounds.count + 1)))
    }

    func record(_ value: Int64) { record(Double(value)) }

    func record(_ value: Double) {
        let bucket = bounds.firstIndex { value <= $0 } ?? bounds.count
        state.withLock {
            $0.counts[bucket] += 1
            $0.sum += value
        }
    }

    func recordNanoseconds(_ duration: Int64) { record(Double(duration) * 1e-9) }

    func render(name: String, labels: String) -> String {
        let state = state.withLock { $0 }
        var text = ""
        var running: UInt64 = 0
        for (index, count) in state.counts.enumerated() {
            running += count
            let bound = index < bounds.count ? PrometheusText.number(bounds[index]) : "+Inf"
            text += "\(name)_bucket\(PrometheusText.braced(labels + (labels.isEmpty ? "" : ",") + "le=\"\(bound)\"")) \(running)\n"
        }
        text += "\(name)_sum\(PrometheusText.braced(labels)) \(PrometheusText.number(state.sum))\n"
        return text + "\(name)_count\(PrometheusText.braced(labels)) \(running)\n"
    }
}

/// The text format's small print.
enum PrometheusText {
    /// A legal metric name, with `suffix` unless it is there already.
    static func name(_ label: String, suffix: String = "") -> String {
        var name = legal(label, colons: true)
        if !suffix.isEmpty && !name.hasSuffix(suffix) { name += suffix }
        return name
    }

    /// `a="x",b="y"`, by name.
    static func labels(_ dimensions: [(String, String)]) -> String {
        dimensions.map { (legal($0.0, colons: false), escapedValue($0.1)) }.sorted { $0.0 < $1.0 }
            .map { "\($0.0)=\"\($0.1)\"" }.joined(separator: ",")
    }

    static func braced(_ labels: String) -> String { labels.isEmpty ? "" : "{\(labels)}" }

    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if value == value.rounded() && abs(value) < 1e15 { return String(Int64(value)) }
        return "\(value)"
    }

    static func escapedHelp(_ text: String) -> String { text.replacing("\\", with: "\\\\").replacing("\n", with: "\\n") }

    private static func escapedValue(_ text: String) -> String { escapedHelp(text).replacing("\"", with: "\\\"") }

    private static func legal(_ text: String, colons: Bool) -> String {
        var result = ""
        for character in text.unicodeScalars {
            let letter =
                ("a"..."z").contains(character) || ("A"..."Z").contains(character) || character == "_" || (colons && character == ":")
            let digit = ("0"..."9").contains(character)
            if digit && result.isEmpty { result += "_" }
            result.unicodeScalars.append(letter || digit ? character : "_")
        }
        return result.isEmpty ? "_" : result
    }
}
