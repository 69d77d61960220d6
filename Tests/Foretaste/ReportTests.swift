import Foundation
import Testing

@testable import Foretaste

/// `report.html` and what it is made of.
@Suite struct ReportTests {
    private let hostile = #"<script>alert("x")</script> & <b>bold</b>"#

    private func accuracy(_ values: [(Double, Double)]) -> [DemoFigures.Accuracy] {
        values.map { .init(timestep: $0.0, accuracy: $0.1, half_width: 0.03) }
    }

    private func bestOfN(_ method: String, passes: Double, gain: Double, text: String = "") -> DemoFigures.BestOfN {
        .init(
            method: method, description: text, forward_passes: passes, judge_passes: 8, quality_gain: gain, half_width: 0.05,
            good_rate: 0.4,
            seconds_per_group: 0.2)
    }

    private func tuning(_ method: String, gain: Double, energy: Double = 1, low: Double = 0.6) -> DemoFigures.Tuning {
        .init(
            method: method, good_rate: 0.5, quality_gain: gain, half_width: 0.08, wins: 120, losses: 60, ties: 60, energy_ratio: energy,
            reward_gain: 0.5, iterations: 100, win_rate: 0.67, win_rate_low: low, win_rate_high: 0.73)
    }

    /// A run in which everything was reached.
    private func figures() -> DemoFigures {
        var figures = DemoFigures()
        figures.reward.accuracy = accuracy([(0, 0.6), (500, 0.75), (700, 0.8), (1000, 0.5)])
        figures.reward.path = accuracy([(300, 0.7), (900, 0.6)])
        figures.reward.axes = [.init(axis: "prompt", accuracy: accuracy([(500, 0.7)]))]
        (figures.reward.best_timestep, figures.reward.best_accuracy) = (700, 0.8)
        (figures.reward.gain_over_energy, figures.reward.gain_over_energy_half_width) = (0.12, 0.04)
        (figures.reward.energy_accuracy, figures.reward.untrained_accuracy) = (0.6, 0.51)
        figures.best_of_n = [
            bestOfN("random", passes: 20, gain: 0), bestOfN("progressive", passes: 52, gain: 0.45),
            bestOfN("all_to_end", passes: 160, gain: 0.5),
        ]
        figures.tuning = [
            tuning("base", gain: 0), tuning("sft", gain: 0.2), tuning("prfl", gain: 0.3), tuning("prfl+sft", gain: 0.4),
            tuning("guidance2", gain: 0.3),
        ]
        figures.tuning_curves = [
            .init(
                method: "prfl+sft",
                points: [
                    .init(iteration: 0, quality_gain: 0, reward_gain: 0, energy_ratio: 1),
                    .init(iteration: 100, quality_gain: 0.4, reward_gain: 1, energy_ratio: 1),
                ])
        ]
        figures.seconds = ["sample and label": 12.5]
        figures.step_order = ["sample and label"]
        return figures
    }

    @Test func whatComesFromOutsideIsEscaped() throws {
        var figures = figures()
        figures.machine = hostile
        figures.reward.model = hostile
        figures.reward.axes[0].axis = hostile
        figures.best_of_n.append(bestOfN(hostile, passes: 1, gain: 0.1, text: hostile))
        figures.tuning.append(tuning(hostile, gain: 0.1))
        figures.tuning_curves[0].method = hostile
        figures.seconds[hostile] = 1
        figures.step_order.append(hostile)
        figures.jobs = [.init(id: hostile, kind: hostile, state: hostile, attempts: 1, worker: hostile, pid: 1, seconds: 1)]
        figures.fetches = [.init(url: hostile, sha256: hostile, bytes: 1, service: hostile)]
        figures.targets = [.init(figure: hostile, wanted: hostile, measured: hostile, reached: false)]
        figures.findings = [.init(text: hostile)]
        let sheets = ["Best-of-N", "Tuning"].map { ReportPage.Sheet(title: $0, caption: hostile, png: [1, 2, 3], width: 30) }
        let html = ReportPage(figures: figures, sheets: sheets).html()
        #expect(!html.contains("<script") && !html.contains("<b>bold"))
        #expect(html.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &lt;b&gt;bold&lt;/b&gt;"))
    }

    @Test func chartsEscapeTheirNames() {
        let line = LineChart(
            title: hostile, xLabel: hostile, yLabel: hostile,
            series: [
                .init(name: hostile, colour: "#000", points: [.init(x: 0, y: 0.5), .init(x: 1, y: 0.7, halfWidth: 0.1)], onRight: true)
            ],
            levels: [.init(name: hostile, colour: "#000", y: 0.5)], xRange: 0...1, yRange: 0...1, xTicks: [0, 1], yTicks: [0, 1],
            rightAxis: .init(label: hostile, range: 0...1, ticks: [0, 1], format: { Chart.fixed($0, 1) })
        ).svg()
        let bars = BarChart(
            title: hostile, bars: [.init(name: hostile, value: 0.5, halfWidth: 0.1, colour: "#000", note: hostile)], range: 0...1,
            format: { Chart.fixed($0, 1) }
        ).svg()
        for svg in [line, bars] { #expect(!svg.contains("<script") && !svg.contains("<b>") && svg.contains("&lt;script&gt;")) }
    }

    /// Nothing is fetched when the page is opened, on whatever day.
    @Test func thePageIsSelfContained() throws {
        let html = ReportPage(figures: figures(), sheets: []).html()
        for word in ["http://", "https://", "<script", "<link", "@import", "url("] { #expect(!html.contains(word), "\(word)") }
        #expect(html.components(separatedBy: "<svg").count - 1 == html.components(separatedBy: "</svg>").count - 1)
    }

    /// A run that measured next to nothing still has a report.
    @Test func emptyFiguresMakeAPage() throws {
        #expect(ReportPage(figures: DemoFigures(), sheets: []).html().contains("</html>"))
    }

    @Test func noFigureIsNull() throws {
        var figures = figures()
        DemoVerdict.judge(&figures, settings: DemoSettings())
        let json = String(decoding: try JSONEncoder().encode(figures), as: UTF8.self)
        #expect(!json.contains("null"))
        #expect(try JSONDecoder().decode(DemoFigures.self, from: Data(json.utf8)).targets.count == figures.targets.count)
    }

    @Test func aRunThatReachesEverythingHasNothingToExplain() {
        var figures = figures()
        DemoVerdict.judge(&figures, settings: DemoSettings())
        #expect(figures.targets.count == 9 && figures.targets.allSatisfy(\.reached), "\(figures.targets)")
        #expect(figures.findings.isEmpty, "\(figures.findings)")
        #expect(ReportPage(figures: figures, sheets: []).html().contains("All 9 figures"))
    }

    /// Each: what is made worse, the target that is missed, and words of the finding.
    @Test func eachMissIsSaidInWords() {
        let cases: [(String, (inout DemoFigures) -> Void, String)] = [
            ("head at its best timestep", { $0.reward.best_accuracy = 0.7 }, "70.0 %"),
            ("head minus energy, paired", { $0.reward.gain_over_energy = 0.02 }, "+2.0 ± 4.0 points"),
            ("untrained head", { $0.reward.untrained_accuracy = 0.65 }, "65.0 %"),
            ("best timestep", { $0.reward.best_timestep = 1000 }, "does not peak"),
            ("progressive Best-of-8", { $0.best_of_n[1].quality_gain = 0.3 }, "60.0 % of the full gain"),
            ("progressive Best-of-8", { $0.best_of_n[1].forward_passes = 80 }, "50.0 % of the forward passes"),
            ("its gain over a random pick", { $0.best_of_n[1].quality_gain = 0.04 }, "not clear of zero"),
            ("PRFL + SFT against base", { $0.tuning[3].win_rate_low = 0.45 }, "120 won, 60 lost"),
            ("its gain in quality", { $0.tuning[3].quality_gain = 0.11 }, "+0.110 only"),
            ("its energy", { $0.tuning[3].energy_ratio = 1.3 }, "1.30 times"),
        ]
        for (target, worsen, words) in cases {
            var figures = figures()
            worsen(&figures)
            DemoVerdict.judge(&figures, settings: DemoSettings())
            #expect(figures.targets.first { $0.figure == target }?.reached == false, "\(target)")
            #expect(figures.findings.contains { $0.text.contains(words) }, "\(target): \(figures.findings.map(\.text))")
            #expect(ReportPage(figures: figures, sheets: []).html().contains("missed"), "\(target)")
        }
    }

    @Test func aMethodThatDoesNotHelpAndAJudgeThatIsExploitedAreNamed() {
        var figures = figures()
        figures.tuning[2].quality_gain = 0.05
        figures.tuning_curves.append(
            .init(
                method: "prfl",
                points: [
                    .init(iteration: 20, quality_gain: 0.2, reward_gain: 1, energy_ratio: 1),
                    .init(iteration: 100, quality_gain: 0.05, reward_gain: 3, energy_ratio: 1),
                ]))
        DemoVerdict.judge(&figures, settings: DemoSettings())
        #expect(figures.findings.contains { $0.text.hasPrefix("prfl did not improve") })
        #expect(figures.findings.contains { $0.text.contains("exploits its judge") })
    }
}
