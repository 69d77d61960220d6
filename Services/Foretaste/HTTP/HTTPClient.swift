import CCurl
import Foundation

/// A plain HTTP client over libcurl for the commands that talk to our own services.
struct HTTPClient: Sendable {
    struct Response: Sendable {
        var status: Int
        var body: Data
    }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Sends `Authorization: Bearer …` when there is a key.
    var apiKey = ""
    var timeoutSeconds = 300

    func get(_ url: String) async throws -> Response { try await send("GET", url, body: nil, contentType: nil) }

    func post(_ url: String, _ body: Data, contentType: String) async throws -> Response {
        try await send("POST", url, body: body, contentType: contentType)
    }

    /// Runs one request on a thread of its own: libcurl blocks, and Swift's cooperative threads must not.
    private func send(_ method: String, _ url: String, body: Data?, contentType: String?) async throws -> Response {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try perform(method, url, body: body, contentType: contentType) }) }
        }
    }

    private func perform(_ method: String, _ url: String, body: Data?, contentType: String?) throws -> Response {
        guard let handle = curl_easy_init() else { throw Failure(description: "libcurl could not start") }
        defer { curl_easy_cleanup(handle) }
        final class Received { var data = Data() }
        let received = Received()
        var headers: UnsafeMutablePointer<curl_slist>?
        defer { curl_slist_free_all(headers) }
        headers = curl_slist_append(headers, "Expect:")
        if let contentType { headers = curl_slist_append(headers, "Content-Type: \(contentType)") }
        if !apiKey.isEmpty { headers = curl_slist_append(headers, "Authorization: Bearer \(apiKey)") }
        _ = ccurl_set_string(handle, CURLOPT_URL, url)
        _ = ccurl_set_headers(handle, headers)
        _ = ccurl_set_long(handle, CURLOPT_TIMEOUT, timeoutSeconds)
        _ = ccurl_set_long(handle, CURLOPT_NOSIGNAL, 1)
        _ = ccurl_set_string(handle, CURLOPT_PROXY, "")
        _ = ccurl_set_write(
            handle,
            { bytes, size, count, context in
                let received = Unmanaged<Received>.fromOpaque(context!).takeUnretainedValue()
                received.data.append(UnsafeRawPointer(bytes!).assumingMemoryBound(to: UInt8.self), count: size * count)
                return size * count
            }, Unmanaged.passUnretained(received).toOpaque())
        let bytes = body.map { [UInt8]($0) } ?? []
        let code = bytes.withUnsafeBytes { buffer -> CURLcode in
            if method == "POST" {
                _ = ccurl_set_long(handle, CURLOPT_POST, 1)
                _ = ccurl_set_offset(handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(buffer.count))
                _ = ccurl_set_body(handle, buffer.baseAddress)
            }
            return curl_easy_perform(handle)
        }
        guard code == CURLE_OK else {
            throw Failure(description: "\(method) \(url): \(String(cString: curl_easy_strerror(code)))")
        }
        var status = 0
        _ = ccurl_get_long(handle, CURLINFO_RESPONSE_CODE, &status)
        return withExtendedLifetime(received) { Response(status: status, body: received.data) }
    }
}
