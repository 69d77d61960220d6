import Foundation
import Synchronization

/// Stores one object, in parts when it is large. Nothing half-written is left: an object appears whole, and the parts of an upload that failed
/// are deleted.
struct S3Upload {
    let client: S3Client
    let object: ArtifactURL
    let limits: TransferLimits
    let handle: TransferThreads.Handle
    let cancelled: Cancellation
    /// The first pause before another attempt, in seconds.
    var firstDelay = 0.25

    /// Stores everything of `source`, whose SHA-256 is `digest`.
    func store(_ source: UploadSource, digest: String, mediaType: String) throws(ArtifactError) {
        let headers = ["Content-Type: \(mediaType)", "x-amz-meta-sha256: \(digest)"]
        guard source.count > client.configuration.multipartThreshold else {
            _ = try request("PUT", headers: headers, body: source, digest: digest)
            return
        }
        let created = SmallBody(url: object.shown)
        _ = try request("POST", query: "uploads=", headers: headers, body: UploadSource(bytes: []), into: created)
        guard let upload = S3ErrorAnswer(created.bytes).element("UploadId") else {
            throw .service(url: object.shown, status: 200, code: "InvalidAnswer", reason: "the service began an upload without naming it")
        }
        let name = ArtifactPolicy.percentEncoded(upload).replacing("/", with: "%2F")
        do throws(ArtifactError) {
            let tags = try sendParts(of: source, upload: name)
            try complete(upload: name, tags: tags, digest: digest, count: source.count)
        } catch {
            abort(upload: name)
            // This one is to be told, whatever became of the parts.
            throw error
        }
    }

    /// Deletes the parts, of an upload that was cancelled as well. A part that the service had not finished when it was told so may stay: it is
    /// asked, and told again.
    private func abort(upload: String) {
        let last = S3Upload(client: client, object: object, limits: limits, handle: handle, cancelled: Cancellation())
        for _ in 0..<3 {
            // 404: there is nothing to delete any more.
            _ = try? last.request("DELETE", query: "uploadId=\(upload)", accepting: [404])
            guard let left = try? last.request("GET", query: "uploadId=\(upload)", into: SmallBody(url: object.shown)), left.status == 200
            else { return }
        }
    }

    private func sendParts(of source: UploadSource, upload: String) throws(ArtifactError) -> [String] {
        // At most 10,000 parts.
        let size = max(client.configuration.partBytes, (source.count + 9_999) / 10_000)
        let count = (source.count + size - 1) / size
        let (next, tags) = (Counter(), Tags(count))
        let (client, object, limits) = (client, object, limits)
        let crew = TransferCrew(
            cancelled: cancelled,
            next: {
                let index = next.value.withLock { value in
                    defer { value += 1 }
                    return value
                }
                return index < count ? index : nil
            },
            body: { (index, handle, cancelled) throws(ArtifactError) in
                let part = source.slice(from: index * size, count: min(size, source.count - index * size))
                guard let digest = part.digest() else { throw .storage(path: object.shown, reason: "what should be stored cannot be read") }
                let outcome = try S3Upload(client: client, object: object, limits: limits, handle: handle, cancelled: cancelled)
                    .request("PUT", query: "partNumber=\(index + 1)&uploadId=\(upload)", body: part, digest: digest)
                guard let tag = outcome.entityTag else {
                    throw .service(
                        url: object.shown, status: outcome.status, code: "InvalidAnswer", reason: "a part was stored without an ETag")
                }
                tags.value.withLock { $0[index] = tag }
            })
        crew.start(helpers: min(limits.parallelTransfers, count) - 1, host: client.host)
        try crew.finish(on: handle)
        return tags.value.withLock(\.self)
    }

    /// The next part that nobody sends yet.
    private final class Counter: Sendable {
        let value = Mutex(0)
    }

    /// What the parts were stored as.
    private final class Tags: Sendable {
        let value: Mutex<[String]>
        init(_ count: Int) { value = Mutex(Array(repeating: "", count: count)) }
    }

    private func complete(upload: String, tags: [String], digest: String, count: Int) throws(ArtifactError) {
        let parts = tags.enumerated().map { index, tag in
            let escaped = tag.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing("\"", with: "&quot;")
            return "<Part><PartNumber>\(index + 1)</PartNumber><ETag>\(escaped)</ETag></Part>"
        }
        let list = Array(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\(parts.joined())</CompleteMultipartUpload>".utf8)
        do throws(ArtifactError) {
            let answer = SmallBody(url: object.shown)
            _ = try request(
                "POST", query: "uploadId=\(upload)", headers: ["Content-Type: application/xml"], body: UploadSource(bytes: list),
                digest: SHA256.hexDigest(of: list), into: answer)
        } catch .service(let url, let status, "NoSuchUpload", let reason) {
            // An attempt whose answer was lost may have succeeded: then the object is there, and ours.
            let outcome = try request("HEAD")
            guard outcome.storedDigest == digest, outcome.length == count else {
                throw .service(url: url, status: status, code: "NoSuchUpload", reason: reason)
            }
        }
    }

    /// A request with as many attempts as a fetch has.
    private func request(
        _ method: String, query: String? = nil, headers: [String] = [], body: UploadSource? = nil,
        digest: String = SHA256.hexDigest(of: [UInt8]()), into answer: SmallBody? = nil, accepting: Set<Int> = []
    ) throws(ArtifactError) -> HTTPTransfer.Outcome {
        var delay = firstDelay
        var attempt = 1
        while true {
            do throws(ArtifactError) {
                _ = body?.seek(to: 0)
                answer?.clear()
                let outcome = try client.send(
                    method, object, query: query, headers: headers, body: body, bodyDigest: digest, into: answer, accepting: accepting,
                    limits: limits, cancelled: cancelled, on: handle)
                let said = S3ErrorAnswer(answer?.bytes ?? [])
                guard !said.isError else {
                    // A success that turned out to be none, after the status had been sent.
                    throw ArtifactError.service(
                        url: object.shown, status: 500, code: said.code ?? "InternalError", reason: said.message ?? "")
                }
                return outcome
            } catch {
                guard !error.isPermanent, attempt < limits.attempts, !cancelled.isCancelled else { throw error }
            }
            // This is one of our own threads, which may wait.
            cancelled.wait(delay * Double.random(in: 0.5...1.5))
            delay *= 2
            attempt += 1
        }
    }
}
