import Access
import Foundation
import Logging
import Postgres
import ServiceKit

/// The API key of a run of `foretaste up`: minted at its start, valid for some minutes and renewed while it runs, revoked at its end. A run
/// that was killed leaves a key that ends by itself.
actor RunKey {
    /// How far ahead the key's end lies.
    static let validity: TimeInterval = 600
    /// How often its end is moved.
    static let renewal: Duration = .seconds(120)

    /// The key, for the ready file.
    nonisolated let key: APIKey
    private let client: PostgresClient
    private let logger: Logger
    private var task: Task<Void, Never>?

    /// Mints a key with every scope.
    init(databaseURL: String, logger: Logger) async throws {
        let client = PostgresClient(
            configuration: PostgresConfiguration(url: databaseURL), maximumConnections: 1, applicationName: "foretaste up", logger: logger)
        do {
            key = try await KeyStore(client: client).create(
                name: "foretaste up, process \(ProcessInfo.processInfo.processIdentifier) on \(ProcessInfo.processInfo.hostName)".prefix(
                    200
                )
                .description, scopes: Set(Scope.allCases), expiresAt: .now + Self.validity, run: true)
        } catch {
            await client.close()
            throw error
        }
        self.client = client
        self.logger = logger
        task = Task { await self.renew() }
    }

    private func renew() async {
        while !Task.isCancelled {
            try? await Task.sleep(for: Self.renewal)
            if Task.isCancelled { return }
            do {
                try await KeyStore(client: client).renew(key.id, until: .now + Self.validity)
            } catch {
                logger.warning("the run's API key could not be renewed", metadata: ["error": "\(error)"])
            }
        }
    }

    /// Ends the key. Within a few seconds, whether the database answers or not: the key ends by itself as well.
    func end() async {
        task?.cancel()
        task = nil
        let (client, id) = (client, key.id)
        let revoking = Task { try await KeyStore(client: client).revoke(id, reason: "the run ended") }
        let patience = Task {
            try await Task.sleep(for: .seconds(3))
            revoking.cancel()
        }
        do {
            _ = try await revoking.value
        } catch {
            logger.info("the run's API key was left to expire", metadata: ["error": "\(error)"])
        }
        patience.cancel()
        await client.close()
    }
}
