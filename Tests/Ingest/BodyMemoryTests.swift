import Access
import Foundation
import NetworkTesting
import Testing

@testable import Ingest

@Suite struct BodyMemoryTests {
    @Test func firstBytesAreFreeAndTheRestIsSharedByAll() throws {
        let memory = BodyMemory(limit: 1000)
        let (one, other) = (memory.share(), memory.share())
        #expect(one.tryTake(BodyMemory.free) && other.tryTake(BodyMemory.free - 10))
        #expect(one.tryTake(600))
        #expect(!other.tryTake(420))
        #expect(other.tryTake(410))
        #expect(throws: (any Error).self) { try one.take(1) }
        one.giveBack(100)
        #expect(one.tryTake(100) && !one.tryTake(1))
        one.giveBack()
        #expect(other.tryTake(600) && !other.tryTake(1))
        other.giveBack()
        other.giveBack()
        #expect(one.tryTake(BodyMemory.free + 1000) && !one.tryTake(1))
    }

    @Test func halfSentBodiesKeepOutLargeOnesAndNobodyElse() async throws {
        try await RunningIngest.with(["FORETASTE_INGEST_BODY_MEMORY_BYTES": "1048576"]) { ingest in
            let large = example("large", ("red diamond moving right", String(repeating: "x", count: 400_000)))
            // Each holds 480,000 bytes beyond what is free.
            var silent: [Int32] = []
            defer { for connection in silent { close(connection) } }
            var status = 0
            for attempt in 0..<600 where status != 503 {
                // On a busy machine their time may be over before both have been read.
                if attempt % 40 == 0 {
                    for connection in silent { close(connection) }
                    silent = []
                    for _ in 0..<2 { silent.append(try halfBody(to: ingest, of: 700_000, sending: 480_000 + BodyMemory.free)) }
                }
                status = try await ingest.post(large).status
                try await Task.sleep(for: .milliseconds(50))
            }
            #expect(status == 503)
            #expect(try await ingest.post(example("small")).status == 201)
            let lines = (0..<900).map { example("\($0)", ("red diamond moving right", String(repeating: "y", count: 1000))) }
            let bulk = try await ingest.postLines(lines)
            #expect(bulk.status == 200, "\(bulk.text.prefix(300))")
            for connection in silent { shutdown(connection, Int32(SHUT_RDWR)) }
            for _ in 0..<600 where status == 503 {
                status = try await ingest.post(large).status
                try await Task.sleep(for: .milliseconds(50))
            }
            // Too long a prompt, as it is said of one that was read.
            #expect(status == 422)
        }
    }
}

/// A connection whose client sends the beginning of a body and nothing more.
private func halfBody(to ingest: RunningIngest, of length: Int, sending count: Int) throws -> Int32 {
    let connection = try Loopback.connect(to: try #require(URL(string: ingest.url)?.port))
    let head =
        "POST /v1/preferences HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \(ingest.key.text)\r\nContent-Type: application/json\r\n"
        + "Content-Length: \(length)\r\n\r\n"
    try #require(Loopback.send(Array(head.utf8) + Array(repeating: UInt8(ascii: " "), count: count), on: connection))
    return connection
}
