import Foundation

/// A line chart as inline SVG: no script, no font, nothing fetched.
struct LineChart {
    struct Point {
        var x: Double
        var y: Double
        var halfWidth: Double = 0
    }

    struct Series {
        var name: String
        var colour: String
        var points: [Point]
        var dashed = false
        /// Whether its values are read on the right axis.
        var onRight = false
    }

    /// A second scale, on the right: for a quantity of another unit over the same x.
    struct RightAxis {
        var label: String
        var range: ClosedRange<Double>
        var ticks: [Double]
        var format: (Double) -> String
    }

    /// A horizontal line with its name: a control that does not depend on x.
    struct Level {
        var name: String
        var colour: String
        var y: Double
    }

    var title: String
    var xLabel: String
    var yLabel: String
    var series: [Series]
    var levels: [Level] = []
    var xRange: ClosedRange<Double>
    var yRange: ClosedRange<Double>
    var xTicks: [Double]
    var yTicks: [Double]
    var xFormat: (Double) -> String = { Chart.number($0) }
    var yFormat: (Double) -> String = { Chart.percent($0) }
    /// A second meaning for the same plot may run right to left: denoising goes from noise (1000) to data (0).
    var xReversed = false
    var rightAxis: RightAxis?
    var width = 640.0
    var height = 340.0

    func svg() -> String {
        let left = 58.0, right = rightAxis == nil ? 16.0 : 58.0, top = 34.0, bottom = 46.0
        let plotWidth = width - left - right, plotHeight = height - top - bottom
        func x(_ value: Double) -> Double {
            let share = (value - xRange.lowerBound) / (xRange.upperBound - xRange.lowerBound)
            return left + plotWidth * (xReversed ? 1 - share : share)
        }
        func y(_ value: Double, onRight: Bool = false) -> Double {
            let range = onRight ? rightAxis?.range ?? yRange : yRange
            let share = (min(max(value, range.lowerBound), range.upperBound) - range.lowerBound) / (range.upperBound - range.lowerBound)
            return top + plotHeight * (1 - share)
        }
        var out = Chart.open(width: width, height: height, title: title)
        for tick in yTicks {
            out += Chart.line(left, y(tick), width - right, y(tick), "grid")
            out += Chart.text(left - 8, y(tick) + 4, yFormat(tick), "end")
        }
        if let rightAxis {
            for tick in rightAxis.ticks {
                out += Chart.text(width - right + 8, y(tick, onRight: true) + 4, rightAxis.format(tick), "start")
            }
            out += """
                <text class="label" text-anchor="middle" transform="translate(\(Chart.number(width - 6)) \(Chart.number(top + plotHeight / 2))) rotate(90)">\(Chart.escape(rightAxis.label))</text>

                """
        }
        for tick in xTicks {
            out += Chart.line(x(tick), top + plotHeight, x(tick), top + plotHeight + 4, "axis")
            out += Chart.text(x(tick), top + plotHeight + 18, xFormat(tick), "middle")
        }
        out += Chart.line(left, top + plotHeight, width - right, top + plotHeight, "axis")
        out += Chart.text(left + plotWidth / 2, height - 8, xLabel, "middle", "label")
        out += """
            <text class="label" text-anchor="middle" transform="translate(14 \(Chart.number(top + plotHeight / 2))) rotate(-90)">\(Chart.escape(yLabel))</text>

            """
        for level in levels {
            out += """
                <line x1="\(Chart.number(left))" y1="\(Chart.number(y(level.y)))" x2="\(Chart.number(width - right))" y2="\(Chart.number(y(level.y)))" stroke="\(level.colour)" stroke-width="1.5" stroke-dasharray="5 4"/>

                """
            out += Chart.text(width - right - 4, y(level.y) - 5, level.name, "end", "level")
        }
        for one in series {
            let sorted = one.points.sorted { $0.x < $1.x }
            if sorted.contains(where: { $0.halfWidth > 0 }) {
                let upper = sorted.map { "\(Chart.number(x($0.x))),\(Chart.number(y($0.y + $0.halfWidth, onRight: one.onRight)))" }
                let lower = sorted.reversed().map {
                    "\(Chart.number(x($0.x))),\(Chart.number(y($0.y - $0.halfWidth, onRight: one.onRight)))"
                }
                out += "<polygon points=\"\((upper + lower).joined(separator: " "))\" fill=\"\(one.colour)\" opacity=\"0.14\"/>\n"
            }
            let path = sorted.map { "\(Chart.number(x($0.x))),\(Chart.number(y($0.y, onRight: one.onRight)))" }.joined(separator: " ")
            let dash = one.dashed ? " stroke-dasharray=\"6 4\"" : ""
            out += "<polyline points=\"\(path)\" fill=\"none\" stroke=\"\(one.colour)\" stroke-width=\"2.2\"\(dash)/>\n"
            for point in sorted {
                out += """
                    <circle cx="\(Chart.number(x(point.x)))" cy="\(Chart.number(y(point.y, onRight: one.onRight)))" r="3.2" fill="\(one.colour)"><title>\(Chart.escape(one.name)): \(xFormat(point.x)) → \(yFormat(point.y))\(point.halfWidth > 0 ? " ± " + yFormat(point.halfWidth) : "")</title></circle>

                    """
            }
        }
        return out + "</svg>\n" + Chart.legend(series.map { ($0.name + ($0.dashed ? " (dashed)" : ""), $0.colour) })
    }
}

/// Horizontal bars with intervals, as inline SVG.
struct BarChart {
    struct Bar {
        var name: String
        var value: Double
        var halfWidth: Double = 0
        var colour: String
        var note: String = ""
    }

    var title: String
    var bars: [Bar]
    var range: ClosedRange<Double>
    var format: (Double) -> String
    var width = 640.0

    func svg() -> String {
        let left = 190.0, right = 150.0, top = 34.0, row = 30.0
        let height = top + row * Double(bars.count) + 12
        let plotWidth = width - left - right
        func x(_ value: Double) -> Double {
            left + plotWidth * (min(max(value, range.lowerBound), range.upperBound) - range.lowerBound)
                / (range.upperBound - range.lowerBound)
        }
        var out = Chart.open(width: width, height: height, title: title)
        out += Chart.line(x(0), top - 4, x(0), height - 8, "axis")
        for (index, bar) in bars.enumerated() {
            let middle = top + row * (Double(index) + 0.5)
            let start = min(x(0), x(bar.value)), length = abs(x(bar.value) - x(0))
            out += Chart.text(left - 10, middle + 4, bar.name, "end")
            out += """
                <rect x="\(Chart.number(start))" y="\(Chart.number(middle - 9))" width="\(Chart.number(length))" height="18" rx="2" fill="\(bar.colour)"/>

                """
            if bar.halfWidth > 0 {
                out += Chart.line(x(bar.value - bar.halfWidth), middle, x(bar.value + bar.halfWidth), middle, "whisker")
            }
            let edge = max(x(0), x(bar.value + bar.halfWidth)) + 8
            out += Chart.text(edge, middle + 4, format(bar.value) + (bar.note.isEmpty ? "" : "  " + bar.note), "start")
        }
        return out + "</svg>\n"
    }
}

/// What the charts share: number formats, escaping, the SVG's frame.
enum Chart {
    static func open(width: Double, height: Double, title: String) -> String {
        """
        <svg viewBox="0 0 \(number(width)) \(number(height))" role="img" aria-label="\(escape(title))">
        <text x="0" y="16" class="title">\(escape(title))</text>

        """
    }

    static func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ style: String) -> String {
        "<line x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\" class=\"\(style)\"/>\n"
    }

    static func text(_ x: Double, _ y: Double, _ content: String, _ anchor: String, _ style: String = "tick") -> String {
        "<text x=\"\(number(x))\" y=\"\(number(y))\" text-anchor=\"\(anchor)\" class=\"\(style)\">\(escape(content))</text>\n"
    }

    static func legend(_ entries: [(String, String)]) -> String {
        "<p class=\"legend\">"
            + entries.map { "<span><i style=\"background:\($0.1)\"></i>\(escape($0.0))</span>" }.joined() + "</p>\n"
    }

    static func escape(_ text: String) -> String {
        text.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;")
            .replacingOccurrences(of: ">", with: "&gt;").replacingOccurrences(of: "\"", with: "&quot;")
    }

    /// At most two decimals, none where there are none.
    static func number(_ value: Double) -> String {
        let rounded = (value * 100).rounded() / 100
        return rounded == rounded.rounded() ? String(Int(rounded)) : String(rounded)
    }

    static func percent(_ value: Double) -> String { fixed(value * 100, 0) + " %" }

    static func fixed(_ value: Double, _ decimals: Int) -> String { String(format: "%.\(decimals)f", value) }

    /// With its sign; what rounds to zero is +0.
    static func signed(_ value: Double, _ decimals: Int = 2) -> String {
        let text = String(format: "%+.\(decimals)f", value)
        return text.contains { $0 != "-" && $0 != "0" && $0 != "." } ? text : String(format: "%+.\(decimals)f", 0.0)
    }
}
