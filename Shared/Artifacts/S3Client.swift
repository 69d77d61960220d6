import Foundation

/// One S3 service: requests signed by libcurl, errors in the service's own words. Every call blocks and belongs on a transfer thread.
final class S3Client: Sendable {
    let configuration: S3Configuration
    private let credentials: S3CredentialProvider

    /// Whose transfers these are, when they are counted.
    var host: String { configuration.endpoint ?? "s3" }

    init(configuration: S3Configuration) {
        self.configuration = configuration
        credentials = S3CredentialProvider(configuration: configuration)
    }

    /// A URL that lets anybody read the object for a while.
    func presign(_ object: ArtifactURL, seconds: Int, date: Date, on handle: TransferThreads.Handle) throws(ArtifactError) -> String {
        guard (1...604_800).contains(seconds) else {
            throw .invalid(url: object.shown, reason: "a presigned URL is good for 1 second to 7 days, not \(seconds) seconds")
        }
        return S3Signer.presign(
            try configuration.location(of: object), credentials: try credentials.credentials(for: object.shown, on: handle),
            region: configuration.region, date: date, seconds: seconds)
    }

    /// One signed request; an error status is thrown, except those in `accepting`.
    /// - Parameters:
    ///   - query: sorted by key, each key with a `=`, values percent-encoded: libcurl 7.88 signs it as it stands and wrongly without `=`.
    ///   - bodyDigest: the hexadecimal SHA-256 of the body, which the signature covers.
    func send(
        _ method: String, _ object: ArtifactURL, query: String? = nil, headers: [String] = [], body: UploadSource? = nil,
        bodyDigest: String = SHA256.hexDigest(of: [UInt8]()), into receiver: (any HTTPTransfer.Receiver)? = nil, accepting: Set<Int> = [],
        limits: TransferLimits, cancelled: Cancellation, on handle: TransferThreads.Handle
    ) throws(ArtifactError) -> HTTPTransfer.Outcome {
        let found = try credentials.credentials(for: object.shown, on: handle)
        var headers = headers + ["x-amz-content-sha256: \(bodyDigest)"]
        if let token = found.token { headers.append("x-amz-security-token: \(token)") }
        let url = try configuration.location(of: object, query: query)
        let signature = HTTPTransfer.Signature(
            accessKey: found.accessKey, secretKey: found.secretKey, provider: "aws:amz:\(configuration.region):s3")
        let transfer = HTTPTransfer(url: url, limits: limits, cancelled: cancelled, headers: headers, signature: signature)
        let outcome = try transfer.send(method, on: handle, from: body, into: receiver)
        if (200..<300).contains(outcome.status) || accepting.contains(outcome.status) { return outcome }
        throw failure(outcome, object)
    }

    private func failure(_ outcome: HTTPTransfer.Outcome, _ object: ArtifactURL) -> ArtifactError {
        let answer = S3ErrorAnswer(outcome.errorBody)
        let code = answer.code ?? ""
        let shown = object.shown
        // The region is in the header, in the body, or nowhere.
        let region = outcome.bucketRegion ?? answer.element("Region")
        if (300..<400).contains(outcome.status) || code == "AuthorizationHeaderMalformed" {
            let place = region.map { "the bucket is in the region \($0), not \(configuration.region): set AWS_REGION=\($0)" }
            let endpoint = answer.element("Endpoint").map { "the bucket is served by \($0.prefix(200))" }
            return .service(
                url: shown, status: outcome.status, code: code.isEmpty ? "PermanentRedirect" : code,
                reason: place ?? endpoint ?? answer.message ?? "the bucket is in another region or at another endpoint than AWS_REGION says"
            )
        }
        if code == "NoSuchKey" || (code.isEmpty && [404, 410].contains(outcome.status)) {
            return .notFound(url: shown, status: outcome.status)
        }
        if ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"].contains(code) { credentials.forget() }
        guard !code.isEmpty else { return .rejected(url: shown, status: outcome.status) }
        let advice: String? =
            switch code {
            case "NoSuchBucket": "there is no bucket \(object.host)"
            case "AccessDenied": "these credentials may not do that"
            case "SignatureDoesNotMatch": "the secret key is not that of the access key, or something on the way changes requests"
            case "InvalidAccessKeyId": "the service does not know the access key"
            case "RequestTimeTooSkewed": "this machine's clock is wrong"
            default: nil
            }
        let reason = [advice, answer.message].compactMap(\.self).joined(separator: "; ")
        return .service(url: shown, status: outcome.status, code: code, reason: reason)
    }
}

/// The XML of an error. Only a few elements without attributes are of interest, so that no XML parser is needed.
struct S3ErrorAnswer {
    private let text: String

    init(_ bytes: [UInt8]) { text = String(decoding: bytes, as: UTF8.self) }

    /// It is an error at all; `CompleteMultipartUpload` may say so under status 200.
    var isError: Bool { text.contains("<Error>") }
    var code: String? { element("Code") }
    var message: String? { element("Message") }

    /// The content of the first such element, short and printable.
    func element(_ name: String) -> String? {
        guard let start = text.firstRange(of: "<\(name)>"), let end = text[start.upperBound...].firstRange(of: "</\(name)>") else {
            return nil
        }
        var content = String(text[start.upperBound..<end.lowerBound])
        for (entity, character) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#34;", "\""), ("&amp;", "&")] {
            content = content.replacing(entity, with: character)
        }
        return String(content.prefix(1024).unicodeScalars.map { $0.value < 0x20 ? " " : Character($0) })
    }
}
