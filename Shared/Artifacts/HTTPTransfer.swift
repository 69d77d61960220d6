import CCurl
import Foundation

/// Limits of one transfer.
struct TransferLimits: Sendable {
    /// Until a connection stands.
    var connectSeconds = 10
    /// Fewer bytes a second than this …
    var slowBytesPerSecond = 1024
    /// … for this long, and the transfer is given up.
    var slowSeconds = 20
    /// The longest that a transfer may take, with all its attempts; by its size when `nil`: …
    var totalSeconds: Int?
    /// … so many seconds, …
    var baseSeconds = 60
    /// … and a second for so many bytes.
    var bytesPerSecond = 1 << 18
    /// How many attempts a transfer has.
    var attempts = 4
    /// Downloads of at least so many bytes come in several ranges at once …
    var parallelThreshold = 32 << 20
    /// … of so many bytes …
    var segmentBytes = 8 << 20
    /// … so many at once. Uploads in parts as well.
    var parallelTransfers = 4
    /// Addresses that stand for the name service's answers, `NAME:PORT:ADDRESS`; only tests have reason to.
    var addresses: (@Sendable () -> [String])?

    /// The longest that so many bytes may take.
    func deadline(bytes: Int) -> Int { totalSeconds ?? baseSeconds + bytes / bytesPerSecond }
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
        func begin(_ head: Head) throws(ArtifactError)
        /// Answers whether more is wanted.
        func receive(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) -> Bool
    }

    /// The head of a 2xx answer.
    struct Head {
        let status: Int
        let length: Int?
        let contentRange: String?
        let entityTag: String?
        /// `Accept-Ranges: bytes`.
        let acceptsRanges: Bool
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

    private var isSatisfied = false
    private var acceptsRanges = false
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
        var addresses: UnsafeMutablePointer<curl_slist>?
        for address in limits.addresses?() ?? [] { addresses = curl_slist_append(addresses, address) }
        defer {
            curl_slist_free_all(list)
            curl_slist_free_all(addresses)
        }
        // A fetch has its deadline from its size, which only the answer tells.
        let seconds = cancelled.hasDeadline ? 0 : limits.deadline(bytes: upload?.count ?? 0)
        let context = Unmanaged.passUnretained(self).toOpaque()
        let shared = [
            ccurl_set_string(curl, CURLOPT_URL, url.requestText), ccurl_set_http_only(curl), ccurl_set_headers(curl, list),
            ccurl_set_long(curl, CURLOPT_FOLLOWLOCATION, 0), ccurl_set_long(curl, CURLOPT_PATH_AS_IS, 1),
            ccurl_set_long(curl, CURLOPT_NOSIGNAL, 1), ccurl_set_string(curl, CURLOPT_PROXY, ""),
            ccurl_set_long(curl, CURLOPT_CONNECTTIMEOUT, limits.connectSeconds), ccurl_set_long(curl, CURLOPT_TIMEOUT, seconds),
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
        if let addresses { codes.append(ccurl_set_resolve(curl, addresses)) }
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
        if let reason = cancelled.reason { throw .unreachable(url: url.shown, reason: reason) }
        guard isSatisfied || code == CURLE_OK else { throw .unreachable(url: url.shown, reason: reason(code)) }
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
        return "\(slow), there was no connection in \(limits.connectSeconds) seconds, or all of it took longer than its size allows"
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
        try receiver?.begin(
            Head(
                status: status, length: length >= 0 ? Int(length) : nil, contentRange: contentRange, entityTag: entityTag,
                acceptsRanges: acceptsRanges))
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
            isSatisfied = try !receiver.receive(bytes)
            return !isSatisfied
        } catch {
            failure = error
            return false
        }
    }

    private func note(header line: String) {
        if line.hasPrefix("HTTP/") {
            // A status line begins another answer, as after `100 Continue`.
            (location, encoding, contentRange, entityTag, bucketRegion, storedDigest) = (nil, nil, nil, nil, nil, nil)
            acceptsRanges = false
            return
        }
        guard let colon = line.firstIndex(of: ":") else { return }
        let value = line[line.index(after: colon)...].trimmingCharacters(in: .whitespacesAndNewlines)
        switch line[..<colon].lowercased() {
        case "location": location = value
        case "content-encoding": encoding = value
        case "accept-ranges": acceptsRanges = value.lowercased() == "bytes"
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
