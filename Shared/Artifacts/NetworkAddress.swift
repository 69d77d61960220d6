import Foundation

/// An IP address and what kind of place it is.
struct NetworkAddress: Sendable, Equatable {
    enum Kind: String, Sendable {
        case `public`
        case `private` = "a private address"
        case loopback = "a loopback address"
        case linkLocal = "a link-local address, where clouds keep their credentials"
        case metadata = "a cloud's metadata address"
        case special = "an unspecified, multicast or reserved address"
    }

    /// 4 bytes, or 16.
    let bytes: [UInt8]

    init(bytes: [UInt8]) {
        self.bytes = Self.embedded(bytes) ?? bytes
    }

    /// An address as it is usually written; `nil` for names and for spellings such as `127.1` or `0x7f000001`.
    init?(literal: String) {
        var four = in_addr()
        var six = in6_addr()
        if inet_pton(AF_INET, literal, &four) == 1 {
            self.init(bytes: withUnsafeBytes(of: &four) { Array($0) })
        } else if inet_pton(AF_INET6, literal, &six) == 1 {
            self.init(bytes: withUnsafeBytes(of: &six) { Array($0) })
        } else {
            return nil
        }
    }

    /// The address in a socket address; `nil` for families other than IP.
    init?(socketAddress: UnsafePointer<sockaddr>) {
        switch Int32(socketAddress.pointee.sa_family) {
        case AF_INET:
            self.init(
                bytes: socketAddress.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                    withUnsafeBytes(of: $0.pointee.sin_addr) { Array($0) }
                })
        case AF_INET6:
            self.init(
                bytes: socketAddress.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) {
                    withUnsafeBytes(of: $0.pointee.sin6_addr) { Array($0) }
                })
        default: return nil
        }
    }

    /// IPv4 inside IPv6: mapped `::ffff:0:0/96`, translated `::ffff:0:0:0/96`, compatible `::/96`, NAT64 `64:ff9b::/96`, 6to4 `2002::/16`.
    private static func embedded(_ bytes: [UInt8]) -> [UInt8]? {
        guard bytes.count == 16 else { return nil }
        let zeros = bytes.prefix(10).allSatisfy { $0 == 0 }
        if zeros && bytes[10] == 0xff && bytes[11] == 0xff { return Array(bytes[12...]) }
        if zeros && bytes[10] == 0 && bytes[11] == 0 && bytes[12...].contains(where: { $0 != 0 }) && bytes[12] != 0 {
            return Array(bytes[12...])
        }
        if bytes.starts(with: [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]) { return Array(bytes[12...]) }
        if bytes.starts(with: [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]) { return Array(bytes[12...]) }
        if bytes.starts(with: [0x20, 0x02]) { return Array(bytes[2..<6]) }
        return nil
    }

    var kind: Kind { bytes.count == 4 ? kindOfFour : kindOfSix }

    private var kindOfFour: Kind {
        switch (bytes[0], bytes[1]) {
        case (127, _): .loopback
        case (169, 254): .linkLocal
        case (100, 100) where bytes[2] == 100 && bytes[3] == 200: .metadata
        case (168, 63) where bytes[2] == 129 && bytes[3] == 16: .metadata
        case (10, _), (192, 168): .private
        case (172, let second) where (16...31).contains(second): .private
        case (100, let second) where (64...127).contains(second): .private
        case (0, _), (224..., _): .special
        case (192, 0) where bytes[2] == 0: .special
        case (198, 18...19): .private
        default: .public
        }
    }

    private var kindOfSix: Kind {
        if bytes.allSatisfy({ $0 == 0 }) { return .special }
        if bytes.prefix(15).allSatisfy({ $0 == 0 }) && bytes[15] == 1 { return .loopback }
        if bytes.starts(with: [0xfd, 0x00, 0x0e, 0xc2]) { return .metadata }
        if bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80 { return .linkLocal }
        if bytes[0] & 0xfe == 0xfc || (bytes[0] == 0xfe && bytes[1] & 0xc0 == 0xc0) { return .private }
        if bytes[0] == 0xff { return .special }
        // NAT64 of a network's own (RFC 8215) and Teredo: an IPv4 address is in it, but not where.
        if bytes.starts(with: [0x00, 0x64, 0xff, 0x9b, 0x00, 0x01]) || bytes.starts(with: [0x20, 0x01, 0, 0]) { return .special }
        return .public
    }
}
