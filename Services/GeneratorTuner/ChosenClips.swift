import Preferences

/// Which clips people chose, from what raters say together on pairs of them.
///
/// Clips that were compared with one another, directly or through others, form a group; a group's chosen clips are those with the most wins
/// over losses; a side wins that more voices are for. Ties count nothing. A stranger's isolated pair is a group of two: its winner is chosen.
enum ChosenClips {
    /// - Returns: the chosen sides, each once, in the order of the comparisons.
    static func select(_ comparisons: [Comparison]) -> [PairSide] {
        var sides: [String: PairSide] = [:]
        var order: [String] = []
        var balance: [String: Int] = [:]
        var parent: [String: String] = [:]
        func root(_ clip: String) -> String {
            var clip = clip
            while let up = parent[clip], up != clip {
                parent[clip] = parent[up] ?? up
                clip = up
            }
            return clip
        }
        for pair in comparisons {
            for side in [pair.a, pair.b] where sides[side.sha256] == nil {
                sides[side.sha256] = side
                parent[side.sha256] = side.sha256
                order.append(side.sha256)
            }
            let winner = pair.forA == pair.forB ? 0 : pair.forA > pair.forB ? 1 : -1
            balance[pair.a.sha256, default: 0] += winner
            balance[pair.b.sha256, default: 0] -= winner
            // The earlier root stays the root, so that the result follows from the order of the comparisons alone.
            parent[root(pair.b.sha256)] = root(pair.a.sha256)
        }
        var best: [String: Int] = [:]
        for clip in order { best[root(clip)] = max(best[root(clip)] ?? Int.min, balance[clip] ?? 0) }
        return order.filter { clip in
            let wins = balance[clip] ?? 0
            return wins > 0 && wins == best[root(clip)]
        }.compactMap { sides[$0] }
    }
}
