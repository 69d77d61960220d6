/// How the demo counts: comparisons inside a group, with intervals over groups.
enum Measures {
    /// A share or a mean with half of its 95 % interval.
    struct Estimate {
        var value: Double
        var halfWidth: Double
    }

    /// Which of a group's comparisons a judge got right.
    ///
    /// - Parameters:
    ///   - scores: one judge's scores of a group's clips.
    ///   - quality: the annotator's noise-free quality of the same clips.
    ///   - tie: comparisons whose qualities differ by less are left out.
    /// - Returns: the number right (a tied score counts half) and the number compared.
    static func comparisons(scores: [Double], quality: [Double], tie: Double) -> (right: Double, count: Double) {
        var right = 0.0, count = 0.0
        for i in 0..<quality.count {
            for j in (i + 1)..<quality.count where abs(quality[i] - quality[j]) >= tie {
                let agreement = (scores[i] - scores[j]) * (quality[i] - quality[j])
                right += agreement > 0 ? 1 : agreement == 0 ? 0.5 : 0
                count += 1
            }
        }
        return (right, count)
    }

    /// A ratio of sums over groups with the interval of the ratio estimator: groups, not pairs, are independent.
    static func ratio(_ groups: [(right: Double, count: Double)]) -> Estimate {
        let total = groups.reduce(0) { $0 + $1.count }
        guard total > 0 else { return Estimate(value: 0, halfWidth: 0) }
        let share = groups.reduce(0) { $0 + $1.right } / total
        let squares = groups.reduce(0) { sum, group in
            let residual = group.right - share * group.count
            return sum + residual * residual
        }
        return Estimate(value: share, halfWidth: halfWidth(squares, groups: groups.count, total: total))
    }

    /// Accuracy of one judge over groups of clips.
    static func accuracy(scores: [[Double]], quality: [[Double]], tie: Double) -> Estimate {
        ratio(zip(scores, quality).map { comparisons(scores: $0, quality: $1, tie: tie) })
    }

    /// Accuracy of `first` minus accuracy of `second` on the same comparisons, its interval paired by group.
    static func pairedDifference(first: [[Double]], second: [[Double]], quality: [[Double]], tie: Double) -> Estimate {
        ratio(
            zip(zip(first, second), quality).map { both, quality in
                let a = comparisons(scores: both.0, quality: quality, tie: tie)
                let b = comparisons(scores: both.1, quality: quality, tie: tie)
                return (a.right - b.right, a.count)
            })
    }

    /// The mean of one value a group (a cluster of equally many clips), with its interval over groups.
    static func mean(_ values: [Double]) -> Estimate { ratio(values.map { ($0, 1) }) }

    /// The share of decided comparisons won, with its 95 % interval by Wilson's score.
    static func wilson(wins: Int, losses: Int) -> (share: Double, low: Double, high: Double) {
        let n = Double(wins + losses)
        guard n > 0 else { return (0.5, 0, 1) }
        let share = Double(wins) / n, z = 1.96
        let centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        let half = z * (share * (1 - share) / n + z * z / (4 * n * n)).squareRoot() / (1 + z * z / n)
        return (share, centre - half, centre + half)
    }

    private static func halfWidth(_ squares: Double, groups: Int, total: Double) -> Double {
        guard groups > 1 else { return 0 }
        return 1.96 * (squares * Double(groups) / Double(groups - 1)).squareRoot() / total
    }
}
