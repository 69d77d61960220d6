import Foundation
import Postgres

/// Every connection of a worker falls silent for good, in a way that no kernel notices; new ones would work.
public struct SilenceTest: Sendable {
    let server: ChaosServer

    /// On a server of the harness's.
    public init(server: ChaosServer) { self.server = server }

    /// Answers after how many seconds the worker had done a job again, or nil when it had not within a minute.
    public func run() async throws -> Double? {
        let database = try await server.makeDatabase()
        let client = await server.client(database)
        let proxy = try FaultProxy(socketPath: await server.socketPath)
        let fleet = Fleet(url: proxy.url(database: database))
        func end() async {
            await fleet.killAll()
            proxy.close()
            await client.close()
            await server.drop(database)
        }
        do {
            try await fleet.ensure(1)
            try await client.query("select queue.enqueue_many('chaos_short', array_fill('{\"p\":0.3}'::jsonb, array[40]))")
            for _ in 0..<400 where try await client.query("select count(*) from chaos.started")[0][0].int < 6 {
                try await Task.sleep(for: .milliseconds(20))
            }
            let began = ContinuousClock.now
            let before = try await client.query("select count(*) from queue.done")[0][0].int
            proxy.silence(proxy.backends)
            for _ in 0..<600 {
                try await Task.sleep(for: .milliseconds(100))
                guard try await client.query("select count(*) from queue.done")[0][0].int > before else { continue }
                await end()
                return (ContinuousClock.now - began) / .seconds(1)
            }
            await end()
            return nil
        } catch {
            await end()
            throw error
        }
    }
}
