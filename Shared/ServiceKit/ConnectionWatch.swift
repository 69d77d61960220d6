import HTTPTypes
import Hummingbird
import NIOCore
import NIOHTTPTypes

/// Deadlines of a connection, so that slow or silent clients hold nothing for long.
struct ConnectionLimits: Sendable {
    /// From the first byte of a request to the end of its head.
    var head: TimeAmount = .seconds(15)
    /// How long a body may be waited for in all before its rate counts.
    var bodyGrace: TimeAmount = .seconds(30)
    /// What a body must bring beyond its grace, in bytes per second of waiting.
    var bodyRate = 8192.0
    /// How long a client may leave us with an answer that it does not take.
    var writing: TimeAmount = .seconds(60)
    /// How long the rest of a body is still read, and thrown away, after its request was answered.
    var discarding: TimeAmount = .seconds(10)
}

/// Sits between the HTTP codec and the handlers, one a connection: sends 100 Continue when a handler begins to read, ends connections whose
/// client is too slow, and reads the rest of bodies that nobody wants, so that a client that sends everything before it reads gets its answer.
final class ConnectionWatch: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    /// Asks for 100 Continue.
    struct Continue: Sendable {}

    /// The client went away, or was sent away, in the middle of a body.
    struct BodyCutOff: Error, CustomStringConvertible {
        var description: String { "the connection ended in the middle of the body" }
    }

    private enum Reading {
        case head
        /// A body; `expecting` until the client was told to go on.
        case body(expecting: Bool)
        /// What is left of a body whose request was answered.
        case rest
    }

    private let limits: ConnectionLimits
    private var reading = Reading.head
    /// Requests whose answer is not written to its end.
    private var unanswered = 0
    private var bytes = 0
    /// Time that we waited for the client while it sent a body.
    private var waited = TimeAmount.zero
    private var waitingSince: NIODeadline?
    private var closesAfterAnswer = false
    private var headTimer: Scheduled<Void>?
    private var bodyTimer: RepeatedTask?
    private var writeTimer: Scheduled<Void>?
    private var restTimer: Scheduled<Void>?

    init(limits: ConnectionLimits) {
        self.limits = limits
    }

    func handlerAdded(context: ChannelHandlerContext) {
        // Bytes of a head are seen only in front of the codec.
        let loopBound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        let watch = ByteWatch {
            let (watch, context) = loopBound.value
            watch.bytesArrived(context)
        }
        try? context.pipeline.syncOperations.addHandler(watch, position: .first)
    }

    func handlerRemoved(context: ChannelHandlerContext) { stop() }

    func channelInactive(context: ChannelHandlerContext) {
        if case .body = reading { context.fireErrorCaught(BodyCutOff()) }
        stop()
        context.fireChannelInactive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent, case .body = reading { context.fireErrorCaught(BodyCutOff()) }
        context.fireUserInboundEventTriggered(event)
    }

    // MARK: - What comes in

    private func bytesArrived(_ context: ChannelHandlerContext) {
        if let since = waitingSince {
            waited = waited + (.now() - since)
            waitingSince = nil
        }
        guard case .head = reading, headTimer == nil else { return }
        headTimer = schedule(context, in: limits.head) { watch, context in watch.giveUp(context) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch (unwrapInboundIn(data), reading) {
        case (.head(let head), _):
            headTimer?.cancel()
            headTimer = nil
            unanswered += 1
            reading = .body(expecting: head.headerFields[.expect]?.lowercased() == "100-continue")
            (bytes, waited) = (0, .zero)
            startBodyTimer(context)
        case (.body, .rest):
            return
        case (.body(let buffer), _):
            bytes += buffer.readableBytes
        case (.end, let before):
            stopBody()
            reading = .head
            if case .rest = before, closesAfterAnswer { return context.close(promise: nil) }
        }
        context.fireChannelRead(data)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.fireChannelReadComplete()
        // The handlers are done with this request and ask for nothing more.
        if case .rest = reading { context.read() }
    }

    func read(context: ChannelHandlerContext) {
        if case .body = reading, waitingSince == nil { waitingSince = .now() }
        context.read()
    }

    // MARK: - What goes out

    func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
        guard event is Continue else { return context.triggerUserOutboundEvent(event, promise: promise) }
        if case .body(expecting: true) = reading {
            reading = .body(expecting: false)
            context.writeAndFlush(wrapOutboundOut(.head(HTTPResponse(status: .continue))), promise: nil)
        }
        promise?.succeed(())
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        case .head(var head):
            // A client that was not told to go on may send its body or another request next: nobody can tell.
            if unanswered == 1, case .body(expecting: true) = reading {
                head.headerFields[.connection] = "close"
                closesAfterAnswer = true
            }
            context.write(wrapOutboundOut(.head(head)), promise: promise)
        case .body:
            context.write(data, promise: promise)
        case .end:
            unanswered -= 1
            context.write(data, promise: promise)
            if unanswered == 0, case .body = reading { discardRest(context) }
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        writeTimer?.cancel()
        writeTimer = context.channel.isWritable ? nil : schedule(context, in: limits.writing) { _, context in context.close(promise: nil) }
        context.fireChannelWritabilityChanged()
    }

    private func discardRest(_ context: ChannelHandlerContext) {
        stopBody()
        reading = .rest
        restTimer = schedule(context, in: closesAfterAnswer ? .milliseconds(500) : limits.discarding) { _, context in
            context.close(promise: nil)
        }
        context.read()
    }

    // MARK: - Timers

    private func startBodyTimer(_ context: ChannelHandlerContext) {
        bodyTimer?.cancel()
        let loopBound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        let every = max(TimeAmount.milliseconds(100), min(limits.bodyGrace, .seconds(5)))
        bodyTimer = context.eventLoop.scheduleRepeatedTask(initialDelay: every, delay: every) { _ in
            let (watch, context) = loopBound.value
            watch.checkBody(context)
        }
    }

    private func checkBody(_ context: ChannelHandlerContext) {
        guard case .body = reading else { return }
        let waited = waited + (waitingSince.map { .now() - $0 } ?? .zero)
        let beyond = Double((waited - limits.bodyGrace).nanoseconds) * 1e-9
        if beyond > 0, Double(bytes) < beyond * limits.bodyRate { giveUp(context) }
    }

    /// Ends the connection, with a word why where no answer is under way.
    private func giveUp(_ context: ChannelHandlerContext) {
        if unanswered == 0, context.channel.isWritable {
            let head = HTTPResponse(status: .requestTimeout, headerFields: [.connection: "close", .contentLength: "0"])
            context.write(wrapOutboundOut(.head(head)), promise: nil)
            context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        }
        context.close(promise: nil)
    }

    private func schedule(
        _ context: ChannelHandlerContext, in time: TimeAmount, _ body: @escaping @Sendable (ConnectionWatch, ChannelHandlerContext) -> Void
    ) -> Scheduled<Void> {
        let loopBound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        return context.eventLoop.scheduleTask(in: time) {
            let (watch, context) = loopBound.value
            body(watch, context)
        }
    }

    private func stopBody() {
        bodyTimer?.cancel()
        bodyTimer = nil
        restTimer?.cancel()
        restTimer = nil
        waitingSince = nil
    }

    private func stop() {
        stopBody()
        headTimer?.cancel()
        headTimer = nil
        writeTimer?.cancel()
        writeTimer = nil
        reading = .head
    }
}

/// Tells that bytes arrived.
private final class ByteWatch: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    private let arrived: () -> Void

    init(_ arrived: @escaping () -> Void) {
        self.arrived = arrived
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        arrived()
        context.fireChannelRead(data)
    }
}

/// A body that says when somebody begins to read it.
struct AnnouncedBody: AsyncSequence, Sendable {
    typealias Element = ByteBuffer
    let body: RequestBody
    let announce: @Sendable () -> Void

    func makeAsyncIterator() -> RequestBody.AsyncIterator {
        announce()
        return body.makeAsyncIterator()
    }
}
