import Artifacts
import Testing

@testable import Ingest

/// The glance at a URL may know less than the parser, and never more.
@Suite struct PlainURLTests {
    @Test func whatIsPlainIsWellFormed() throws {
        let parser = try ArtifactPolicy(allow: [])
        func isWellFormed(_ text: String) -> Bool {
            do {
                try parser.check(text)
            } catch ArtifactError.invalid {
                return false
            } catch {
                // Forbidden: nothing is allowed.
            }
            return true
        }
        for plain in [
            "http://127.0.0.1:9000/a.safetensors", "https://host/", "http://a-b.c:1/x/y_z~/q.w?X-Amz-Signature=a%20b&c=@",
            "HTTP://host/x".lowercased(), "http://h//x", "http://h/x?", "http://h:65535/1",
        ] {
            #expect(PlainURL.isOne(plain) && isWellFormed(plain), "\(plain)")
        }
        for other in [
            "", "http://", "http:///x", "http://h:0/x", "http://h:65536/x", "http://h:/x", "http://h/../x", "http://h/.", "http://h/a%2Fb",
            "http://u@h/x", "http://h/x#f", "http://h/ x", "http://h/x?a b", "ftp://h/x", "http://h/é", "http://[::1]/x", "file:///a",
            "http://h\\x/",
        ] {
            #expect(!PlainURL.isOne(other), "\(other)")
        }
        // Whatever is thrown together.
        var generator = Numbers()
        let parts = [
            "http://", "https://", "host", "1", ":", "80", "/", "//", ".", "..", "%", "%2e", "?", "#", "@", "[", "]", " ", "é", "-", "_",
            "~", "a",
        ]
        var plain = 0
        for _ in 0..<20_000 {
            let text =
                "http://" + (0..<Int.random(in: 1...8, using: &generator)).map { _ in parts.randomElement(using: &generator)! }.joined()
            guard PlainURL.isOne(text) else { continue }
            plain += 1
            #expect(isWellFormed(text), "\(text)")
        }
        #expect(plain > 100)
    }

    /// The same numbers every time.
    private struct Numbers: RandomNumberGenerator {
        var state: UInt64 = 7

        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ (state >> 29)
        }
    }
}
