import Foundation
import NIOCore
import Postgres
import Preferences
import ServiceKit

/// One NDJSON body on its way into the store: lines in, a result for each.
///
/// A line that is refused never keeps another from being stored, unless the client asked for all or nothing. Lines are stored in chunks, one
/// after the other, so that a key's first line wins; while the database takes one, the next is decoded. Posting the whole again after a
/// connection broke in between is safe, because what was stored is a replay.
struct BulkPost {
    /// Stores a chunk in a transaction of its own.
    typealias Store = @Sendable ([NewLabel]) async throws -> [PostResult]

    /// Lines that are stored together.
    private struct Chunk {
        /// Where a line's label is refused, why.
        var lines: [(number: Int, errors: [ProblemDocument.FieldError]?)] = []
        var labels: [NewLabel] = []
        var bytes = 0
    }

    private let reader: LabelReader
    private let began = ContinuousClock.now
    private let limit: ChunkLimit
    private let store: Store?
    private var splitter = LineSplitter()
    private var number = 0
    private var chunk = Chunk()
    private var storing: (chunk: Chunk, results: Task<[PostResult], any Error>)?
    private var answer: BulkDocument

    /// How much is stored together at most.
    struct ChunkLimit: Sendable {
        var lines = 1000
        /// Of the body.
        var bytes = 2 << 20
    }

    /// - Parameter store: stores each chunk as it fills. Without it everything is decoded first, before a transaction begins that would have to
    ///   wait for the dimensions to be looked up, and stored by ``finish(on:_:)``.
    init(reader: LabelReader, limit: ChunkLimit, options: PostOptions, store: Store? = nil) {
        self.reader = reader
        self.limit = limit
        self.store = store
        answer = BulkDocument(dryRun: options.dryRun, atomic: options.atomic)
    }

    /// Takes a piece of the body.
    mutating func add(_ piece: ByteBuffer) async throws {
        for line in splitter.add(piece) { try await take(line) }
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
        if bytes.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0d }) { return }
        switch try await reader.decode(bytes, request: began) {
        case .label(let label):
            chunk.lines.append((number, nil))
            chunk.labels.append(label)
        case .errors(let errors): chunk.lines.append((number, errors))
        }
        chunk.bytes += bytes.count
        if store != nil, chunk.lines.count >= limit.lines || chunk.bytes >= limit.bytes { try await flush() }
        // Timers of this process wait while a long body is decoded.
        if number % 256 == 0 { await Task.yield() }
    }

    /// Begins to store the chunk, once the one before is stored.
    private mutating func flush() async throws {
        try await settle()
        guard let store, !chunk.lines.isEmpty else { return }
        let labels = chunk.labels
        chunk.labels = []
        storing = (chunk, Task { try await store(labels) })
        chunk = Chunk()
    }

    private mutating func settle() async throws {
        guard let (chunk, task) = storing else { return }
        storing = nil
        note(
            chunk,
            try await withTaskCancellationHandler {
                try await task.value
            } onCancel: {
                task.cancel()
            })
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
