import Foundation
import Postgres

/// Every connection of a worker falls silent for good, in a way that no kernel notices; new ones would work.
public struct SilenceTest: Sendable {
    let server: ChaosServer

    /// On a server of the harness's.
    public init(server: ChaosServer) { self.server = server }

    /// Answers after how many seconds the worker had done a job again, or nil when it had not within a minute.
    public func run() async throws -> Double? {
        try await server.withStage(behindProxy: true) { stage in
            try await stage.fleet.ensure(1)
            try await stage.client.query("select queue.enqueue_many('chaos_short', array_fill('{\"p\":0.3}'::jsonb, array[40]))")
            for _ in 0..<400 where try await stage.client.query("select count(*) from chaos.started")[0][0].int < 6 {
                try await Task.sleep(for: .milliseconds(20))
            }
            let began = ContinuousClock.now
            func done() async throws -> Int { try await stage.client.query("select count(*) from queue.done")[0][0].int }
            let before = try await done()
            if let proxy = stage.proxy { proxy.silence(proxy.backends) }
            for _ in 0..<600 {
                try await Task.sleep(for: .milliseconds(100))
                if try await done() > before { return (ContinuousClock.now - began) / .seconds(1) }
            }
            return nil
        }
    }
}
