import Testing

@testable import Artifacts

@Suite("What may be fetched")
struct PolicyTests {
    private let policy = try! ArtifactPolicy(
        allow: ["http://127.0.0.1:9000/latents/", "https://CDN.example.com", "file:///srv/shared/"], fileRoots: ["/data/with space"])

    @Test(
        "what a prefix covers is allowed",
        arguments: [
            "http://127.0.0.1:9000/latents/a.safetensors", "http://127.0.0.1:9000/latents/x/../a?X-Amz-Signature=1",
            "HTTP://127.0.0.1:9000/latents/a",
            "https://cdn.example.com/anything", "https://cdn.example.com:443/", "file:///srv/shared/a/b", "file:///data/with%20space/c",
        ])
    func allowed(url: String) throws { try policy.check(url) }

    @Test(
        "what only looks like a prefix is forbidden",
        arguments: [
            "http://127.0.0.1:9000/latents-evil/a", "http://127.0.0.1:9000/", "http://127.0.0.1:9000/latents/../secret",
            "http://127.0.0.1:9000/latents/%2e%2e/secret", "http://127.0.0.1:90001/latents/a", "http://127.0.0.1/latents/a",
            "https://127.0.0.1:9000/latents/a", "https://cdn.example.com.evil.org/a", "http://cdn.example.com/a",
            "https://cdn.example.com:8443/a",
            "https://cdn.example.com@evil.org/a", "https://user:pw@cdn.example.com/a", "http://169.254.169.254/latest/meta-data/",
            "http://[::ffff:127.0.0.1]:9000/latents/a", "http://2130706433:9000/latents/a", "file:///etc/passwd",
            "file:///srv/shared/../secret",
            "file:///srv/shared", "file://evil.org/srv/shared/a", "file:///srv/shared2/a", "ftp://cdn.example.com/a",
            "gopher://127.0.0.1:9000/latents/a",
            "s3://bucket/key", "https://cdn.example.com\\@evil.org/a", "https://cdn.example.com/a#b", "https://cdn.example.com/a b",
            "https://cdn.example.com/a%2f..%2fb", "https://cdn.example.com/a%00b", "https://cdn.example.com/%zz", "/etc/passwd", "",
            "https://",
            "https:///a", "https://cdn.exämple.com/a", "http://127.0.0.1:9000/../latents/a",
        ])
    func forbidden(url: String) { #expect(throws: ArtifactError.self) { try policy.check(url) } }

    @Test("nothing is allowed by default, and the whole file system never")
    func empty() throws {
        let none = try ArtifactPolicy(allow: [])
        #expect(throws: ArtifactError.self) { try none.check("https://example.com/") }
        #expect(throws: ArtifactError.self) { try ArtifactPolicy(allow: ["file:///"]) }
        #expect(throws: ArtifactError.self) { try ArtifactPolicy(allow: [], fileRoots: ["/"]) }
        #expect(throws: ArtifactError.self) { try ArtifactPolicy(allow: ["example.com"]) }
    }

    @Test("a message names the URL without its query, and the setting")
    func message() throws {
        let error = try #require(throws: ArtifactError.self) { try policy.check("https://other.example.com/a?signature=secret") }
        #expect("\(error)".contains("https://other.example.com/a"))
        #expect("\(error)".contains("FORETASTE_ARTIFACTS_ALLOW"))
        #expect(!"\(error)".contains("secret"))
    }

    @Test(
        "addresses are told apart, in every disguise",
        arguments: [
            ("127.0.0.1", NetworkAddress.Kind.loopback), ("127.9.9.9", .loopback), ("::1", .loopback), ("::ffff:127.0.0.1", .loopback),
            ("64:ff9b::7f00:1", .loopback), ("2002:7f00:1::", .loopback), ("169.254.169.254", .linkLocal),
            ("::ffff:169.254.169.254", .linkLocal),
            ("64:ff9b::a9fe:a9fe", .linkLocal), ("fe80::1", .linkLocal), ("fd00:ec2::254", .metadata), ("100.100.100.200", .metadata),
            ("168.63.129.16", .metadata), ("10.1.2.3", .private), ("172.16.0.1", .private), ("172.31.255.255", .private),
            ("192.168.1.1", .private),
            ("100.64.0.1", .private), ("fd12::1", .private), ("fec0::1", .private), ("0.0.0.0", .special), ("::", .special),
            ("224.0.0.1", .special),
            ("255.255.255.255", .special), ("ff02::1", .special), ("8.8.8.8", .public), ("172.32.0.1", .public), ("2606:4700::1", .public),
            ("::ffff:0:127.0.0.1", .loopback), ("::127.0.0.1", .loopback), ("64:ff9b:1::7f00:1", .special), ("2001:0:1::1", .special),
            ("::ffff:10.0.0.1", .private), ("64:ff9b::6464:64c8", .metadata), ("::ffff:8.8.8.8", .public), ("::8.8.8.8", .public),
        ] as [(String, NetworkAddress.Kind)])
    func kinds(literal: String, kind: NetworkAddress.Kind) throws {
        #expect(try #require(NetworkAddress(literal: literal)).kind == kind)
    }

    @Test("a name may lead to public and private addresses, localhost to loopback, a literal to itself")
    func refusals() {
        func refused(_ host: String, _ address: String) -> Bool {
            ArtifactPolicy.refusal(host: host, address: NetworkAddress(literal: address)) != nil
        }
        #expect(!refused("minio", "10.0.0.5"))
        #expect(!refused("cdn.example.com", "8.8.8.8"))
        #expect(refused("cdn.example.com", "127.0.0.1"))
        #expect(refused("cdn.example.com", "::ffff:127.0.0.1"))
        #expect(refused("cdn.example.com", "169.254.169.254"))
        #expect(refused("localhost", "169.254.169.254"))
        #expect(!refused("localhost", "::1"))
        #expect(!refused("127.0.0.1", "127.0.0.1"))
        #expect(refused("127.0.0.1", "127.0.0.2"))
        #expect(refused("127.1", "127.0.0.1"))
        #expect(refused("minio", "not an address"))
    }
}
