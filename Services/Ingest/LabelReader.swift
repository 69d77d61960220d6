import Foundation
import Preferences
import ServiceKit
import Synchronization

/// Decodes labels against the dimensions that are known. They are kept; a label of another one has them looked up again before it is refused,
/// so that a dimension counts from the moment it is defined.
final class LabelReader: Sendable {
    /// How long a dimension that was taken away may still be accepted.
    private static let lifetime: Duration = .seconds(30)

    private struct Known: Sendable {
        var names: Set<String> = []
        var at: ContinuousClock.Instant?
    }

    private let registry: DimensionRegistry
    private let known = Mutex(Known())
    private let decoder = PairDecoder()

    init(registry: DimensionRegistry) {
        self.registry = registry
    }

    /// - Parameter request: when the request began; a body full of unknown dimensions asks the database once, not line by line.
    func decode(_ json: some Collection<UInt8>, request: ContinuousClock.Instant = .now) async throws -> PairDecoder.Result {
        let bytes = Array(json)
        var current = known.withLock { $0 }
        if current.at.map({ request - $0 > Self.lifetime }) ?? true { current = try await reload() }
        let result = decoder.decode(bytes, dimensions: current.names)
        guard case .errors(let errors) = result, errors.contains(where: { $0.pointer == "/dimension" }), let at = current.at,
            at < request
        else { return result }
        return decoder.decode(bytes, dimensions: try await reload().names)
    }

    /// Looks the dimensions up.
    @discardableResult
    private func reload() async throws -> Known {
        let fresh = Known(names: Set(try await registry.list().map(\.name)), at: .now)
        known.withLock { $0 = fresh }
        return fresh
    }

    /// To be told when a dimension was defined here.
    func forget() { known.withLock { $0.at = nil } }
}
