import CFiles
import Foundation

/// A file that appears under its name whole or not at all. Until then it has no name, where the file system can do that, so that a process that
/// is killed leaves nothing behind. One thread at a time uses it.
public final class NewFile: @unchecked Sendable {  // its owner's steps follow one another
    /// Open for reading and writing; closed with this object.
    public let descriptor: Int32
    /// How many bytes were appended.
    public private(set) var count = 0
    private let folder: Int32
    private let name: String
    /// Its name until it has its own.
    private var temporary: String?

    /// - Parameters:
    ///   - folder: an open folder, which is closed with this object, and at once when this fails.
    ///   - name: the name that it will get there.
    public convenience init(folder: Int32, name: String) throws(ArtifactError) {
        // Without /proc a file cannot be named later.
        try self.init(folder: folder, name: name, mayBeUnnamed: access("/proc/self/fd", X_OK) == 0)
    }

    init(folder: Int32, name: String, mayBeUnnamed: Bool) throws(ArtifactError) {
        var descriptor = mayBeUnnamed ? foretaste_open_unnamed(folder, 0o644) : -1
        var temporary: String?
        if descriptor < 0 {
            let other = Self.temporaryName(name)
            descriptor = openat(folder, other, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o644)
            temporary = other
        }
        guard descriptor >= 0 else {
            let reason = systemReason()
            close(folder)
            throw .storage(path: name, reason: reason)
        }
        (self.descriptor, self.folder, self.name, self.temporary) = (descriptor, folder, name, temporary)
    }

    deinit {
        if let temporary { unlinkat(folder, temporary, 0) }
        close(descriptor)
        close(folder)
    }

    private static func temporaryName(_ name: String) -> String {
        // A name has at most 255 bytes; cut between characters.
        var beginning = name.prefix(80)
        while beginning.utf8.count > 160 { beginning.removeLast() }
        return ".\(beginning).\(getpid()).\(UInt64.random(in: 0...UInt64.max))"
    }

    /// Writes at its end.
    public func append(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) {
        var rest = bytes
        while !rest.isEmpty {
            let written = write(descriptor, rest.baseAddress, rest.count)
            if written < 0 && errno == EINTR { continue }
            guard written > 0 else { throw .storage(path: name, reason: systemReason()) }
            rest = UnsafeRawBufferPointer(rebasing: rest[written...])
        }
        count += bytes.count
    }

    /// Writes at its end.
    public func append(_ bytes: [UInt8]) throws(ArtifactError) {
        let failure = bytes.withUnsafeBytes { buffer -> ArtifactError? in
            do throws(ArtifactError) { try append(buffer) } catch { return error }
            return nil
        }
        if let failure { throw failure }
    }

    /// Gives it its name, in place of what has it; the bytes and the name are on the disk when this returns.
    /// - Returns: whether there was one of that name.
    @discardableResult
    public func commit() throws(ArtifactError) -> Bool {
        guard fsync(descriptor) == 0 else { throw .storage(path: name, reason: systemReason()) }
        if temporary == nil, foretaste_name_file(descriptor, folder, name) == 0 {
            fsync(folder)
            return false
        }
        let existed = faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0
        if temporary == nil {
            // Only a rename replaces.
            let other = Self.temporaryName(name)
            guard foretaste_name_file(descriptor, folder, other) == 0 else { throw .storage(path: name, reason: systemReason()) }
            temporary = other
        }
        guard let from = temporary, renameat(folder, from, folder, name) == 0 else { throw .storage(path: name, reason: systemReason()) }
        temporary = nil
        fsync(folder)
        return existed
    }
}
