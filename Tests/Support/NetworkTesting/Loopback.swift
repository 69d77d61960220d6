import Foundation

/// Sockets of 127.0.0.1, for clients and servers that tests write themselves.
public enum Loopback {
    /// A connected socket; the caller closes it.
    public static func connect(to port: Int) throws -> Int32 {
        let descriptor = try socket()
        guard perform(Foundation.connect, descriptor, port) else {
            close(descriptor)
            throw POSIXError(.ECONNREFUSED)
        }
        return descriptor
    }

    /// A socket that has a port of its own and does not listen yet; the caller closes it. As long as it is open nobody else gets the port, and
    /// whoever connects is refused.
    public static func reserve() throws -> (descriptor: Int32, port: Int) {
        let descriptor = try socket()
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let named =
            perform(bind, descriptor, 0)
            && withUnsafeMutablePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) == 0 }
            }
        guard named else {
            close(descriptor)
            throw POSIXError(.EADDRINUSE)
        }
        return (descriptor, Int(UInt16(bigEndian: address.sin_port)))
    }

    /// Sends all of it, or as much as the other side takes before it is gone.
    /// - Returns: whether all of it went.
    @discardableResult
    public static func send(_ bytes: some Sequence<UInt8>, on descriptor: Int32) -> Bool {
        var rest = Array(bytes)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    private static func socket() throws -> Int32 {
        let descriptor = Foundation.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw POSIXError(.EMFILE) }
        return descriptor
    }

    private static func perform(
        _ call: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32, _ descriptor: Int32, _ port: Int
    ) -> Bool {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        address.sin_port = in_port_t(port).bigEndian
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0 }
        }
    }
}

/// Takes connections on a free port, each on a thread of its own, until nobody holds this object any more.
public final class LoopbackListener: Sendable {
    public let port: Int
    private let descriptor: Int32

    /// - Parameter serve: handles one connection, which is closed when it returns.
    public init(_ serve: @escaping @Sendable (_ connection: Int32) -> Void) throws {
        let (descriptor, port) = try Loopback.reserve()
        guard listen(descriptor, 128) == 0 else {
            close(descriptor)
            throw POSIXError(.EADDRINUSE)
        }
        (self.descriptor, self.port) = (descriptor, port)
        Thread.detachNewThread {
            while true {
                let connection = accept(descriptor, nil, nil)
                if connection >= 0 {
                    Thread.detachNewThread {
                        serve(connection)
                        close(connection)
                    }
                } else if errno == EINVAL {
                    // It was shut down.
                    break
                } else {
                    // A client that was gone again, or no descriptors for a moment.
                    usleep(1000)
                }
            }
            // Only here. If somebody else closed it, this thread could come late, and take the connections of whoever had got the
            // descriptor's number meanwhile.
            close(descriptor)
        }
    }

    deinit { shutdown(descriptor, Int32(SHUT_RDWR)) }
}

/// A port at which nobody listens, and nobody will as long as this object is held.
public final class ClosedPort: Sendable {
    public let port: Int
    private let descriptor: Int32

    public init() throws { (descriptor, port) = try Loopback.reserve() }

    deinit { close(descriptor) }
}
