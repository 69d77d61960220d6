import Foundation
import HTTPTypes
import ServiceKit
import Synchronization

/// A token bucket for each caller, in this process.
final class RateLimiter: Sendable {
    /// Callers that are remembered; whoever is forgotten begins with a full bucket.
    static let capacity = 10_000

    private struct Bucket {
        var tokens: Double
        var at: ContinuousClock.Instant
    }

    private let rate: Double
    private let burst: Double
    private let buckets = Mutex<[String: Bucket]>([:])

    init(rate: Double, burst: Double) {
        self.rate = rate
        self.burst = burst
    }

    /// Takes a token; throws 429, with the time until there is one again, when there is none.
    func admit(_ caller: String, at now: ContinuousClock.Instant = .now) throws(Problem) {
        let missing: Double = buckets.withLock { buckets in
            if buckets.count >= Self.capacity, buckets[caller] == nil {
                buckets = buckets.filter { burst - $0.value.tokens > $0.value.at.duration(to: now) / .seconds(1) * rate }
                if buckets.count >= Self.capacity { buckets.removeAll() }
            }
            var bucket = buckets[caller] ?? Bucket(tokens: burst, at: now)
            bucket.tokens = min(burst, bucket.tokens + bucket.at.duration(to: now) / .seconds(1) * rate)
            bucket.at = now
            let missing = max(0, 1 - bucket.tokens)
            if missing == 0 { bucket.tokens -= 1 }
            buckets[caller] = bucket
            return missing
        }
        guard missing > 0 else { return }
        let wait = Int((missing / rate).rounded(.up))
        throw Problem.tooManyRequests(
            "More than \(rate.formatted()) requests a second (\(burst.formatted()) at once) by this caller.", retryAfter: max(1, wait))
    }
}
