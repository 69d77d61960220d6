public import ServiceKit

/// What the environment says about who may ask, and how often.
public struct AccessConfiguration: Sendable {
    /// `FORETASTE_AUTHENTICATION`: whether requests need an API key; `on` when unset.
    public var authenticates = true
    /// `FORETASTE_RATE_LIMIT`: requests a second for each key, or for each address without one; unlimited when unset.
    public var requestsPerSecond: Double?
    /// `FORETASTE_RATE_BURST`: how many requests may come at once; twice the rate, at least 10, when unset.
    public var burst = 10.0

    /// The variables, for `--help`.
    public static let variables: [(name: String, meaning: String, fallback: String)] = [
        ("FORETASTE_AUTHENTICATION", "on, or off: then whoever reaches the port may do everything", "on"),
        ("FORETASTE_RATE_LIMIT", "requests a second for each API key or address", "unlimited"),
        ("FORETASTE_RATE_BURST", "requests that may come at once within the limit", "twice the limit, at least 10"),
    ]

    /// On, and unlimited.
    public init() {}

    /// As the environment says.
    public init(_ environment: Environment) throws {
        authenticates = try environment.choice("FORETASTE_AUTHENTICATION", of: ["on", "off"]) != "off"
        requestsPerSecond = try environment.number("FORETASTE_RATE_LIMIT", in: 0.001...1e6)
        burst = try environment.number("FORETASTE_RATE_BURST", in: 1...1e6) ?? max(10, 2 * (requestsPerSecond ?? 0))
    }
}
