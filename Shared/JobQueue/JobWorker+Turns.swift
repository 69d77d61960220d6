import Logging
import Postgres

/// Turns: what handlers have finished goes in, what they shall do next comes out, in one statement and one commit.
extension JobWorker {
    /// Acknowledgements are sent when a turn's worth has come together, or when the oldest has waited this long.
    nonisolated static let flushDelay = Duration.milliseconds(2)
    /// A lane that nothing rings looks by itself this often, in seconds.
    nonisolated static let poll = 30.0

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
            let hurries = !lane.gathers || lane.running == 0
            let flushes = lane.waiting.first.map {
                hurries || lane.waiting.count >= lane.turnSize || now - $0.endedAt >= Self.flushDelay
            }
            let claims = claiming > 0 && (hurries || claiming >= lane.turnSize || now - lane.lastTurn >= Self.flushDelay)
            guard flushes ?? claims else { return }
            let turn = Turn(
                worker: workerID, claiming: claiming, acknowledgements: lane.takeWaiting(),
                from: claiming > 0 ? lane.line.next(at: now) : (lane.line.low, 0, nil))
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
        if lane.turns < lane.mostTurns, let oldest = lane.waiting.first?.endedAt {
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
            lane.line.passed(answer.places)
            for job in answer.jobs { if let waited = job.waited { lane.metrics.began(afterWaiting: waited) } }
            start(answer.jobs, in: lane)
            let fenced = Set(answer.fenced)
            for run in turn.acknowledgements {
                forget(run)
                if fenced.isEmpty || !fenced.contains(run.key) { lane.metrics.succeeded(afterRunning: run.ran) }
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
    private func putBack(_ acknowledgements: [JobRun], of lane: Lane, after error: any Error) async {
        if (error as? PostgresError)?.isRetryable ?? false {
            let now = ContinuousClock.now
            lane.waiting.insert(contentsOf: acknowledgements.filter { now - $0.endedAt < Outcomes.patience }, at: 0)
            for run in acknowledgements where now - run.endedAt >= Outcomes.patience {
                missedAnswerAt = now
                logger.error("a job's outcome could not be recorded; its lease will run out", metadata: ["job": "\(run.job.id)"])
                forget(run)
            }
            return
        }
        for run in acknowledgements {
            await handIn(run.key, in: lane) {
                if try await self.complete(run.key, JobResult(json: run.ending?.result)) {
                    lane.metrics.succeeded(afterRunning: run.ran)
                } else {
                    lane.metrics.ended(afterRunning: run.ran)
                }
            }
            forget(run)
        }
    }
}

/// One turn: what it hands in, how many jobs it asks for, and from where in the line.
struct Turn: Sendable {
    let worker: Int64
    let claiming: Int
    let acknowledgements: [JobRun]
    let low: [Int64]
    let firstBand: Int
    let look: Int?

    struct Answer: Sendable {
        var jobs: [ClaimedJob] = []
        var fenced: [JobRun.Key] = []
        /// Of each band, the last place in line at which a job was claimed.
        var places: [Int64] = []
    }

    init(worker: Int64, claiming: Int, acknowledgements: [JobRun], from place: (low: [Int64], firstBand: Int, look: Int?)) {
        self.worker = worker
        self.claiming = claiming
        self.acknowledgements = acknowledgements
        (low, firstBand, look) = place
    }

    @PostgresActor
    func run(for handler: JobHandler, on connection: PostgresConnection) async throws -> Answer {
        let hasResults = acknowledgements.contains { $0.ending?.result != nil }
        let rows = try await connection.query(
            prepared: Statements.turn,
            [
                .int(worker), .string(handler.queue), .string(handler.kind), .int(claiming), .array(low),
                .array(acknowledgements.map { $0.job.id }),
                .array(acknowledgements.map { $0.job.token }),
                // A shorter array reads as NULLs.
                hasResults ? .array(acknowledgements.map { PostgresValue($0.ending?.result) }) : "{}",
                .int(firstBand), PostgresValue(handler.slot),
            ])
        guard let row = rows.first else { return Answer() }
        var answer = Answer()
        if try !row[0].isNull {
            answer.fenced = zip(try row[0].intArray, try row[1].intArray).map { JobRun.Key(id: $0, token: $1) }
        }
        let ids = try row[2].intArray
        guard !ids.isEmpty else { return answer }
        let (tokens, attempts, failures, rescues) = (
            try row[3].intArray, try row[4].intArray, try row[5].intArray, try row[6].intArray
        )
        let (arguments, waited) = (try row[7].lines, try row[8].intArray)
        guard [tokens.count, attempts.count, failures.count, rescues.count, arguments.count, waited.count].allSatisfy({ $0 == ids.count })
        else {
            throw PostgresError(sqlState: "22000", message: "the columns of a turn are of different lengths")
        }
        answer.places = try row[9].intArray
        answer.jobs = ids.indices.map {
            ClaimedJob(
                id: ids[$0], token: tokens[$0], attempt: Int(attempts[$0]), failures: Int(failures[$0]), rescues: Int(rescues[$0]),
                arguments: arguments[$0], waited: waited[$0] < 0 ? nil : Double(waited[$0]) / 1e6)
        }
        return answer
    }
}
