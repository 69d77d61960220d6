import Foundation

/// Writes a file that appears at once and whole, readable by its owner alone.
public enum ReadyFile {
    /// Writes `{"url":…,"pid":…}`.
    static func write(_ path: String, url: String) throws {
        try writeAtomically(Array("{\"url\":\(JSONText.quoted(url)),\"pid\":\(getpid())}\n".utf8), to: path)
    }

    /// Removes the file when this process wrote it, so that a stale one does not point at a port that is somebody else's by now.
    static func remove(_ path: String) {
        guard let data = FileManager.default.contents(atPath: path), String(decoding: data, as: UTF8.self).contains("\"pid\":\(getpid())}")
        else {
            return
        }
        unlink(path)
    }

    /// Puts `bytes` at `path`, mode 0600, through a temporary file in the same folder and a rename.
    public static func writeAtomically(_ bytes: [UInt8], to path: String) throws {
        let temporary = "\(path).\(getpid()).\(UInt32.random(in: 0...UInt32.max))"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw FileError(path: path, action: "write", code: errno) }
        var offset = 0
        while offset < bytes.count {
            let count = bytes.withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress! + offset, bytes.count - offset) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                let code = errno
                close(descriptor)
                unlink(temporary)
                throw FileError(path: path, action: "write", code: code)
            }
            offset += count
        }
        close(descriptor)
        guard rename(temporary, path) == 0 else {
            let code = errno
            unlink(temporary)
            throw FileError(path: path, action: "rename into place", code: code)
        }
    }
}

/// A file that could not be used, and what the system said.
public struct FileError: Error, CustomStringConvertible, Sendable {
    /// The file.
    public let path: String
    /// What was tried.
    public let action: String
    /// `errno`.
    public let code: Int32

    public var description: String { "cannot \(action) \(path): \(String(cString: strerror(code)))" }
}
