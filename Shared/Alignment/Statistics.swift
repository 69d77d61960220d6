/// A mean with the half width of its 95 % interval.
public struct Estimate: Sendable, Hashable, Codable {
    public let mean: Double
    /// 1.96 standard errors; 0 where one cluster alone leaves nothing to estimate it from.
    public let halfWidth: Double

    public init(mean: Double, halfWidth: Double) {
        self.mean = mean
        self.halfWidth = halfWidth
    }

    public var lower: Double { mean - halfWidth }
    public var upper: Double { mean + halfWidth }

    /// The mean of all values, with values of one cluster (clips of one prompt group) free to depend on each other:
    /// variance = G/(G − 1) · Σ_g (Σ_i (x_gi − mean))² / n².
    /// - Parameter clusters: the values of each cluster; empty clusters count for nothing.
    public init(clusters: [[Double]]) {
        let filled = clusters.filter { !$0.isEmpty }
        let count = Double(filled.reduce(0) { $0 + $1.count })
        let mean = count > 0 ? filled.reduce(0) { $0 + $1.reduce(0, +) } / count : 0
        self.mean = mean
        guard filled.count > 1 else {
            halfWidth = 0
            return
        }
        let squares = filled.reduce(0) { total, cluster in
            let residual = cluster.reduce(0) { $0 + $1 - mean }
            return total + residual * residual
        }
        let groups = Double(filled.count)
        halfWidth = 1.96 * (groups / (groups - 1) * squares).squareRoot() / count
    }

    /// One value a cluster.
    public init(_ values: [Double]) {
        self.init(clusters: values.map { [$0] })
    }

    /// The mean of a − b over clusters of paired values.
    public init(paired a: [[Double]], minus b: [[Double]]) {
        precondition(a.map(\.count) == b.map(\.count), "pairs need two values each")
        self.init(clusters: zip(a, b).map { zip($0, $1).map { $0 - $1 } })
    }
}

/// Wins, losses and ties of paired comparisons.
public struct WinRecord: Sendable, Hashable, Codable {
    public var wins = 0
    public var losses = 0
    public var ties = 0

    public init(wins: Int = 0, losses: Int = 0, ties: Int = 0) {
        self.wins = wins
        self.losses = losses
        self.ties = ties
    }

    /// Counts a difference for each pair: a tie when it is smaller than `tie`.
    public init(differences: [Double], tie: Double) {
        for difference in differences {
            if abs(difference) < tie { ties += 1 } else if difference > 0 { wins += 1 } else { losses += 1 }
        }
    }

    /// The share of wins among the decided pairs (one half when none is), with Wilson's 95 % interval.
    public var winRate: (rate: Double, lower: Double, upper: Double) {
        let count = Double(wins + losses)
        guard count > 0 else { return (0.5, 0, 1) }
        let z = 1.96
        let rate = Double(wins) / count
        let scale = 1 + z * z / count
        let centre = (rate + z * z / (2 * count)) / scale
        let half = z * (rate * (1 - rate) / count + z * z / (4 * count * count)).squareRoot() / scale
        return (rate, max(0, centre - half), min(1, centre + half))
    }
}
