import Logging
import Postgres

/// Turns: what handlers have finished goes in, what they shall do next comes out, in one statement and one commit.
extension JobWorker {
    /// Acknowledgements are sent when so many have come together …
    nonisolated static let flushCount = 256
    /// … or when the oldest has waited this long.
    nonisolated static let flushDelay = Duration.milliseconds(2)
    /// A lane that nothing rings looks by itself this often, in seconds.
    nonisolated static let poll = 30.0
    /// How long a turn's acknowledgements are tried again while the database is away.
    nonisolated static let patience = Duration.seconds(120)

    /// Takes a lane's turns until the worker has stopped.
    func serve(_ lane: Lane) async {
        while !isStopped {
            takeTurns(lane)
            let pause = nextTurn(of: lane)
            // The sweep looks for idle lanes, so this is but the second net.
            if !(await lane.bell.wait(upTo: pause ?? Self.poll)), pause == nil { lane.ring() }
        }
    }

    /// Starts the turns that are worth taking now.
    private func takeTurns(_ lane: Lane) {
        let now = ContinuousClock.now
        let ended = lane.ended.take()
        lane.handlersEnded(ended.count)
        lane.waiting += ended
        guard let workerID, now >= lane.restsUntil else { return }
        if let again = lane.looksAgainAt, again <= now {
            lane.looksAgainAt = nil
            lane.ring()
        }
        let mayClaim = !isDraining && lease.standing(at: now) == .firm
        while lane.turns < lane.mostTurns {
            let claiming = mayClaim && lane.mayHaveMore ? lane.demand : 0
            // Where little runs at a time nothing is gained by waiting for company.
            let hurries = lane.mostTurns == 1 || lane.running == 0
            let flushes = lane.waiting.first.map {
                hurries || lane.waiting.count >= Self.flushCount || now - $0.since >= Self.flushDelay
            }
            let claims = claiming > 0 && (hurries || claiming >= Self.flushCount || now - lane.lastTurn >= Self.flushDelay)
            guard flushes ?? claims else { return }
            let turn = Turn(
                worker: workerID, claiming: claiming, acknowledgements: Array(lane.waiting.prefix(Lane.largestTurn)),
                from: claiming > 0 ? lane.line.next(at: now) : (lane.line.low, 0, nil))
            lane.waiting.removeFirst(turn.acknowledgements.count)
            if claiming > 0 { lane.mayHaveMore = false }
            lane.turnBegan(claiming: claiming)
            Task { await take(turn, in: lane) }
        }
    }

    /// In how many seconds to look again, if nothing rings before.
    private func nextTurn(of lane: Lane) -> Double? {
        let now = ContinuousClock.now
        if now < lane.restsUntil { return (lane.restsUntil - now) / .seconds(1) }
        var next = lane.looksAgainAt
        if lane.turns < lane.mostTurns, let oldest = lane.waiting.first?.since {
            next = min(next ?? oldest + Self.flushDelay, oldest + Self.flushDelay)
        } else if lane.turns < lane.mostTurns, lane.mayHaveMore, lane.demand > 0, lease.standing(at: now) == .firm, !isDraining {
            // Held back only because the last turn was a moment ago.
            next = min(next ?? lane.lastTurn + Self.flushDelay, lane.lastTurn + Self.flushDelay)
        }
        return next.map { max(0.0005, ($0 - now) / .seconds(1)) }
    }

    private func take(_ turn: Turn, in lane: Lane) async {
        let began = ContinuousClock.now
        defer { lane.bell.ring() }
        do {
            let answer = try await client.withConnection { connection in
                try await turn.run(for: lane.handler, on: connection)
            }
            if turn.claiming > 0 { lane.line.turnEnded(after: .now - began, look: turn.look) }
            lane.turnEnded(claiming: turn.claiming, brought: answer.jobs.count)
            // Full to the brim: there may be more where that came from.
            if turn.claiming > 0, answer.jobs.count == turn.claiming { lane.mayHaveMore = true }
            // As long as jobs keep coming, some of them may come without a ring.
            if !answer.jobs.isEmpty { lane.looksAgainAt = .now + Lane.silence }
            lane.ended.began(answer.jobs.count)
            for job in answer.jobs {
                if let waited = job.waited { lane.metrics.began(afterWaiting: waited) }
                lane.line.passed(job.place, band: job.band)
                start(job, in: lane)
            }
            let fenced = Set(answer.fenced)
            for item in turn.acknowledgements {
                forget(item.key)
                if fenced.isEmpty || !fenced.contains(item.key) { lane.metrics.succeeded(afterRunning: item.ran) }
            }
            for key in answer.fenced { noteFenced(key, in: lane) }
        } catch {
            lane.turnEnded(claiming: turn.claiming, brought: 0)
            // It may have been committed all the same: what it claimed a later beat looks for.
            if turn.claiming > 0 {
                lane.mayHaveMore = true
                missedAnswerAt = .now
            }
            lane.restsUntil = .now + .seconds(Double.random(in: 0.05...0.5))
            logger.warning("a turn failed", metadata: ["kind": "\(lane.handler.kind)", "error": "\(error)"])
            await putBack(turn.acknowledgements, of: lane, after: error)
        }
    }

    /// Acknowledgements of a turn that failed are tried again together, or one by one if it is one of them that the server refuses.
    private func putBack(_ acknowledgements: [Acknowledgement], of lane: Lane, after error: any Error) async {
        if (error as? PostgresError)?.isRetryable ?? false {
            let now = ContinuousClock.now
            lane.waiting.insert(contentsOf: acknowledgements.filter { now - $0.since < Self.patience }, at: 0)
            for item in acknowledgements where now - item.since >= Self.patience {
                missedAnswerAt = now
                logger.error("a job's outcome could not be recorded; its lease will run out", metadata: ["job": "\(item.key.id)"])
                forget(item.key)
            }
            return
        }
        for item in acknowledgements {
            await handIn(item.key, in: lane) {
                if try await self.complete(item.key, JobResult(json: item.result)) {
                    lane.metrics.succeeded(afterRunning: item.ran)
                } else {
                    lane.metrics.ended(afterRunning: item.ran)
                }
            }
            forget(item.key)
        }
    }
}

/// One turn: what it hands in, how many jobs it asks for, and from where in the line.
struct Turn: Sendable {
    let worker: Int64
    let claiming: Int
    let acknowledgements: [Acknowledgement]
    let low: [Int64]
    let firstBand: Int
    let look: Int?

    struct Answer: Sendable {
        var jobs: [ClaimedJob] = []
        var fenced: [JobRun.Key] = []
    }

    init(worker: Int64, claiming: Int, acknowledgements: [Acknowledgement], from place: (low: [Int64], firstBand: Int, look: Int?)) {
        self.worker = worker
        self.claiming = claiming
        self.acknowledgements = acknowledgements
        (low, firstBand, look) = place
    }

    @PostgresActor
    func run(for handler: JobHandler, on connection: PostgresConnection) async throws -> Answer {
        let hasResults = acknowledgements.contains { $0.result != nil }
        let rows = try await connection.query(
            Statements.turn,
            [
                .int(worker), .string(handler.queue), .string(handler.kind), .int(claiming), .array(low),
                .array(acknowledgements.map(\.key.id)),
                .array(acknowledgements.map(\.key.token)),
                // A shorter array reads as NULLs.
                hasResults ? .array(acknowledgements.map { PostgresValue($0.result) }) : "{}",
                .int(firstBand), PostgresValue(handler.slot),
            ])
        var answer = Answer()
        answer.jobs.reserveCapacity(claiming)
        for row in rows {
            let (id, token) = (try row[0].int64, try row[1].int64)
            if try row[2].bool {
                answer.fenced.append(JobRun.Key(id: id, token: token))
            } else {
                answer.jobs.append(
                    ClaimedJob(
                        id: id, token: token, attempt: try row[3].int, failures: try row[4].int, rescues: try row[5].int,
                        arguments: try row[8].string, band: try row[6].int, place: try row[7].int64,
                        waited: try row[9].optionalDouble))
            }
        }
        return answer
    }
}
