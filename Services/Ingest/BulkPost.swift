import Foundation
import NIOCore
import Postgres
import Preferences
import ServiceKit

/// One NDJSON body on its way into the store: lines in, a result for each.
///
/// A line that is refused never keeps another from being stored, unless the client asked for all or nothing. Lines are stored in chunks;
/// posting the whole again after a connection broke in between is safe, because what was stored is a replay.
struct BulkPost {
    /// Stores a chunk, in a transaction of its own or in one for the whole body.
    typealias Store = ([NewLabel]) async throws -> [PostResult]

    private let reader: LabelReader
    private let began = ContinuousClock.now
    private let chunkSize: Int
    private let store: Store?
    private var splitter = LineSplitter()
    private var number = 0
    private var chunk: [(line: Int, label: NewLabel)] = []
    private var refused: [BulkDocument.Line] = []
    private(set) var answer: BulkDocument

    /// - Parameter store: stores each chunk as it fills. Without it everything is decoded first, before a transaction begins that would have to
    ///   wait for the dimensions to be looked up, and stored by ``finish(_:)``.
    init(reader: LabelReader, chunkSize: Int, options: PostOptions, store: Store? = nil) {
        self.reader = reader
        self.chunkSize = chunkSize
        self.store = store
        answer = BulkDocument(dryRun: options.dryRun, atomic: options.atomic)
    }

    /// How many lines have a result.
    var settled: Int { answer.results.count }

    /// Takes a piece of the body.
    mutating func add(_ piece: ByteBuffer) async throws {
        for line in splitter.add(piece) { try await take(line) }
    }

    /// Takes the end of the body. What only decodes so far stores everything now.
    mutating func finish(_ store: Store? = nil) async throws -> BulkDocument {
        try await end()
        if let store = store ?? self.store { try await flush(store) }
        guard !answer.results.isEmpty else {
            throw Problem.invalid([.init(pointer: "", detail: "has no line; expected one JSON object a line")])
        }
        answer.settle()
        return answer
    }

    /// Decodes the last line.
    mutating func end() async throws {
        let last = splitter.finish()
        if last.readableBytes > 0 { try await take(last) }
    }

    private mutating func take(_ line: ByteBuffer) async throws {
        number += 1
        let bytes = line.readableBytesView
        if bytes.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0d }) { return }
        switch try await reader.decode(bytes, request: began) {
        case .label(let label): chunk.append((number, label))
        case .errors(let errors): refused.append(.init(line: number, status: 422, errors: errors))
        }
        if let store, chunk.count + refused.count >= chunkSize { try await flush(store) }
        // Timers of this process wait while a long body is decoded.
        if number % 256 == 0 { await Task.yield() }
    }

    private mutating func flush(_ store: Store) async throws {
        var results: [PostResult] = []
        for start in stride(from: 0, to: chunk.count, by: chunkSize) {
            results += try await store(chunk[start..<min(start + chunkSize, chunk.count)].map(\.label))
        }
        let posted = zip(chunk, results).map { entry, result in
            switch result {
            case .created(let id): BulkDocument.Line(line: entry.line, status: 201, id: answer.dryRun == true ? nil : id)
            case .replayed(let id, _): BulkDocument.Line(line: entry.line, status: 200, id: id)
            case .conflict(let id, let pointers):
                BulkDocument.Line(line: entry.line, status: 409, id: id, errors: conflictErrors(pointers, id: id))
            }
        }
        for line in (posted + refused).sorted(by: { $0.line < $1.line }) { answer.add(line) }
        chunk.removeAll(keepingCapacity: true)
        refused.removeAll(keepingCapacity: true)
    }
}
