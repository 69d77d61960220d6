import Foundation
import Glibc

/// A TCP proxy inside this process, between workers and PostgreSQL's Unix socket: it cuts connections, lets them fall silent, slows them
/// down, swallows answers, and loses or doubles notifications.
///
/// It reads the server's messages far enough to know which backend a connection belongs to.
final class FaultProxy: @unchecked Sendable {  // everything mutable is touched under `lock` alone
    enum Notifications: Sendable { case delivered, lost, doubled }

    private final class Link {
        let client: CInt
        let server: CInt
        var backend: Int32 = 0
        var isSilent = false
        var swallowsAnswers = false
        var delay = 0.0
        var toServer: [(due: Double, bytes: [UInt8])] = []
        var toClient: [(due: Double, bytes: [UInt8])] = []
        /// What has come of a message of the server's that is not whole yet.
        var partial: [UInt8] = []
        var clientEnded = false
        var serverEnded = false

        init(client: CInt, server: CInt) { (self.client, self.server) = (client, server) }
    }

    let port: UInt16
    private let socketPath: String
    private let listener: CInt
    private let wake: (read: CInt, write: CInt)
    private let lock = NSLock()
    private var links: [Link] = []
    private var notifications = Notifications.delivered
    private var isClosed = false

    /// Listens on a free port of the loopback interface; `socketPath` is PostgreSQL's.
    init(socketPath: String) throws {
        self.socketPath = socketPath
        listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listener
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) == 0 && listen(descriptor, 256) == 0 && getsockname(descriptor, $0, &size) == 0
            }
        }
        guard descriptor >= 0, bound else { throw ChaosError("the proxy cannot listen: \(String(cString: strerror(errno)))") }
        port = UInt16(bigEndian: address.sin_port)
        var pipe: [CInt] = [0, 0]
        guard Glibc.pipe(&pipe) == 0 else { throw ChaosError("pipe: \(String(cString: strerror(errno)))") }
        for descriptor in pipe {
            _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        }
        wake = (pipe[0], pipe[1])
        Thread.detachNewThread { [self] in serve() }
    }

    func url(database: String) -> String {
        "postgresql://foretaste@127.0.0.1:\(port)/\(database)?sslmode=disable&gssencmode=disable"
    }

    // MARK: - Faults

    /// Resets the connections of these backends.
    func cut(_ backends: Set<Int32>) { change(backends) { Self.end($0) } }
    /// Nothing passes any more, in either direction, and nobody is told.
    func silence(_ backends: Set<Int32>) { change(backends) { $0.isSilent = true } }
    /// What the client says arrives; what the server answers does not.
    func swallowAnswers(_ backends: Set<Int32>) { change(backends) { $0.swallowsAnswers = true } }
    /// Everything takes so many seconds longer, each way.
    func delay(_ backends: Set<Int32>, _ seconds: Double) { change(backends) { $0.delay = seconds } }
    /// What is silent or slow is as it was; connections whose answers were swallowed are beyond repair and are reset.
    func heal(_ backends: Set<Int32>? = nil) {
        synchronized {
            for link in links where backends?.contains(link.backend) ?? true {
                link.isSilent = false
                link.delay = 0
                if link.swallowsAnswers { Self.end(link) }
            }
        }
    }
    func deliver(_ how: Notifications) { synchronized { notifications = how } }
    var backends: Set<Int32> { lock.withLock { Set(links.map(\.backend)) } }

    func close() { synchronized { isClosed = true } }

    private static func end(_ link: Link) {
        (link.toServer, link.toClient) = ([], [])
        (link.clientEnded, link.serverEnded) = (true, true)
    }

    private func change(_ backends: Set<Int32>, _ body: (Link) -> Void) {
        synchronized { for link in links where backends.contains(link.backend) { body(link) } }
    }

    private func synchronized(_ body: () -> Void) {
        lock.withLock(body)
        var byte: UInt8 = 1
        _ = write(wake.write, &byte, 1)
    }

    // MARK: - The loop

    private static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    private func serve() {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            lock.lock()
            if isClosed {
                for link in links { reset(link) }
                links = []
                for descriptor in [listener, wake.read, wake.write] { _ = Glibc.close(descriptor) }
                lock.unlock()
                return
            }
            var polled = [
                pollfd(fd: listener, events: Int16(POLLIN), revents: 0), pollfd(fd: wake.read, events: Int16(POLLIN), revents: 0),
            ]
            let current = links
            let now = Self.now
            var due = Double.infinity
            for link in current {
                var (client, server): (CInt, CInt) = (0, 0)
                if !link.isSilent {
                    if !link.clientEnded, link.toServer.count < 64 { client |= POLLIN }
                    if !link.serverEnded, link.toClient.count < 64 { server |= POLLIN }
                    if let first = link.toServer.first { if first.due <= now { server |= POLLOUT } else { due = min(due, first.due) } }
                    if let first = link.toClient.first { if first.due <= now { client |= POLLOUT } else { due = min(due, first.due) } }
                }
                // -1: not looked at, so that a silent connection's end stays unnoticed as well.
                polled.append(pollfd(fd: client == 0 ? -1 : link.client, events: Int16(client), revents: 0))
                polled.append(pollfd(fd: server == 0 ? -1 : link.server, events: Int16(server), revents: 0))
            }
            lock.unlock()
            _ = poll(&polled, nfds_t(polled.count), due == .infinity ? 1000 : CInt(max(0, (due - now) * 1000).rounded(.up)))
            lock.lock()
            while read(wake.read, &buffer, buffer.count) > 0 {}
            if polled[0].revents != 0 { accept() }
            for (index, link) in current.enumerated() where !link.isSilent {
                if polled[2 + 2 * index].revents & Int16(POLLIN | POLLHUP | POLLERR) != 0 { readClient(link, &buffer) }
                if polled[3 + 2 * index].revents & Int16(POLLIN | POLLHUP | POLLERR) != 0 { readServer(link, &buffer) }
                writeOut(link)
            }
            links.removeAll { link in
                let isOver = (link.clientEnded && link.toServer.isEmpty) || (link.serverEnded && link.toClient.isEmpty)
                if isOver { reset(link) }
                return isOver
            }
            lock.unlock()
        }
    }

    private func reset(_ link: Link) {
        var hard = linger(l_onoff: 1, l_linger: 0)
        setsockopt(link.client, SOL_SOCKET, SO_LINGER, &hard, socklen_t(MemoryLayout<linger>.size))
        _ = Glibc.close(link.client)
        _ = Glibc.close(link.server)
    }

    private func accept() {
        let client = Glibc.accept(listener, nil, nil)
        guard client >= 0 else { return }
        _ = fcntl(client, F_SETFL, O_NONBLOCK)
        _ = fcntl(client, F_SETFD, FD_CLOEXEC)
        let server = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: socketPath.utf8.prefix(107)) }
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(server, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0 }
        }
        guard connected else {
            // The server is down: the client sees a connection that ends at once.
            _ = Glibc.close(client)
            _ = Glibc.close(server)
            return
        }
        _ = fcntl(server, F_SETFL, O_NONBLOCK)
        var one: CInt = 1
        setsockopt(client, CInt(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<CInt>.size))
        links.append(Link(client: client, server: server))
    }

    private func readClient(_ link: Link, _ buffer: inout [UInt8]) {
        let count = read(link.client, &buffer, buffer.count)
        if count > 0 {
            link.toServer.append((Self.now + link.delay, Array(buffer[..<count])))
        } else if count == 0 || errno != EAGAIN {
            link.clientEnded = true
        }
    }

    private func readServer(_ link: Link, _ buffer: inout [UInt8]) {
        let count = read(link.server, &buffer, buffer.count)
        guard count > 0 else {
            if count == 0 || errno != EAGAIN { link.serverEnded = true }
            return
        }
        link.partial += buffer[..<count]
        var passed: [UInt8] = []
        var start = 0
        while link.partial.count - start >= 5 {
            func word(_ at: Int) -> Int { link.partial[at..<at + 4].reduce(0) { $0 << 8 | Int($1) } }
            let end = start + 1 + word(start + 1)
            guard end <= link.partial.count else { break }
            let type = UnicodeScalar(link.partial[start])
            if type == "K" { link.backend = Int32(truncatingIfNeeded: word(start + 5)) }
            let times = type != "A" || notifications == .delivered ? 1 : notifications == .lost ? 0 : 2
            for _ in 0..<times { passed += link.partial[start..<end] }
            start = end
        }
        link.partial.removeFirst(start)
        if !passed.isEmpty, !link.swallowsAnswers { link.toClient.append((Self.now + link.delay, passed)) }
    }

    private func writeOut(_ link: Link) {
        func flush(_ queue: inout [(due: Double, bytes: [UInt8])], _ descriptor: CInt, _ ended: inout Bool) {
            while let first = queue.first, first.due <= Self.now {
                let count = send(descriptor, first.bytes, first.bytes.count, CInt(MSG_NOSIGNAL))
                if count < 0 {
                    if errno != EAGAIN { (queue, ended) = ([], true) }
                    return
                }
                if count < first.bytes.count {
                    queue[0].bytes.removeFirst(count)
                    return
                }
                queue.removeFirst()
            }
        }
        flush(&link.toServer, link.server, &link.serverEnded)
        flush(&link.toClient, link.client, &link.clientEnded)
    }
}
