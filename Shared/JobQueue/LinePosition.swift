/// How far a lane has gone through its queue's line, band by band: a value without a clock or a database.
///
/// A claim that starts after what it has passed does not walk over the dead rows that a long transaction elsewhere keeps from being
/// cleaned up. Whoever commits late appears before the mark, so once a second, and when the bell rings, a turn starts from the
/// beginning; where that is dear it is done less often, so that it takes no more than a tenth of the time.
struct LinePosition: Sendable, Equatable {
    static let bands = 4
    /// A turn from the beginning this often, although nothing calls for it.
    static let sweep = Duration.seconds(1)

    private(set) var low = [Int64](repeating: 0, count: bands)
    private var sweptAt: ContinuousClock.Instant
    private var sweepTook = Duration.zero
    private var isBehind = true
    private var count = 0

    init(now: ContinuousClock.Instant) { sweptAt = now - Self.sweep }

    /// The bell rang, or jobs were rescued: something may be ready behind the marks.
    mutating func reset() { isBehind = true }

    /// Whether a turn that starts now is to begin at the start of the line.
    func isSweepDue(at now: ContinuousClock.Instant) -> Bool {
        let age = now - sweptAt
        return age >= sweepTook * 10 && (isBehind || age >= Self.sweep)
    }

    /// The marks and the first band for the next turn.
    mutating func next(at now: ContinuousClock.Instant) -> (low: [Int64], firstBand: Int, isSweep: Bool) {
        let isSweep = isSweepDue(at: now)
        if isSweep {
            isBehind = false
            sweptAt = now
        }
        count += 1
        return (isSweep ? [Int64](repeating: 0, count: Self.bands) : low, Self.firstBand(count), isSweep)
    }

    mutating func sweepEnded(after duration: Duration) { sweepTook = duration }

    /// A job of this band was claimed at this place.
    mutating func passed(_ place: Int64, band: Int) { low[band] = max(low[band], place) }

    /// Of fifteen turns, eight begin with band 0, four with 1, two with 2, one with 3; the other bands follow by priority.
    static func firstBand(_ count: Int) -> Int {
        let order = [0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0]
        return order[count % order.count]
    }
}
