import CLibcrypto
import Foundation

/// AWS Signature Version 4 in a URL's query, which libcurl does not do. Header signatures are libcurl's.
enum S3Signer {
    /// A URL that anybody may use until it expires.
    /// - Parameters:
    ///   - url: the object's HTTP URL; its path is encoded as signatures want it.
    ///   - seconds: how long it is good for, at most a week.
    static func presign(
        _ url: ArtifactURL, method: String = "GET", credentials: S3Credentials, region: String, date: Date, seconds: Int
    ) -> String {
        let stamp = timestamp(date)
        let scope = "\(stamp.prefix(8))/\(region)/s3/aws4_request"
        var query = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"), ("X-Amz-Credential", "\(credentials.accessKey)/\(scope)"), ("X-Amz-Date", stamp),
            ("X-Amz-Expires", String(seconds)), ("X-Amz-SignedHeaders", "host"),
        ]
        if let token = credentials.token { query.append(("X-Amz-Security-Token", token)) }
        // The order is part of what is signed.
        let canonicalQuery = query.map { "\(encoded($0))=\(encoded($1))" }.sorted().joined(separator: "&")
        let text = url.requestText
        let authority = text[text.firstRange(of: "://")!.upperBound...].prefix { $0 != "/" }
        let path = "/" + url.segments.joined(separator: "/")
        let request = "\(method)\n\(path)\n\(canonicalQuery)\nhost:\(authority)\n\nhost\nUNSIGNED-PAYLOAD"
        let signed = "AWS4-HMAC-SHA256\n\(stamp)\n\(scope)\n\(SHA256.hexDigest(of: Array(request.utf8)))"
        var key = Array("AWS4\(credentials.secretKey)".utf8)
        for part in scope.split(separator: "/") { key = hmac(key, String(part)) }
        return "\(text)?\(canonicalQuery)&X-Amz-Signature=\(SHA256.hex(hmac(key, signed)))"
    }

    /// HMAC-SHA-256 (RFC 2104) by libcrypto.
    static func hmac(_ key: [UInt8], _ text: String) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 32)
        var length = 0
        let bytes = Array(text.utf8)
        // Fails only without memory.
        let done = EVP_Q_mac(nil, "HMAC", nil, "SHA256", nil, key, key.count, bytes, bytes.count, &result, result.count, &length)
        precondition(done != nil && length == 32, "libcrypto has no HMAC")
        return result
    }

    private static func encoded(_ text: String) -> String { ArtifactPolicy.percentEncoded(text).replacing("/", with: "%2F") }

    /// `20260131T235959Z`.
    static func timestamp(_ date: Date) -> String {
        var seconds = time_t(date.timeIntervalSince1970.rounded(.down))
        var fields = tm()
        gmtime_r(&seconds, &fields)
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let day = "\(fields.tm_year + 1900)\(two(fields.tm_mon + 1))\(two(fields.tm_mday))"
        return "\(day)T\(two(fields.tm_hour))\(two(fields.tm_min))\(two(fields.tm_sec))Z"
    }
}
