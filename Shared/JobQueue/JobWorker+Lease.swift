import Foundation
import Logging
import Postgres

/// The lease: registration, heartbeat, the sweep that anybody does, and giving up in time.
extension JobWorker {
    /// How often the sweep runs. Two of them fit into the two seconds after which a lost session is believed, three into the three
    /// seconds within which the jobs of a killed process run elsewhere.
    nonisolated static let sweepInterval = 0.95
    nonisolated static let pruneInterval = Duration.seconds(600)

    /// Beats and sweeps over the one connection whose session stands for this process, and comes back when it is lost.
    func keepLease() async {
        var pause = 0.05
        while !isStopped {
            do {
                try await control.withConnection { connection in
                    try await self.beat(connection)
                    pause = 0.05
                    try await self.keepLease(over: connection)
                }
            } catch {
                if isStopped { break }
                logger.warning("the lease's connection was lost", metadata: ["error": "\(error)"])
                await controlBell.wait(upTo: Double.random(in: pause / 2...pause))
                pause = min(pause * 2, 1)
            }
        }
    }

    private func keepLease(over connection: PostgresConnection) async throws {
        var prunedAt = ContinuousClock.now - Self.pruneInterval * Double.random(in: 0...1)
        while !isStopped {
            // The sweep is also the ping that notices a lost session before the others believe it.
            if lease.isBeatDue(at: .now) || held.all.contains(where: { $0.settings.isLong && $0.hasNews }) || controlIsAsked {
                try await beat(connection)
            }
            let due = try await sweep(connection)
            try await flushMetrics(over: connection)
            if ContinuousClock.now - prunedAt >= Self.pruneInterval {
                prunedAt = .now
                // Over the pool: it may take a while, and nothing must delay the next beat.
                Task { [client, logger] in
                    do {
                        try await client.query(Statements.prune)
                    } catch {
                        logger.warning("could not prune finished jobs", metadata: ["error": "\(error)"])
                    }
                }
            }
            controlIsAsked = await controlBell.wait(upTo: min(max(due ?? .infinity, 0.02), Self.sweepInterval))
        }
        try await flushMetrics(over: connection, atTheEnd: true)
        if let workerID { try await connection.query(Statements.stopWorker, [.int(workerID)]) }
    }

    private func beat(_ connection: PostgresConnection) async throws {
        guard let workerID else { return try await register(connection) }
        let now = ContinuousClock.now
        let held = held.all.filter { !$0.hasLostLease }
        let movement = held.map { $0.movement(at: now) }
        for (run, movement) in zip(held, movement) where movement == .stuck {
            run.loseLease()
            missedAnswerAt = now
        }
        let news = held.map { $0.settings.isLong ? $0.takeNews() : nil }
        do {
            let rows = try await connection.query(
                Statements.heartbeat,
                [
                    .int(workerID), .double(lease.ttl / .seconds(1)), .array(held.map(\.key.id)), .array(held.map(\.key.token)),
                    .array(movement.map { $0 == .moving }), .array(news.map { PostgresValue($0?.fraction) }),
                    .array(news.map { $0?.message }), .bool(false),
                ])
            guard let answer = rows.first, try answer["alive"].bool else {
                logger.warning("this worker was held to be dead; what it runs is dropped", metadata: ["worker": "\(workerID)"])
                lease.lose()
                self.workerID = nil
                for run in self.held.all { run.loseLease() }
                return try await register(connection)
            }
            lease.acknowledge(sentAt: now)
            if missedAnswerAt != nil || now - lookedForStrays >= max(strayInterval, strayLookTook * 100) { lookForStrays(workerID) }
            let lost = Set(try answer["lost"].intArray)
            for run in held where lost.contains(run.key.id) { run.loseLease() }
            let cancelled = Set(try answer["cancelled"].intArray)
            for run in self.held.all where cancelled.contains(run.key.id) { run.requestStop(.cancelled) }
        } catch {
            for (run, unsent) in zip(held, news) { if let unsent { run.putBack(unsent) } }
            throw error
        }
    }

    /// Gives back what is leased to this worker without its knowledge.
    ///
    /// That reads the whole line with its dead rows, however many a long transaction elsewhere keeps: so over the pool, where no beat waits
    /// for it, and for no more than a hundredth of the time.
    private func lookForStrays(_ workerID: Int64) {
        guard !isLookingForStrays else { return }
        isLookingForStrays = true
        Task {
            defer { isLookingForStrays = false }
            do {
                try await client.withConnection { connection in try await self.lookForStrays(workerID, connection) }
            } catch {
                logger.warning("could not look for strays", metadata: ["error": "\(error)"])
            }
        }
    }

    private func lookForStrays(_ workerID: Int64, _ connection: PostgresConnection) async throws {
        let began = ContinuousClock.now
        // Runs that gave up are left out: the database makes their jobs ready again if nobody has done so yet.
        let held = held.all.filter { !$0.hasLostLease }.map(\.job.id)
        try await connection.query(Statements.releaseStrays, [.int(workerID), .double(lease.ttl / .seconds(1)), .array(held)])
        // A job counts as astray when it has been leased for as long as a lease lasts, so one look may be too early.
        if began - (missedAnswerAt ?? began) > lease.ttl * 1.5 { missedAnswerAt = nil }
        lookedForStrays = began
        strayLookTook = .now - began
    }

    private func register(_ connection: PostgresConnection) async throws {
        let now = ContinuousClock.now
        let rows = try await connection.query(
            Statements.register,
            [
                .string(service), .string(ProcessInfo.processInfo.hostName), .int(Int(ProcessInfo.processInfo.processIdentifier)),
                .double(lease.ttl / .seconds(1)),
            ])
        workerID = try rows.first?["id"].int64
        lease.acknowledge(sentAt: now)
        ringLanes { _ in true }
    }

    /// Answers in how many seconds the next deferred job is due.
    private func sweep(_ connection: PostgresConnection) async throws -> Double? {
        let now = ContinuousClock.now
        var idle: [String] = []
        var marks: [Int64] = []
        for lane in lanes where lane.isIdle {
            if let from = lane.line.marksForAsking(at: now) {
                idle.append(lane.handler.queue)
                marks += from
            } else {
                lane.ring()
            }
        }
        guard let row = try await connection.query(Statements.sweep, [.array(idle), .array(marks)]).first else { return nil }
        let ready = try row["ready"].stringArray
        if !ready.isEmpty { ringLanes { ready.contains($0.handler.queue) } }
        let rescued = try row["rescued"].int
        if rescued > 0 { logger.warning("rescued jobs of lost workers", metadata: ["jobs": "\(rescued)"]) }
        return try row["due"].optionalDouble
    }

    /// Gives up in time although the database cannot be asked, which is when it matters.
    func watchLease() async {
        while !Task.isCancelled {
            if lease.standing(at: .now) == .over {
                if workerID != nil, !held.all.isEmpty {
                    logger.warning("the lease ran out unrenewed; what runs is dropped", metadata: ["jobs": "\(held.all.count)"])
                    for run in held.all { run.loseLease() }
                    // If the next beat comes before anybody's sweep, the database never takes them away: it has to be told.
                    missedAnswerAt = .now
                }
                // Whatever has not been answered for a whole lease would be waited for in vain, perhaps for ever.
                await control.hangUp(owingFor: lease.ttl / .seconds(1))
                await client.hangUp(owingFor: lease.ttl / .seconds(1))
            }
            try? await Task.sleep(for: .milliseconds(500))
        }
    }
}
