import Foundation
import NIOCore
import Postgres
import Preferences
import ServiceKit

/// One NDJSON body on its way into the store: lines in, a result for each.
///
/// A line that is refused never keeps another from being stored, unless the client asked for all or nothing. Lines are stored in chunks; while
/// the database takes some, the next is decoded. Posting the whole again after a connection broke in between is safe, because what was stored
/// is a replay.
struct BulkPost {
    /// Stores a chunk in a transaction of its own.
    typealias Store = @Sendable ([NewLabel]) async throws -> [PostResult]

    /// What makes a pair the same pair.
    private struct Key: Hashable {
        let source, externalID: String
    }

    /// Lines that are stored together.
    private struct Chunk {
        /// Where a line's label is refused, why.
        var lines: [(number: Int, errors: [ProblemDocument.FieldError]?)] = []
        var labels: [NewLabel] = []
        var bytes = 0
        private var keys: Set<Key> = []
        private var hasOnlyPairs = true

        mutating func add(_ label: NewLabel, number: Int) {
            lines.append((number, nil))
            labels.append(label)
            if case .pair(let pair) = label {
                keys.insert(Key(source: pair.source, externalID: pair.externalID))
            } else {
                hasOnlyPairs = false
            }
        }

        /// Whether the two may be stored in any order: a key's first line wins, so none may stand in both. (A ranking's pairs have keys too.)
        func isApart(from other: Chunk) -> Bool { hasOnlyPairs && other.hasOnlyPairs && keys.isDisjoint(with: other.keys) }
    }

    /// How many chunks are stored at a time.
    private static let atOnce = 2

    private let reader: LabelReader
    private let began = ContinuousClock.now
    private let limit: ChunkLimit
    private let share: BodyMemory.Share
    private let store: Store?
    private var splitter = LineSplitter()
    private var number = 0
    private var chunk = Chunk()
    /// Oldest first.
    private var storing: [(chunk: Chunk, results: Task<[PostResult], any Error>)] = []
    private var answer: BulkDocument

    /// How much is stored together at most.
    struct ChunkLimit: Sendable {
        var lines = 1000
        /// Of the body.
        var bytes = 2 << 20
    }

    /// - Parameters:
    ///   - store: stores each chunk as it fills. Without it everything is decoded first, before a transaction begins that would have to wait
    ///     for the dimensions to be looked up, and stored by ``finish(_:)``.
    ///   - share: where pieces are accounted for, if they are stored on the way; given back as they are.
    init(reader: LabelReader, limit: ChunkLimit, share: BodyMemory.Share, options: PostOptions, store: Store? = nil) {
        self.reader = reader
        self.limit = limit
        self.share = share
        self.store = store
        answer = BulkDocument(dryRun: options.dryRun, atomic: options.atomic)
    }

    /// Takes a piece of the body.
    mutating func add(_ piece: ByteBuffer) async throws {
        // Without a store the whole body is held, and was accounted for as it came.
        var rest = piece
        while let part = rest.readSlice(length: store == nil ? rest.readableBytes : min(rest.readableBytes, BodyMemory.free / 2)),
            part.readableBytes > 0
        {
            if store != nil, !share.tryTake(part.readableBytes) {
                // What is decoded makes room.
                try await flush()
                try await settle()
                try share.take(part.readableBytes)
            }
            for line in splitter.add(part) { try await take(line) }
        }
    }

    /// Takes the end of the body.
    mutating func finish() async throws -> BulkDocument {
        try await end()
        try await flush()
        try await settle()
        return try settled()
    }

    /// Decodes the last line.
    mutating func end() async throws {
        let last = splitter.finish()
        if last.readableBytes > 0 { try await take(last) }
    }

    /// Stores everything that was decoded, as part of a transaction.
    mutating func finish(_ store: ([NewLabel]) async throws -> [PostResult]) async throws -> BulkDocument {
        var results: [PostResult] = []
        for start in stride(from: 0, to: chunk.labels.count, by: limit.lines) {
            results += try await store(Array(chunk.labels[start..<min(start + limit.lines, chunk.labels.count)]))
        }
        note(chunk, results)
        return try settled()
    }

    /// Ends what is under way after something went wrong, and answers how many lines have been dealt with.
    mutating func abandon() async -> Int {
        for (_, results) in storing { _ = await results.result }
        try? await settle()
        return answer.results.count
    }

    private mutating func settled() throws -> BulkDocument {
        guard !answer.results.isEmpty else {
            throw Problem.invalid([.init(pointer: "", detail: "has no line; expected one JSON object a line")])
        }
        answer.settle()
        return answer
    }

    private mutating func take(_ line: ByteBuffer) async throws {
        number += 1
        let bytes = line.readableBytesView
        chunk.bytes += bytes.count + 1
        if bytes.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0d }) { return }
        switch try await reader.decode(bytes, request: began) {
        case .label(let label): chunk.add(label, number: number)
        case .errors(let errors): chunk.lines.append((number, errors))
        }
        if store != nil, chunk.lines.count >= limit.lines || chunk.bytes >= limit.bytes { try await flush() }
        // Timers of this process wait while a long body is decoded.
        if number % 256 == 0 { await Task.yield() }
    }

    /// Begins to store the chunk, once there is a place for it and nothing that it depends on is under way.
    private mutating func flush() async throws {
        guard let store else { return }
        guard !chunk.lines.isEmpty else {
            // Empty lines leave nothing behind.
            share.giveBack(chunk.bytes)
            chunk.bytes = 0
            return
        }
        let current = chunk
        try await settle(leaving: storing.allSatisfy { $0.chunk.isApart(from: current) } ? Self.atOnce - 1 : 0)
        let labels = current.labels
        chunk.labels = []
        storing.append((chunk, Task { try await store(labels) }))
        chunk = Chunk()
    }

    /// Waits for chunks that are being stored, oldest first, until so many are left, and notes their results.
    private mutating func settle(leaving left: Int = 0) async throws {
        while storing.count > left {
            let (chunk, results) = storing.removeFirst()
            defer { share.giveBack(chunk.bytes) }
            let found = try await withTaskCancellationHandler {
                try await results.value
            } onCancel: {
                results.cancel()
            }
            note(chunk, found)
        }
    }

    private mutating func note(_ chunk: Chunk, _ results: [PostResult]) {
        var results = results.makeIterator()
        for (number, errors) in chunk.lines {
            if let errors {
                answer.add(.init(line: number, status: 422, errors: errors))
                continue
            }
            switch results.next() {
            case .created(let id): answer.add(.init(line: number, status: 201, id: answer.dryRun == true ? nil : id))
            case .replayed(let id, _): answer.add(.init(line: number, status: 200, id: id))
            case .conflict(let id, let pointers):
                answer.add(.init(line: number, status: 409, id: id, errors: conflictErrors(pointers, id: id)))
            case nil: preconditionFailure("the store answered fewer labels than it was given")
            }
        }
    }
}
