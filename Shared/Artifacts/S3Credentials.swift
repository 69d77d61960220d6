import Foundation
import Synchronization

/// What requests are signed with.
struct S3Credentials: Sendable, Equatable {
    let accessKey: String
    let secretKey: String
    var token: String?
    /// When they must have been replaced; `nil` for those that a person wrote down.
    var expires: Date?
}

/// Finds credentials where Amazon's own tools look, in their order: environment, profile, container service, instance service (IMDSv2 only).
/// Temporary ones are asked for again five minutes before they end.
final class S3CredentialProvider: Sendable {
    private let variables: [String: String]
    private let profile: AWSProfile
    private let kept = Mutex<S3Credentials?>(nil)

    init(configuration: S3Configuration) {
        variables = configuration.variables
        profile = configuration.profile
    }

    /// The server said that they have ended.
    func forget() { kept.withLock { $0 = nil } }

    /// Credentials for the object at `url`, which only stands in messages. Blocks.
    func credentials(for url: String, on handle: TransferThreads.Handle) throws(ArtifactError) -> S3Credentials {
        if let known = kept.withLock({ $0 }), known.expires.map({ $0.timeIntervalSinceNow > 300 }) ?? true { return known }
        var first = written()
        if first == nil { first = try fromContainer(on: handle) }
        if first == nil { first = try fromInstance(on: handle) }
        guard let found = first else {
            throw .invalid(
                url: url,
                reason: "no S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write the profile "
                    + "[\(profile.name)] into ~/.aws/credentials")
        }
        for text in [found.accessKey, found.secretKey, found.token ?? ""] where text.utf8.contains(where: { $0 <= 0x20 || $0 >= 0x7f }) {
            throw .invalid(url: url, reason: "the S3 credentials have a character that no credentials have, such as a line's end")
        }
        kept.withLock { $0 = found }
        return found
    }

    private func value(_ name: String) -> String? { variables[name].flatMap { $0.isEmpty ? nil : $0 } }

    private func written() -> S3Credentials? {
        if let key = value("AWS_ACCESS_KEY_ID"), let secret = value("AWS_SECRET_ACCESS_KEY") {
            return S3Credentials(accessKey: key, secretKey: secret, token: value("AWS_SESSION_TOKEN"))
        }
        let settings = profile.settings
        guard let key = settings["aws_access_key_id"], let secret = settings["aws_secret_access_key"] else { return nil }
        return S3Credentials(accessKey: key, secretKey: secret, token: settings["aws_session_token"])
    }

    /// The service beside a container (ECS, EKS Pod Identity).
    private func fromContainer(on handle: TransferThreads.Handle) throws(ArtifactError) -> S3Credentials? {
        let relative = value("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map { "http://169.254.170.2" + $0 }
        guard let text = relative ?? value("AWS_CONTAINER_CREDENTIALS_FULL_URI") else { return nil }
        let url = try ArtifactURL(text)
        let own = ["127.0.0.1", "::1", "localhost", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"]
        guard url.scheme == "https" || (url.scheme == "http" && own.contains(url.host)) else {
            throw .invalid(url: url.shown, reason: "credentials are asked for over https, or from this machine's own service")
        }
        var token = value("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if let path = value("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            guard let data = FileManager.default.contents(atPath: path) else { throw .storage(path: path, reason: "cannot be read") }
            token = String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
        }
        return try parse(ask(url, headers: token.map { ["Authorization: \($0)"] } ?? [], on: handle), from: url)
    }

    /// The machine's own service. Its first version, without a token, is what forged requests reach, and is not used.
    private func fromInstance(on handle: TransferThreads.Handle) throws(ArtifactError) -> S3Credentials? {
        guard value("AWS_EC2_METADATA_DISABLED")?.lowercased() != "true" else { return nil }
        var base = value("AWS_EC2_METADATA_SERVICE_ENDPOINT") ?? "http://169.254.169.254"
        while base.hasSuffix("/") { base.removeLast() }
        let tokenURL = try ArtifactURL(base + "/latest/api/token")
        let token: [UInt8]
        do throws(ArtifactError) {
            token = try ask(tokenURL, method: "PUT", headers: ["X-aws-ec2-metadata-token-ttl-seconds: 21600"], on: handle)
        } catch {
            // Nobody there: this is no such machine.
            if case .unreachable = error { return nil }
            throw error
        }
        let headers = ["X-aws-ec2-metadata-token: \(String(decoding: token, as: UTF8.self))"]
        let roles = try ArtifactURL(base + "/latest/meta-data/iam/security-credentials/")
        let list = String(decoding: try ask(roles, headers: headers, on: handle), as: UTF8.self)
        guard let role = list.split(whereSeparator: \.isNewline).first else { return nil }
        let url = try ArtifactURL(roles.requestText + ArtifactPolicy.percentEncoded(String(role)))
        return try parse(ask(url, headers: headers, on: handle), from: url)
    }

    private func ask(
        _ url: ArtifactURL, method: String = "GET", headers: [String], on handle: TransferThreads.Handle
    ) throws(ArtifactError) -> [UInt8] {
        let limits = TransferLimits(connectSeconds: 1, totalSeconds: 5)
        let body = SmallBody(url: url.shown)
        let transfer = HTTPTransfer(url: url, limits: limits, cancelled: Cancellation(), headers: headers)
        let outcome = try transfer.send(method, on: handle, from: method == "PUT" ? UploadSource(bytes: []) : nil, into: body)
        guard (200..<300).contains(outcome.status) else { throw .rejected(url: url.shown, status: outcome.status) }
        return body.bytes
    }

    private struct Answer: Decodable {
        let AccessKeyId: String
        let SecretAccessKey: String
        let Token: String?
        let Expiration: String?
    }

    private func parse(_ json: [UInt8], from url: ArtifactURL) throws(ArtifactError) -> S3Credentials {
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(json)) else {
            throw .invalid(url: url.shown, reason: "its answer is no JSON with AccessKeyId and SecretAccessKey")
        }
        let expires = answer.Expiration.flatMap { try? Date($0, strategy: .iso8601) }
        return S3Credentials(accessKey: answer.AccessKeyId, secretKey: answer.SecretAccessKey, token: answer.Token, expires: expires)
    }
}

/// An answer that is small enough for memory: a list, a token, an error.
final class SmallBody: HTTPTransfer.Receiver {
    private(set) var bytes: [UInt8] = []
    private let url: String
    private let limit = 1 << 18

    init(url: String) { self.url = url }

    func begin(_ head: HTTPTransfer.Head) {}

    func clear() { bytes = [] }

    func receive(_ more: UnsafeRawBufferPointer) throws(ArtifactError) -> Bool {
        guard bytes.count + more.count <= limit else { throw .tooLarge(url: url, limit: limit) }
        bytes += more
        return true
    }
}
