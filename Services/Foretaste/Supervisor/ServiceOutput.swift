import Foundation
import Glibc
import Synchronization

/// Where services' logs go.
enum ServiceOutput: Sendable {
    /// Our standard error: each line behind the service's name on a terminal, and as it is elsewhere (the lines are JSON then).
    case standardError
    /// `NAME.log` in a folder.
    case folder(String)

    /// A descriptor for a child's output, to be closed once the child has it.
    func descriptor(service: String) throws -> CInt {
        switch self {
        case .folder(let folder):
            try FileManager.default.createDirectory(
                atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
            let path = "\(folder)/\(service).log"
            let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
            guard descriptor >= 0 else { throw CommandFailure(description: "cannot write \(path): \(String(cString: strerror(errno)))") }
            return descriptor
        case .standardError where isatty(STDERR_FILENO) == 0:
            return dup(STDERR_FILENO)
        case .standardError:
            var ends: [CInt] = [-1, -1]
            guard pipe(&ends) == 0 else { throw CommandFailure(description: "pipe: \(String(cString: strerror(errno)))") }
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            let reader = ends[0]
            Thread.detachNewThread { Self.pass(reader, service: service) }
            return ends[1]
        }
    }

    /// Copies whole lines, so that those of two services do not mix.
    private static func pass(_ reader: CInt, service: String) {
        let prefix = Array(service.padding(toLength: 16, withPad: " ", startingAt: 0).utf8) + Array("| ".utf8)
        var line = prefix
        var buffer = [UInt8](repeating: 0, count: 16384)
        while true {
            let count = read(reader, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            for byte in buffer[..<count] {
                line.append(byte)
                if byte == UInt8(ascii: "\n") || line.count > 1 << 16 {
                    _ = write(STDERR_FILENO, line, line.count)
                    line = prefix
                }
            }
        }
        close(reader)
    }
}
