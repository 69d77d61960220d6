/// How far a lane has gone through its queue's line, band by band: a value without a clock or a database.
///
/// A claim that starts after what it has passed does not walk over the dead rows that a long transaction elsewhere keeps from being
/// cleaned up. Whoever commits late appears before the mark, so once a second, and when the bell rings, a turn looks back: to the
/// beginning if that is cheap, and it is as long as dead rows go. Where they stay, the beginning is as dear as all that was ever done since,
/// so that is done less often, and in between a turn looks back as far as the marks of half a minute or of two seconds ago. A transaction
/// that took its place two seconds ago or less is found within a second or so, whatever is going on elsewhere.
struct LinePosition: Sendable, Equatable {
    static let bands = 4
    /// A look back this often, although nothing calls for it.
    static let sweep = Duration.seconds(1)
    /// From where a look back starts: from the beginning, or from the marks of so long ago.
    static let reaches: [Duration?] = [nil, longest, .seconds(2)]
    private static let longest = Duration.seconds(30)
    /// What a look back takes beyond other turns, times this, is the least time until the next from as far.
    static let share = 100

    private(set) var low = [Int64](repeating: 0, count: bands)
    /// Earlier marks, a second or more apart, down to one that is older than the longest reach but the beginning.
    private var past: [Mark] = []
    private var looks: [Look]
    private var lookedAt: ContinuousClock.Instant
    /// How long turns take that do not look back, on average.
    private var usual: Duration?
    private var isBehind = true
    private var count = 0

    private struct Mark: Sendable, Equatable {
        let at: ContinuousClock.Instant
        let low: [Int64]
    }

    /// The last look back of one reach.
    private struct Look: Sendable, Equatable {
        var at: ContinuousClock.Instant
        var cost = Duration.zero

        func mayBeRepeated(at now: ContinuousClock.Instant) -> Bool { now - at >= cost * LinePosition.share }
    }

    init(now: ContinuousClock.Instant) {
        lookedAt = now - Self.sweep
        looks = Array(repeating: Look(at: lookedAt), count: Self.reaches.count)
    }

    /// The bell rang, or jobs were rescued: something may be ready behind the marks.
    mutating func reset() { isBehind = true }

    /// How far back a turn that starts now is to look, as an index of ``reaches``; nil: not at all.
    func lookDue(at now: ContinuousClock.Instant) -> Int? {
        guard isBehind || now - lookedAt >= Self.sweep else { return nil }
        return looks.firstIndex { $0.mayBeRepeated(at: now) }
    }

    /// The marks and the first band for the next turn, and how far back it looks.
    mutating func next(at now: ContinuousClock.Instant) -> (low: [Int64], firstBand: Int, look: Int?) {
        remember(now)
        let look = lookDue(at: now)
        if let look {
            isBehind = false
            lookedAt = now
            // Whoever looks further back has looked here too.
            for reach in look..<looks.count { looks[reach].at = now }
        }
        count += 1
        return (look.map { marks(before: now, reach: $0) } ?? low, Self.firstBand(count), look)
    }

    /// From where to ask whether anything is ready, on behalf of a lane that is idle. Nil: it is time to look further back than that costs
    /// next to nothing, which is for a turn to do.
    func marksForAsking(at now: ContinuousClock.Instant) -> [Int64]? {
        if looks[0].cost < Self.cheap { return marks(before: now, reach: 0) }
        return looks[0].mayBeRepeated(at: now) ? nil : marks(before: now, reach: Self.reaches.count - 1)
    }

    private static let cheap = Duration.milliseconds(20)

    /// A turn took so long; `look` is what ``next(at:)`` said.
    mutating func turnEnded(after duration: Duration, look: Int?) {
        if let look {
            // A network that stood still once makes no line dear: what a look costs is believed step by step.
            looks[look].cost = min(max(.zero, duration - (usual ?? .zero)), looks[look].cost * 4 + Self.cheap)
        } else {
            usual = usual.map { $0 + (duration - $0) / 8 } ?? duration
        }
    }

    /// Of each band, the last place at which a job was claimed.
    mutating func passed(_ places: [Int64]) {
        for (band, place) in places.enumerated() where band < low.count { low[band] = max(low[band], place) }
    }

    /// Of fifteen turns, eight begin with band 0, four with 1, two with 2, one with 3; the other bands follow by priority.
    static func firstBand(_ count: Int) -> Int {
        let order = [0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0]
        return order[count % order.count]
    }

    private mutating func remember(_ now: ContinuousClock.Instant) {
        if let last = past.last, now - last.at < Self.sweep || last.low == low { return }
        past.append(Mark(at: now, low: low))
        if let oldest = past.lastIndex(where: { now - $0.at >= Self.longest }) { past.removeFirst(oldest) }
    }

    private func marks(before now: ContinuousClock.Instant, reach: Int) -> [Int64] {
        let mark = Self.reaches[reach].flatMap { reach in past.last { now - $0.at >= reach } }
        return mark?.low ?? [Int64](repeating: 0, count: Self.bands)
    }
}
