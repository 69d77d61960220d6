import Foundation

/// `report.html`: one self-contained page from a run's figures and its contact sheets.
struct ReportPage {
    /// Animated sheets by name, base64 of a PNG file each.
    struct Sheet {
        var title: String
        var caption: String
        var png: [UInt8]
        var width: Int
    }

    var figures: DemoFigures
    var sheets: [Sheet]

    private let blue = "#2563a8", orange = "#c2621b", green = "#2c7a4b", violet = "#7a4fa3", grey = "#8a8f98"

    func html() -> String {
        """
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
        <title>Foretaste: the whole loop, measured</title>
        <style>\(style)</style></head><body><main>
        <h1>Foretaste: the whole loop, measured</h1>
        <p class="lead">\(Chart.escape(lead))</p>
        \(verdict)
        \(rewardSection)
        \(bestOfNSection)
        \(tuningSection)
        \(timeSection)
        \(operationsSection)
        <footer>Seed \(figures.seed) · \(Chart.escape(figures.machine)) · every number on this page was measured in this run and stands in
        <code>report.json</code> beside it. ± is half of a 95 % interval over prompt groups.</footer>
        </main></body></html>

        """
    }

    private var lead: String {
        "A small diffusion transformer made \(figures.clips) clips; an annotator who looks only at pixels compared them in \(figures.pairs) pairs "
            + "(\(figures.ties) ties). A reward head learnt from those pairs inside the latent space, pruned a Best-of-8 before the clips were "
            + "finished, and tuned the generator through a LoRA. The reward never saw a pixel; the annotator never saw a latent."
    }

    // MARK: Verdict

    private var verdict: String {
        let tuned = figures.tuning.first { $0.method == "prfl+sft" }
        let base = figures.tuning.first { $0.method == "base" }
        let progressive = figures.best_of_n.first { $0.method == "progressive" }
        let full = figures.best_of_n.first { $0.method == "all_to_end" }
        var cards: [(String, String, String)] = [
            (
                Chart.percent(figures.reward.best_accuracy), "of held-out comparisons judged right",
                "at timestep \(Chart.number(figures.reward.best_timestep)); energy alone \(Chart.percent(figures.reward.energy_accuracy))"
            )
        ]
        if let progressive, let full, full.quality_gain != 0 {
            cards.append(
                (
                    Chart.percent(progressive.forward_passes / full.forward_passes), "of the forward passes of a full Best-of-8",
                    "for \(Chart.percent(progressive.quality_gain / full.quality_gain)) of its gain in quality"
                ))
        }
        if let tuned {
            cards.append(
                (
                    "\(tuned.wins) : \(tuned.losses)", "clips won and lost by the tuned generator",
                    "good clips \(Chart.percent(base?.good_rate ?? 0)) → \(Chart.percent(tuned.good_rate)), quality \(Chart.signed(tuned.quality_gain)) ± \(Chart.fixed(tuned.half_width, 2))"
                ))
        }
        let missed = figures.targets.filter { !$0.reached }.count
        let rows = figures.targets.map {
            "<tr><td>\(Chart.escape($0.figure))</td><td>\(Chart.escape($0.wanted))</td><td>\(Chart.escape($0.measured))</td>"
                + "<td class=\"\($0.reached ? "yes" : "no")\">\($0.reached ? "reached" : "missed")</td></tr>"
        }.joined(separator: "\n")
        let summary =
            missed == 0
            ? "All \(figures.targets.count) figures that the demo sets out to reach were reached in this run."
            : "\(missed) of the \(figures.targets.count) figures that the demo sets out to reach were missed in this run."
        return """
            <section class="cards">\(cards.map { "<div><b>\($0.0)</b><span>\(Chart.escape($0.1))</span><small>\(Chart.escape($0.2))</small></div>" }.joined())</section>
            <details\(missed > 0 ? " open" : "")><summary>\(summary)</summary>
            <table><tr><th>figure</th><th>wanted</th><th>measured</th><th></th></tr>
            \(rows)</table></details>
            <ul class="findings">\(figures.findings.map { "<li>\(Chart.escape($0.text))</li>" }.joined())</ul>
            """
    }

    // MARK: Reward

    private var rewardSection: String {
        let reward = figures.reward
        func points(_ list: [DemoFigures.Accuracy]) -> [LineChart.Point] {
            list.map { .init(x: $0.timestep, y: $0.accuracy, halfWidth: $0.half_width) }
        }
        let judge = LineChart(
            title: "Who is right about a half-denoised clip?", xLabel: "timestep: 1000 is noise, 0 is the finished clip",
            yLabel: "comparisons judged right",
            series: [
                .init(name: "trained head, re-noised clips", colour: blue, points: points(reward.accuracy)),
                .init(name: "the same head on the sampler's own path", colour: orange, points: points(reward.path), dashed: true),
            ],
            levels: [
                .init(name: "energy of the finished latent", colour: green, y: reward.energy_accuracy),
                .init(name: "untrained head", colour: grey, y: reward.untrained_accuracy),
            ], xRange: 0...1000, yRange: 0.4...1, xTicks: [0, 100, 300, 500, 700, 800, 900, 1000],
            yTicks: [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1], xReversed: true)
        let colours = [blue, orange, green, violet]
        let axes = LineChart(
            title: "What is decided when: one head for each axis", xLabel: "timestep: 1000 is noise, 0 is the finished clip",
            yLabel: "comparisons judged right",
            series: reward.axes.enumerated().map { index, axis in
                .init(name: axis.axis, colour: colours[index % colours.count], points: points(axis.accuracy))
            }, xRange: 0...1000, yRange: 0.4...1, xTicks: [0, 100, 300, 500, 700, 800, 900, 1000],
            yTicks: [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1], xReversed: true)
        return """
            <section><h2>1 · A judge inside the latent space</h2>
            <p>The head \(Chart.escape(reward.model)) learnt from \(reward.training_pairs) pairs and is tested on \(reward.tested_pairs) pairs of new clips,
            noise-free labels, ties left out. Head minus energy, on the same pairs, at timestep \(Chart.number(reward.best_timestep)):
            <b>\(Chart.signed(reward.gain_over_energy * 100, 1)) ± \(Chart.fixed(reward.gain_over_energy_half_width * 100, 1)) points</b>.
            It judges best before the end: on a finished clip, add noise again and score there.</p>
            <figure>\(judge.svg())</figure><figure>\(axes.svg())</figure></section>
            """
    }

    // MARK: Best of N

    private var bestOfNSection: String {
        let colours = ["random": grey, "energy": green, "one_cut": orange, "progressive": blue, "all_to_end": violet, "oracle": grey]
        let chart = BarChart(
            title: "Gain in quality over a random pick, and what it cost",
            bars: figures.best_of_n.map {
                .init(
                    name: $0.method.replacingOccurrences(of: "_", with: " "), value: $0.quality_gain, halfWidth: $0.half_width,
                    colour: colours[$0.method] ?? grey, note: "\(Chart.number($0.forward_passes)) passes")
            }, range: 0...max(0.1, (figures.best_of_n.map { $0.quality_gain + $0.half_width }.max() ?? 1) * 1.05),
            format: { Chart.signed($0) })
        let rows = figures.best_of_n.map {
            "<tr><td>\(Chart.escape($0.description))</td><td>\(Chart.number($0.forward_passes))</td><td>\(Chart.number($0.judge_passes))</td>"
                + "<td>\(Chart.fixed($0.seconds_per_group, 2))</td><td>\(Chart.signed($0.quality_gain, 3)) ± \(Chart.fixed($0.half_width, 3))</td>"
                + "<td>\(Chart.percent($0.good_rate))</td></tr>"
        }.joined(separator: "\n")
        return """
            <section><h2>2 · Best of 8, pruned before the clips are finished</h2>
            <p>\(figures.best_of_n_groups) groups of 8 candidates, 20 steps. The schedule was chosen on other groups; every score came from the scoring service.</p>
            <figure>\(chart.svg())</figure>
            <table><tr><th>what</th><th>generator passes</th><th>judge passes</th><th>seconds a group</th><th>quality over random</th><th>good</th></tr>
            \(rows)</table>
            \(sheetsHTML("Best-of-N"))</section>
            """
    }

    // MARK: Tuning

    private var tuningSection: String {
        let names = [
            "base": "base", "sft": "SFT on the chosen clips alone", "prfl": "PRFL alone", "prfl+sft": "PRFL + SFT",
            "guidance2": "base with guidance 2 (twice the cost)",
        ]
        let rows = figures.tuning.map {
            "<tr><td>\(Chart.escape(names[$0.method] ?? $0.method))</td><td>\($0.iterations)</td><td>\(Chart.percent($0.good_rate))</td>"
                + "<td>\(Chart.signed($0.quality_gain, 3)) ± \(Chart.fixed($0.half_width, 3))</td><td>\($0.wins) / \($0.losses) / \($0.ties)</td>"
                + "<td>\($0.method == "base" ? "" : "\(Chart.percent($0.win_rate)) [\(Chart.percent($0.win_rate_low)), \(Chart.percent($0.win_rate_high))]")</td>"
                + "<td>\(Chart.fixed($0.energy_ratio, 2))</td><td>\(Chart.signed($0.reward_gain))</td></tr>"
        }.joined(separator: "\n")
        let colours = ["prfl": orange, "sft": green, "prfl+sft": blue]
        let all = figures.tuning_curves.flatMap(\.points)
        let last = Double(all.map(\.iteration).max() ?? 1)
        let quality = scale(all.map(\.quality_gain)), reward = scale(all.map(\.reward_gain))
        let series = figures.tuning_curves.flatMap { curve -> [LineChart.Series] in
            let name = names[curve.method] ?? curve.method, colour = colours[curve.method] ?? grey
            return [
                .init(
                    name: name + ": annotator", colour: colour,
                    points: curve.points.map { .init(x: Double($0.iteration), y: $0.quality_gain) }),
                .init(
                    name: name + ": reward", colour: colour, points: curve.points.map { .init(x: Double($0.iteration), y: $0.reward_gain) },
                    dashed: true, onRight: true),
            ]
        }
        let chart = LineChart(
            title: "What the annotator says, and what the reward says", xLabel: "tuning iterations",
            yLabel: "annotator: quality over base", series: series, xRange: 0...max(1, last),
            yRange: quality.range, xTicks: stride(from: 0, through: last, by: max(1, last / 5)).map { $0 }, yTicks: quality.ticks,
            xFormat: { Chart.fixed($0, 0) }, yFormat: { Chart.signed($0) },
            rightAxis: .init(label: "reward over base, sd", range: reward.range, ticks: reward.ticks, format: { Chart.signed($0, 1) }))
        return """
            <section><h2>3 · The generator, tuned by the reward</h2>
            <p>\(figures.tuning_clips) clips for each row at the same seeds, judged by the annotator, which neither the reward nor the tuner ever sees. Won, lost and
            tied count clips against the base's clip of the same seed.</p>
            <table><tr><th>what</th><th>iterations</th><th>good</th><th>quality over base</th><th>won / lost / tied</th><th>win rate</th><th>energy</th><th>reward, sd</th></tr>
            \(rows)</table>
            <figure>\(chart.svg())</figure>
            <p class="note">Where the reward keeps climbing while the annotator turns away, the tuner is exploiting its judge; the SFT half-step is the brake.</p>
            \(sheetsHTML("Tuning"))</section>
            """
    }

    /// A range around `values` and zero, with five ticks.
    private func scale(_ values: [Double]) -> (range: ClosedRange<Double>, ticks: [Double]) {
        let low = min(0, values.min() ?? 0), high = max(values.max() ?? 1, low + 0.1)
        let pad = (high - low) * 0.06
        return ((low - pad)...(high + pad), (0...4).map { low + (high - low) * Double($0) / 4 })
    }

    private func sheetsHTML(_ prefix: String) -> String {
        sheets.filter { $0.title.hasPrefix(prefix) }.map {
            """
            <figure class="sheet"><img alt="\(Chart.escape($0.caption))" width="\($0.width)" src="data:image/png;base64,\(Data($0.png).base64EncodedString())">
            <figcaption>\(Chart.escape($0.caption))</figcaption></figure>
            """
        }.joined()
    }

    // MARK: Time, jobs, fetches

    private var timeSection: String {
        let steps = figures.step_order.filter { figures.seconds[$0] != nil }
        let total = steps.reduce(0) { $0 + (figures.seconds[$1] ?? 0) }
        let chart = BarChart(
            title: "Where \(Chart.fixed(total, 0)) seconds went",
            bars: steps.map { .init(name: $0, value: figures.seconds[$0] ?? 0, colour: blue) },
            range: 0...max(1, steps.map { figures.seconds[$0] ?? 0 }.max() ?? 1), format: { Chart.fixed($0, 1) + " s" })
        return "<section><h2>4 · Where the time went</h2><figure>\(chart.svg())</figure></section>"
    }

    private var operationsSection: String {
        let jobs = figures.jobs.filter { $0.kind != "verify_preference" }.map {
            "<tr><td>\(Chart.escape($0.id))</td><td>\(Chart.escape($0.kind))</td><td>\(Chart.escape($0.state))</td><td>\($0.attempts)</td>"
                + "<td>\(Chart.escape($0.worker))</td><td>\($0.pid)</td><td>\(Chart.fixed($0.seconds, 1))</td></tr>"
        }.joined(separator: "\n")
        let verified = figures.jobs.filter { $0.kind == "verify_preference" }.count
        let bytes = figures.fetches.reduce(0) { $0 + $1.bytes }
        let services = Dictionary(grouping: figures.fetches, by: \.service).mapValues(\.count).sorted { $0.key < $1.key }
        return """
            <section><h2>5 · The services behind it</h2>
            <p>Four processes that talk only through PostgreSQL, in a database of this run's own. \(figures.fetches.count) artifacts
            (\(Chart.fixed(Double(bytes) / 1_048_576, 1)) MiB) were fetched over HTTP, each checked against its digest:
            \(services.map { "\(Chart.escape($0.key)) \($0.value)" }.joined(separator: ", ")). \(verified) verification jobs, and:</p>
            <table><tr><th>job</th><th>kind</th><th>state</th><th>attempts</th><th>worker</th><th>pid</th><th>seconds</th></tr>
            \(jobs)</table></section>
            """
    }

    private var style: String {
        """
        :root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6472;--line:#d9dee5;--card:#f5f7fa;--page:#fff}
        @media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#343c48;--card:#1b212b;--page:#12161d}}
        body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
        main{max-width:860px;margin:0 auto;padding:28px 20px 60px}
        h1{font-size:27px;margin:0 0 6px}h2{font-size:19px;margin:36px 0 6px}
        .lead{color:var(--soft);margin:0 0 18px}
        .cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:12px}
        .cards div{background:var(--card);border-radius:8px;padding:14px 16px}
        .cards b{display:block;font-size:27px}.cards span{display:block}.cards small{color:var(--soft)}
        details{margin:14px 0}summary{cursor:pointer}
        .findings{color:var(--soft);padding-left:20px}
        table{border-collapse:collapse;width:100%;font-size:13.5px;margin:10px 0}
        th{text-align:left;color:var(--soft);font-weight:500}th,td{padding:4px 8px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}td:not(:first-child){white-space:nowrap}
        .yes{color:#2c7a4b}.no{color:#b3401f;font-weight:600}
        figure{margin:16px 0}
        svg{width:100%;height:auto;overflow:visible}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
        svg .title{font-size:14px;font-weight:600;fill:var(--ink)}svg .level{font-size:11px}
        .grid{stroke:var(--line)}.axis{stroke:var(--soft)}.whisker{stroke:var(--ink);stroke-width:1.6}
        .legend{margin:2px 0 0;font-size:13px;color:var(--soft)}.legend span{margin-right:16px;white-space:nowrap}
        .legend i{display:inline-block;width:14px;height:4px;margin-right:6px;vertical-align:middle;border-radius:2px}
        .sheet img{image-rendering:pixelated;max-width:100%;border-radius:6px}figcaption,.note,footer{color:var(--soft);font-size:13px}
        footer{margin-top:40px;border-top:1px solid var(--line);padding-top:12px}
        """
    }
}
