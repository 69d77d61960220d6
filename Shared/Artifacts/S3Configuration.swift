import Foundation

/// How `s3://` is spoken: where, in which region, and where credentials come from. It takes the usual variables of Amazon's tools.
public struct S3Configuration: Sendable {
    /// Another server than Amazon's, such as `http://minio:9000`.
    public var endpoint: String?
    /// The region that requests are signed for.
    public var region: String
    /// The bucket stands in the path and not in the host's name. On when there is an endpoint of your own, unless it is turned off.
    public var pathStyle: Bool
    /// The variables that credentials are looked for in.
    let variables: [String: String]
    let profile: AWSProfile
    /// Objects with more bytes go up in parts.
    var multipartThreshold = 16 << 20
    /// A part's size; larger when there would be more than 10,000. S3 wants at least 5 MiB.
    var partBytes = 8 << 20

    /// Reads `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_DEFAULT_REGION`, `FORETASTE_S3_PATH_STYLE`, `AWS_PROFILE` and the
    /// profile in `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE`; credentials are read when first needed.
    public init(environment: [String: String]) {
        func value(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
        variables = environment
        profile = AWSProfile(environment: environment)
        endpoint = value("AWS_ENDPOINT_URL_S3") ?? value("AWS_ENDPOINT_URL") ?? profile.settings["endpoint_url"]
        region = value("AWS_REGION") ?? value("AWS_DEFAULT_REGION") ?? profile.settings["region"] ?? "us-east-1"
        switch value("FORETASTE_S3_PATH_STYLE")?.lowercased() {
        case "1", "true", "yes", "on": pathStyle = true
        case "0", "false", "no", "off": pathStyle = false
        default: pathStyle = endpoint != nil
        }
    }

    /// The request's URL for an object, its key encoded as signatures want it: everything but letters, digits and `-._~/`.
    func location(of object: ArtifactURL, query: String? = nil) throws(ArtifactError) -> ArtifactURL {
        guard region.utf8.allSatisfy({ $0 == UInt8(ascii: "-") || ArtifactPolicy.isUnreserved($0) }), !region.isEmpty else {
            throw .invalid(url: object.shown, reason: "AWS_REGION is '\(region.prefix(60))', which is no region's name")
        }
        let bucket = object.host
        let base = try ArtifactURL(endpoint ?? "https://s3.\(region).amazonaws.com")
        guard ["http", "https"].contains(base.scheme), base.query == nil else {
            throw .invalid(url: base.shown, reason: "an S3 endpoint (AWS_ENDPOINT_URL_S3) is http://… or https://… without a query")
        }
        // A certificate's wildcard covers one label, so a bucket with dots cannot stand in the host's name.
        let inPath = pathStyle || bucket.contains(".") || NetworkAddress(literal: base.host) != nil
        let host = base.host.contains(":") ? "[\(base.host)]" : base.host
        var path = base.segments + (inPath ? [bucket] : [])
        path += object.decodedSegments.map { ArtifactPolicy.percentEncoded($0) }
        let authority = "\(inPath ? "" : bucket + ".")\(host):\(base.port)"
        return try ArtifactURL("\(base.scheme)://\(authority)/\(path.joined(separator: "/"))" + (query.map { "?" + $0 } ?? ""))
    }

    /// An `s3://bucket/key` that names an object.
    static func check(object: ArtifactURL) throws(ArtifactError) {
        guard !object.segments.isEmpty, !object.isFolder else {
            throw .invalid(url: object.shown, reason: "it names no object: write s3://bucket/key")
        }
        try check(bucket: object)
    }

    static func check(bucket: ArtifactURL) throws(ArtifactError) {
        let legal = bucket.host.utf8.allSatisfy { ArtifactPolicy.isUnreserved($0) && $0 != UInt8(ascii: "~") }
        guard legal, bucket.port == 443, bucket.query == nil else {
            throw .invalid(url: bucket.shown, reason: "its bucket is no bucket's name, or it has a port or a query: write s3://bucket/key")
        }
    }
}

/// One profile of `~/.aws/config` and `~/.aws/credentials`.
struct AWSProfile: Sendable {
    let name: String
    /// The settings of both files; those of the credentials file win.
    let settings: [String: String]

    init(environment: [String: String]) {
        let name = environment["AWS_PROFILE"].flatMap { $0.isEmpty ? nil : $0 } ?? "default"
        let folder = environment["HOME"].map { $0 + "/.aws" }
        func read(_ variable: String, _ file: String, _ section: String) -> [String: String] {
            guard let path = environment[variable] ?? folder.map({ "\($0)/\(file)" }), let data = FileManager.default.contents(atPath: path)
            else { return [:] }
            return Self.section(section, of: String(decoding: data, as: UTF8.self))
        }
        self.name = name
        let config = read("AWS_CONFIG_FILE", "config", name == "default" ? "default" : "profile \(name)")
        settings = config.merging(read("AWS_SHARED_CREDENTIALS_FILE", "credentials", name)) { $1 }
    }

    /// A section's settings; nested ones, which are indented, belong to other features.
    static func section(_ name: String, of text: String) -> [String: String] {
        var settings: [String: String] = [:]
        var isInside = false
        for line in text.split(whereSeparator: \.isNewline) {
            let trimmed = line.trimmingCharacters(in: .whitespaces)
            if trimmed.hasPrefix("[") {
                let words = trimmed.dropFirst().prefix { $0 != "]" }.split(separator: " ")
                isInside = words.joined(separator: " ") == name
            } else if isInside, let first = line.first, !first.isWhitespace, first != "#", first != ";",
                let equals = line.firstIndex(of: "=")
            {
                let key = line[..<equals].trimmingCharacters(in: .whitespaces).lowercased()
                settings[key] = line[line.index(after: equals)...].trimmingCharacters(in: .whitespaces)
            }
        }
        return settings
    }
}
