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

    /// Takes a token, and answers what the draft "RateLimit header fields for HTTP" has clients told: `RateLimit-Policy`, so many requests
    /// (`q`) within so many seconds (`w`, in which an empty bucket fills), and `RateLimit`, how many are left (`r`) until it is full again (`t`
    /// seconds). Throws 429 with the same fields, `t` and `Retry-After` being the time until there is a token, when there is none.
    func admit(_ caller: String, at now: ContinuousClock.Instant = .now) throws(Problem) -> HTTPFields {
        let (tokens, isAdmitted) = take(caller, at: now)
        let wait = isAdmitted ? (burst - tokens) / rate : max(1, (1 - tokens) / rate)
        let fields: HTTPFields = [
            .rateLimitPolicy: "\"default\";q=\(Int(burst));w=\(Int((burst / rate).rounded(.up)))",
            .rateLimit: "\"default\";r=\(Int(isAdmitted ? tokens : 0));t=\(Int(wait.rounded(.up)))",
        ]
        guard !isAdmitted else { return fields }
        var problem = Problem.tooManyRequests(
            "More than \(rate.formatted()) requests a second (\(burst.formatted()) at once) by this caller.",
            retryAfter: Int(wait.rounded(.up)))
        problem.headers.append(contentsOf: fields)
        throw problem
    }

    private func take(_ caller: String, at now: ContinuousClock.Instant) -> (tokens: Double, isAdmitted: Bool) {
        buckets.withLock { buckets in
            if buckets.count >= Self.capacity, buckets[caller] == nil {
                buckets = buckets.filter { burst - $0.value.tokens > $0.value.at.duration(to: now) / .seconds(1) * rate }
                if buckets.count >= Self.capacity { buckets.removeAll() }
            }
            var bucket = buckets[caller] ?? Bucket(tokens: burst, at: now)
            bucket.tokens = min(burst, bucket.tokens + bucket.at.duration(to: now) / .seconds(1) * rate)
            bucket.at = now
            let isAdmitted = bucket.tokens >= 1
            if isAdmitted { bucket.tokens -= 1 }
            buckets[caller] = bucket
            return (bucket.tokens, isAdmitted)
        }
    }
}

extension HTTPField.Name {
    static let rateLimit = Self("RateLimit")!
    static let rateLimitPolicy = Self("RateLimit-Policy")!
}
