import CCurl
import Foundation
import Synchronization

/// Limits of one transfer.
struct TransferLimits: Sendable {
    /// Until a connection stands.
    var connectSeconds = 10
    /// Fewer bytes a second than this …
    var slowBytesPerSecond = 1024
    /// … for this long, and the transfer is given up.
    var slowSeconds = 20
    /// The longest that one attempt may take.
    var totalSeconds = 3600
    /// How many attempts a transfer has.
    var attempts = 4
}

/// One HTTP request by libcurl: redirects off, HTTP and HTTPS only, no proxy, no content encoding, addresses checked as they are connected to.
/// Belongs to the thread that performs it.
final class HTTPTransfer {
    private let url: ArtifactURL
    private let limits: TransferLimits
    private let cancelled: Cancellation
    private var headers: [String]
    private var refusal: String?
    private var location: String?
    private var encoding: String?
    private var failure: ArtifactError?
    private var receiver: (any Receiver)?
    private var upload: UploadSource?
    private var handle: UnsafeMutableRawPointer?
    private var started = false

    /// What takes the body of a 2xx answer.
    protocol Receiver: AnyObject {
        /// The answer's head is known; throws when the body is not wanted.
        func begin(status: Int, length: Int?, contentRange: String?, entityTag: String?) throws(ArtifactError)
        func receive(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError)
    }

    /// How an attempt ended.
    struct Outcome {
        let status: Int
        let retryAfter: Double?
        var entityTag: String?
        /// The body's announced length, of a HEAD's answer as well.
        var length: Int?
        /// `x-amz-bucket-region`.
        var bucketRegion: String?
        /// `x-amz-meta-sha256`.
        var storedDigest: String?
        /// The beginning of an error's body, when the request was signed.
        var errorBody: [UInt8] = []
    }

    /// What libcurl signs a request with (AWS Signature Version 4).
    struct Signature {
        let accessKey: String
        let secretKey: String
        /// `aws:amz:REGION:s3`.
        let provider: String
    }

    private var contentRange: String?
    private var entityTag: String?
    private var bucketRegion: String?
    private var storedDigest: String?
    private var errorBody: [UInt8] = []
    private var method: String?
    private let signature: Signature?

    init(url: ArtifactURL, limits: TransferLimits, cancelled: Cancellation, headers: [String] = [], signature: Signature? = nil) {
        self.signature = signature
        self.url = url
        self.limits = limits
        self.cancelled = cancelled
        self.headers = headers + ["Accept-Encoding: identity"]
    }

    /// GET.
    func get(on handle: TransferThreads.Handle, into receiver: any Receiver) throws(ArtifactError) -> Outcome {
        self.receiver = receiver
        return try perform(handle.curl)
    }

    /// PUT.
    func put(on handle: TransferThreads.Handle, from source: UploadSource) throws(ArtifactError) -> Outcome {
        upload = source
        // Without this libcurl asks for permission first and waits a second for servers that don't answer. A signed request asks, and waits
        // shortly: libcurl 7.88 signs the header that it then leaves out.
        if signature == nil { headers.append("Expect:") }
        return try perform(handle.curl)
    }

    /// Any method, with or without a body either way.
    func send(
        _ method: String, on handle: TransferThreads.Handle, from source: UploadSource?, into receiver: (any Receiver)?
    ) throws(ArtifactError) -> Outcome {
        self.method = method
        self.receiver = receiver
        guard let source else { return try perform(handle.curl) }
        return try put(on: handle, from: source)
    }

    private func perform(_ curl: UnsafeMutableRawPointer) throws(ArtifactError) -> Outcome {
        // Keeps the connections, forgets the options.
        curl_easy_reset(curl)
        handle = curl
        var list: UnsafeMutablePointer<curl_slist>?
        for header in headers { list = curl_slist_append(list, header) }
        defer { curl_slist_free_all(list) }
        let context = Unmanaged.passUnretained(self).toOpaque()
        let shared = [
            ccurl_set_string(curl, CURLOPT_URL, url.requestText), ccurl_set_http_only(curl), ccurl_set_headers(curl, list),
            ccurl_set_long(curl, CURLOPT_FOLLOWLOCATION, 0), ccurl_set_long(curl, CURLOPT_PATH_AS_IS, 1),
            ccurl_set_long(curl, CURLOPT_NOSIGNAL, 1), ccurl_set_string(curl, CURLOPT_PROXY, ""),
            ccurl_set_long(curl, CURLOPT_CONNECTTIMEOUT, limits.connectSeconds), ccurl_set_long(curl, CURLOPT_TIMEOUT, limits.totalSeconds),
            ccurl_set_long(curl, CURLOPT_LOW_SPEED_LIMIT, limits.slowBytesPerSecond),
            ccurl_set_long(curl, CURLOPT_LOW_SPEED_TIME, limits.slowSeconds),
            // Not among the headers: those are signed, and what programs on the way may change must not be.
            ccurl_set_string(curl, CURLOPT_USERAGENT, "foretaste"), ccurl_set_long(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, 250),
            ccurl_set_long(curl, CURLOPT_BUFFERSIZE, 256 * 1024),
            // A connection that was checked for one host is reused for that host only, by libcurl itself; it must not outlive its name for long.
            ccurl_set_long(curl, CURLOPT_MAXAGE_CONN, 60), ccurl_set_long(curl, CURLOPT_DNS_CACHE_TIMEOUT, 60),
            ccurl_set_open_socket(curl, HTTPTransfer.openSocket, context), ccurl_set_header_function(curl, HTTPTransfer.header, context),
            ccurl_set_write(curl, HTTPTransfer.write, context), ccurl_set_progress(curl, HTTPTransfer.progress, context),
        ]
        var codes = shared
        if let upload {
            codes += [
                ccurl_set_long(curl, CURLOPT_UPLOAD, 1), ccurl_set_offset(curl, CURLOPT_INFILESIZE_LARGE, curl_off_t(upload.count)),
                ccurl_set_read(curl, HTTPTransfer.read, context), ccurl_set_seek(curl, HTTPTransfer.seek, context),
            ]
        }
        if method == "HEAD" {
            codes.append(ccurl_set_long(curl, CURLOPT_NOBODY, 1))
        } else if let method, method != (upload == nil ? "GET" : "PUT") {
            codes.append(ccurl_set_string(curl, CURLOPT_CUSTOMREQUEST, method))
        }
        if let signature {
            codes += [
                ccurl_set_string(curl, CURLOPT_AWS_SIGV4, signature.provider),
                ccurl_set_string(curl, CURLOPT_USERNAME, signature.accessKey),
                ccurl_set_string(curl, CURLOPT_PASSWORD, signature.secretKey),
            ]
        }
        if let wrong = codes.first(where: { $0 != CURLE_OK }) {
            throw .unreachable(url: url.shown, reason: "libcurl refuses an option: \(String(cString: curl_easy_strerror(wrong)))")
        }
        let code = curl_easy_perform(curl)
        return try outcome(code, curl)
    }

    private func outcome(_ code: CURLcode, _ curl: UnsafeMutableRawPointer) throws(ArtifactError) -> Outcome {
        if let failure { throw failure }
        if let refusal { throw .forbidden(url: url.shown, reason: refusal) }
        if cancelled.isCancelled { throw .unreachable(url: url.shown, reason: "the transfer was cancelled") }
        guard code == CURLE_OK else { throw .unreachable(url: url.shown, reason: reason(code)) }
        let status = status(of: curl)
        if (300..<400).contains(status), signature == nil {
            throw .redirected(url: url.shown, location: ArtifactURL.shown(location ?? "an unnamed place"))
        }
        var retryAfter: curl_off_t = 0
        _ = ccurl_get_offset(curl, CURLINFO_RETRY_AFTER, &retryAfter)
        // An empty body never reached the receiver.
        if (200..<300).contains(status), receiver != nil, !started { try begin(status, curl) }
        var length: curl_off_t = -1
        _ = ccurl_get_offset(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length)
        return Outcome(
            status: status, retryAfter: retryAfter > 0 ? Double(retryAfter) : nil, entityTag: entityTag,
            length: length >= 0 ? Int(length) : nil, bucketRegion: bucketRegion, storedDigest: storedDigest, errorBody: errorBody)
    }

    private func reason(_ code: CURLcode) -> String {
        guard code == CURLE_OPERATION_TIMEDOUT else { return String(cString: curl_easy_strerror(code)) }
        let slow = "fewer than \(limits.slowBytesPerSecond) bytes a second came for \(limits.slowSeconds) seconds"
        return "\(slow), there was no connection in \(limits.connectSeconds) seconds, or all of it took \(limits.totalSeconds)"
    }

    private func status(of curl: UnsafeMutableRawPointer) -> Int {
        var status = 0
        _ = ccurl_get_long(curl, CURLINFO_RESPONSE_CODE, &status)
        return status
    }

    private func begin(_ status: Int, _ curl: UnsafeMutableRawPointer) throws(ArtifactError) {
        started = true
        if let encoding, encoding.lowercased() != "identity" {
            throw .invalid(url: url.shown, reason: "its server compresses it (\(encoding.prefix(40))) although that was not asked for")
        }
        var length: curl_off_t = -1
        _ = ccurl_get_offset(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length)
        try receiver?.begin(status: status, length: length >= 0 ? Int(length) : nil, contentRange: contentRange, entityTag: entityTag)
    }

    private func accept(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let handle else { return true }
        let status = status(of: handle)
        // The body of an error is of no use, except a store's own words.
        guard (200..<300).contains(status), let receiver else {
            if signature != nil { errorBody += bytes.prefix(max(0, 65536 - errorBody.count)) }
            return true
        }
        do {
            if !started { try begin(status, handle) }
            try receiver.receive(bytes)
            return true
        } catch {
            failure = error
            return false
        }
    }

    private func note(header line: String) {
        if line.hasPrefix("HTTP/") {
            // A status line begins another answer, as after `100 Continue`.
            (location, encoding, contentRange, entityTag, bucketRegion, storedDigest) = (nil, nil, nil, nil, nil, nil)
            return
        }
        guard let colon = line.firstIndex(of: ":") else { return }
        let value = line[line.index(after: colon)...].trimmingCharacters(in: .whitespacesAndNewlines)
        switch line[..<colon].lowercased() {
        case "location": location = value
        case "content-encoding": encoding = value
        case "content-range": contentRange = value
        case "etag": entityTag = value
        case "x-amz-bucket-region": bucketRegion = value
        case "x-amz-meta-sha256": storedDigest = value
        default: break
        }
    }

    // MARK: libcurl's callbacks; the context is the transfer itself, which outlives `curl_easy_perform`.

    private static func transfer(_ context: UnsafeMutableRawPointer?) -> HTTPTransfer {
        Unmanaged.fromOpaque(context!).takeUnretainedValue()
    }

    private static let write: ccurl_data_function = { data, size, count, context in
        let total = size * count
        guard let data, total > 0 else { return 0 }
        return transfer(context).accept(UnsafeRawBufferPointer(start: data, count: total)) ? total : 0
    }

    private static let read: ccurl_data_function = { data, size, count, context in
        guard let data else { return Int(CURL_READFUNC_ABORT) }
        let buffer = UnsafeMutableRawBufferPointer(start: data, count: size * count)
        return transfer(context).upload?.read(into: buffer) ?? Int(CURL_READFUNC_ABORT)
    }

    private static let seek: ccurl_seek_function = { context, offset, origin in
        guard origin == SEEK_SET, let upload = transfer(context).upload, upload.seek(to: Int(offset)) else { return CURL_SEEKFUNC_FAIL }
        return CURL_SEEKFUNC_OK
    }

    private static let header: ccurl_data_function = { data, size, count, context in
        let total = size * count
        if let data { transfer(context).note(header: String(decoding: UnsafeRawBufferPointer(start: data, count: total), as: UTF8.self)) }
        return total
    }

    private static let progress: ccurl_progress_function = { context, _, _, _, _ in transfer(context).cancelled.isCancelled ? 1 : 0 }

    private static let openSocket: ccurl_socket_function = { context, _, address in
        let transfer = transfer(context)
        guard let address else { return CURL_SOCKET_BAD }
        let parsed = withUnsafePointer(to: &address.pointee.addr) { NetworkAddress(socketAddress: $0) }
        if let reason = ArtifactPolicy.refusal(host: transfer.url.host, address: parsed) {
            transfer.refusal = reason
            return CURL_SOCKET_BAD
        }
        // A name may lead to several addresses: one that is allowed makes up for one that is not.
        transfer.refusal = nil
        return socket(address.pointee.family, address.pointee.socktype | Int32(SOCK_CLOEXEC.rawValue), address.pointee.protocol)
    }
}

/// Set by the task that waits, read by the thread that transfers.
final class Cancellation: Sendable {
    private let flag = Mutex(false)
    var isCancelled: Bool { flag.withLock { $0 } }
    func cancel() { flag.withLock { $0 = true } }
}

/// The body of a PUT: an open file or bytes.
final class UploadSource {
    let count: Int
    private let bytes: [UInt8]
    private let descriptor: Int32
    private let start: Int
    private var offset = 0

    init(bytes: [UInt8]) {
        self.bytes = bytes
        start = 0
        count = bytes.count
        descriptor = -1
    }

    /// The descriptor stays the caller's.
    init(descriptor: Int32, count: Int) {
        bytes = []
        start = 0
        self.count = count
        self.descriptor = descriptor
    }

    private init(_ whole: UploadSource, from start: Int, count: Int) {
        bytes = whole.bytes
        descriptor = whole.descriptor
        self.start = whole.start + start
        self.count = count
    }

    /// A part of it, with a position of its own.
    func slice(from start: Int, count: Int) -> UploadSource { UploadSource(self, from: start, count: count) }

    /// The hexadecimal SHA-256 of all of it; `nil` when it cannot be read. Ends at its beginning.
    func digest() -> String? {
        offset = 0
        defer { offset = 0 }
        var hash = SHA256()
        let complete = withUnsafeTemporaryAllocation(byteCount: 1 << 18, alignment: 64) { buffer in
            while offset < count {
                let wanted = count - offset
                let done = read(into: buffer)
                guard done > 0, done <= wanted else { return false }
                hash.update(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<done]))
            }
            return true
        }
        return complete ? SHA256.hex(hash.finish()) : nil
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let wanted = min(buffer.count, count - offset)
        guard wanted > 0 else { return 0 }
        var done = wanted
        if descriptor >= 0 {
            done = pread(descriptor, buffer.baseAddress, wanted, off_t(start + offset))
            guard done > 0 else { return Int(CURL_READFUNC_ABORT) }
        } else {
            bytes.withUnsafeBytes {
                buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[(start + offset)..<(start + offset + wanted)]))
            }
        }
        offset += done
        return done
    }

    func seek(to position: Int) -> Bool {
        guard (0...count).contains(position) else { return false }
        offset = position
        return true
    }
}
