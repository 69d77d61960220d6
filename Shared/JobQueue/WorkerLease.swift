/// A worker's lease as the worker itself may count on it: a value without a clock, a socket or a database.
///
/// The database grants a lease until its own clock has passed `ttl` since the beat reached it. The worker counts from the moment it
/// *sent* a beat that was then acknowledged, which is earlier, so it always gives up first.
struct WorkerLease: Sendable, Equatable {
    /// How far before the end nothing new is started.
    static let margin = Duration.seconds(2)

    enum Standing: Sendable, Equatable {
        /// Jobs may start.
        case firm
        /// Jobs go on, none starts.
        case fading
        /// Whatever runs must stop: somebody else may have it by now.
        case over
    }

    let ttl: Duration
    private(set) var acknowledged: ContinuousClock.Instant?

    init(ttl: Duration) { self.ttl = ttl }

    /// A beat that was sent at this moment was acknowledged; answers may overtake each other.
    mutating func acknowledge(sentAt moment: ContinuousClock.Instant) {
        acknowledged = acknowledged.map { max($0, moment) } ?? moment
    }

    /// The database holds this worker to be dead.
    mutating func lose() { acknowledged = nil }

    func standing(at now: ContinuousClock.Instant) -> Standing {
        guard let acknowledged else { return .over }
        let age = now - acknowledged
        if age >= ttl { return .over }
        return age >= max(ttl - Self.margin, ttl / 2) ? .fading : .firm
    }

    func isBeatDue(at now: ContinuousClock.Instant) -> Bool {
        acknowledged.map { now - $0 >= ttl / 3 } ?? true
    }
}
