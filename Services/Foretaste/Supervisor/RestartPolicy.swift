/// How soon a service that died is started again: at once, then after half a second, doubling to five.
///
/// Knows no clock: it is told how long the service had lived.
struct RestartPolicy: Sendable, Equatable {
    static let firstPause = 0.5
    static let longestPause = 5.0
    /// A service that lived so long, in seconds, has its next death counted as its first.
    static let steadyAfter = 10.0

    private var deaths = 0

    /// The pause before the next start, in seconds.
    mutating func pause(afterLiving seconds: Double) -> Double {
        if seconds >= Self.steadyAfter { deaths = 0 }
        deaths += 1
        guard deaths > 1 else { return 0 }
        return min(Self.firstPause * Double(1 << min(deaths - 2, 10)), Self.longestPause)
    }
}
