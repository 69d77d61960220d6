import CLibcrypto
public import Foundation

/// SHA-256 by OpenSSL's libcrypto.
public struct SHA256: ~Copyable {
    private let context: OpaquePointer

    /// An empty digest.
    public init() {
        // Fails only without memory.
        context = EVP_MD_CTX_new()!
        EVP_DigestInit_ex(context, EVP_sha256(), nil)
    }

    deinit { EVP_MD_CTX_free(context) }

    /// Adds bytes.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        EVP_DigestUpdate(context, bytes.baseAddress, bytes.count)
    }

    /// The digest of everything added, 32 bytes. Nothing may be added after it.
    public mutating func finish() -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        EVP_DigestFinal_ex(context, &digest, nil)
        return digest
    }

    /// The digest of some bytes, as 64 lower-case hexadecimal digits.
    public static func hexDigest(of bytes: some ContiguousBytes) -> String {
        var hash = SHA256()
        bytes.withUnsafeBytes { hash.update($0) }
        return hex(hash.finish())
    }

    /// The digest and size of a file's content. Blocks; not for the cooperative pool when the file is large.
    public static func digest(ofFile path: String) throws -> (hex: String, bytes: Int) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw ArtifactError.storage(path: path, reason: systemReason()) }
        defer { close(descriptor) }
        var hash = SHA256()
        let bytes = try hash.update(descriptor: descriptor, path: path)
        return (hex(hash.finish()), bytes)
    }

    /// The digest of a file's content, as 64 lower-case hexadecimal digits.
    public static func hexDigest(ofFile path: String) throws -> String { try digest(ofFile: path).hex }

    /// Adds everything from the descriptor's position to its end; answers how much that was.
    mutating func update(descriptor: Int32, path: String) throws -> Int {
        try withUnsafeTemporaryAllocation(byteCount: 1 << 18, alignment: 64) { buffer in
            var total = 0
            while true {
                let count = read(descriptor, buffer.baseAddress, buffer.count)
                if count < 0 && errno == EINTR { continue }
                guard count >= 0 else { throw ArtifactError.storage(path: path, reason: systemReason()) }
                if count == 0 { return total }
                update(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
                total += count
            }
        }
    }

    /// Bytes as lower-case hexadecimal digits.
    public static func hex(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    /// Whether a text is a SHA-256 as it is written here.
    public static func isHexDigest(_ text: String) -> Bool {
        text.utf8.count == 64
            && text.utf8.allSatisfy {
                (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains($0)
            }
    }
}

/// What the system says about `errno`.
func systemReason(_ code: Int32 = errno) -> String { String(cString: strerror(code)) }
