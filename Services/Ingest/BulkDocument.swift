import Foundation
import ServiceKit

/// The answer to a bulk post.
struct BulkDocument {
    struct Counts {
        var created = 0
        var replayed = 0
        var rejected = 0
    }

    struct Line {
        let line: Int
        var status: Int
        var id: String?
        var errors: [ProblemDocument.FieldError]?
    }

    /// True where nothing was stored because the client only wanted to know.
    var dryRun: Bool?
    private let atomic: Bool
    var counts = Counts()
    var results: [Line] = []

    init(dryRun: Bool = false, atomic: Bool = false) {
        self.dryRun = dryRun ? true : nil
        self.atomic = atomic
    }

    mutating func add(_ line: Line) {
        switch line.status {
        case 201: counts.created += 1
        case 200: counts.replayed += 1
        default: counts.rejected += 1
        }
        results.append(line)
    }

    /// Whether nothing may be stored because a line was refused.
    var isRefusedWhole: Bool { atomic && counts.rejected > 0 }

    /// Where one line was refused and the client wanted all or nothing, the others failed with it: 424.
    mutating func settle() {
        guard isRefusedWhole else { return }
        for index in results.indices where results[index].status == 201 {
            results[index].status = 424
            results[index].id = nil
        }
        counts.rejected += counts.created
        counts.created = 0
    }

    /// 200 when every line was accepted, 207 when some were. 422 when none was; 409, where all or nothing was asked for, when only keys that
    /// are taken stood in the way.
    var status: Int {
        if isRefusedWhole { return results.contains { $0.status == 422 } ? 422 : 409 }
        if counts.created + counts.replayed == 0 { return 422 }
        return counts.rejected == 0 ? 200 : 207
    }

    /// As JSON, keys in alphabetical order; written by hand, for there may be a hundred thousand lines.
    func json() throws -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(80 * results.count + 100)
        func write(_ text: String) { bytes.append(contentsOf: text.utf8) }
        func write(_ text: StaticString) {
            bytes.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
        }
        write("{\"counts\":{\"created\":\(counts.created),\"rejected\":\(counts.rejected),\"replayed\":\(counts.replayed)}," as String)
        if dryRun == true { write("\"dry_run\":true,") }
        write("\"results\":[")
        for (index, line) in results.enumerated() {
            if index > 0 { write(",") }
            write("{")
            if let errors = line.errors {
                write("\"errors\":")
                bytes.append(contentsOf: try documentBytes(errors))
                write(",")
            }
            // An id is letters, digits and an underscore: nothing in it needs to be escaped.
            if let id = line.id {
                write("\"id\":\"")
                write(id)
                write("\",")
            }
            write("\"line\":")
            write(String(line.line))
            write(",\"status\":")
            write(String(line.status))
            write("}")
        }
        write("]}")
        return bytes
    }
}
