import CLibcrypto
import Foundation

/// An API key in the clear: `ft_`, eight characters that are its id, 43 random ones (256 bits), and a checksum of six, by which secret scanners
/// and we tell a key from a text that looks like one. `ft_[0-9A-Za-z]{57}`.
public struct APIKey: Sendable, Equatable {
    /// What every key begins with.
    public static let prefix = "ft_"
    static let idLength = 8
    static let secretLength = 43
    static let checksumLength = 6

    /// The whole key. Shown once, never stored or logged.
    public let text: String

    /// The part that names it.
    public var id: String { String(text.dropFirst(Self.prefix.count).prefix(Self.idLength)) }

    /// What is stored of it.
    public var hash: [UInt8] { SHA256.digest(text.utf8) }

    /// A new one, from the system's random numbers.
    public static func generate() -> APIKey {
        var system = SystemRandomNumberGenerator()
        let body = String(
            (0..<idLength + secretLength).map { _ in Character(Unicode.Scalar(alphabet[Int.random(in: 0..<62, using: &system)])) })
        return APIKey(unchecked: prefix + body + checksum(prefix + body))
    }

    /// A key that a client sent. Nil when it is not one as a whole: of another form, or with a checksum that does not fit.
    public init?(_ text: String) {
        let length = Self.prefix.count + Self.idLength + Self.secretLength + Self.checksumLength
        guard text.utf8.count == length, text.hasPrefix(Self.prefix), text.utf8.dropFirst(3).allSatisfy({ Self.alphabet.contains($0) }),
            Self.checksum(String(text.dropLast(Self.checksumLength))) == text.suffix(Self.checksumLength)
        else { return nil }
        self.text = text
    }

    private init(unchecked text: String) { self.text = text }

    private static let alphabet = Array("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".utf8)

    /// CRC-32 in base 62.
    static func checksum(_ text: String) -> String {
        var crc = UInt32.max
        for byte in text.utf8 {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0xedb8_8320 : crc >> 1 }
        }
        var (value, digits) = (~crc, "")
        for _ in 0..<checksumLength {
            digits.append(Character(Unicode.Scalar(alphabet[Int(value % 62)])))
            value /= 62
        }
        return String(digits.reversed())
    }
}

/// SHA-256 by libcrypto.
public enum SHA256 {
    /// The digest of the bytes, which may come in several parts.
    public static func digest(_ parts: any Sequence<UInt8>...) -> [UInt8] {
        let context = EVP_MD_CTX_new()
        defer { EVP_MD_CTX_free(context) }
        EVP_DigestInit_ex(context, EVP_sha256(), nil)
        for part in parts {
            if part.withContiguousStorageIfAvailable({ _ = EVP_DigestUpdate(context, $0.baseAddress, $0.count) }) == nil {
                let bytes = [UInt8](part)
                EVP_DigestUpdate(context, bytes, bytes.count)
            }
        }
        var digest = [UInt8](repeating: 0, count: 32)
        EVP_DigestFinal_ex(context, &digest, nil)
        return digest
    }
}

/// Compares without telling by its duration where two byte strings differ.
func equalInConstantTime(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    guard left.count == right.count else { return false }
    var difference: UInt8 = 0
    for index in left.indices { difference |= left[index] ^ right[index] }
    return difference == 0
}
