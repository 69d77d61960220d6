import Foundation
import Postgres
import Preferences
import Testing

@testable import Ingest

/// What becomes of posted pairs when their artifacts are looked at.
@Suite struct VerificationTests {
    private let good = LatentSample()

    @Test func aSoundPairBecomesUsable() async throws {
        try await RunningIngest.with { ingest in
            try await ModelRegistry(client: ingest.client).register(wanTest)
            let stored = try await ingest.settle(
                pair("1", ingest.server.put("a", good.bytes), ingest.server.put("b", good.with { $0.value = -0.5 }.bytes)))
            #expect(stored.state == "usable", "\(stored.reason ?? "")")
            #expect(stored.reason == nil)
            let known = try #require(try await ingest.store.get(stored.id))
            #expect(known.backbone == "wan-test" && known.shape == [4, 3, 2, 2])
            let fetches = try await ArtifactFetchLog(client: ingest.client).list()
            #expect(fetches.map(\.service) == ["ingest", "ingest"])
            #expect(fetches.allSatisfy { $0.bytes > 0 })
        }
    }

    @Test func anImageIsAsGoodAsAClip() async throws {
        try await RunningIngest.with { ingest in
            let image = good.with {
                $0.latents = [4, 8, 8]
                $0.condition = nil
                $0.metadata["layout"] = "CHW"
                $0.metadata["noise.kind"] = "vp_eps"
                $0.metadata["backbone"] = "sd-unregistered"
            }
            let stored = try await ingest.settle(pair("1", ingest.server.put("a", image.bytes), ingest.server.put("b", image.bytes)))
            #expect(stored.state == "usable", "\(stored.reason ?? "")")
        }
    }

    /// Each: what is wrong with side a, and what the reason must say.
    @Test func whatIsWrongWithAFileIsNamed() async throws {
        try await RunningIngest.with { ingest in
            try await ModelRegistry(client: ingest.client).register(wanTest)
            let flawed: [(String, LatentSample, [String])] = [
                ("channels", good.with { $0.latents = [5, 3, 2, 2] }, ["/a latents", "5 channels", "wan-test:1"]),
                ("condition missing", good.with { $0.condition = nil }, ["/a condition", "missing"]),
                ("condition channels", good.with { $0.condition = [3, 3, 2, 2] }, ["/a condition", "3 channels"]),
                ("condition shape", good.with { $0.condition = [2, 3, 4, 4] }, ["/a condition", "[2, 3, 4, 4]"]),
                ("noise kind", good.with { $0.metadata["noise.kind"] = "vp_eps" }, ["/a metadata noise.kind", "flow"]),
                ("noise kind unknown", good.with { $0.metadata["noise.kind"] = "edm" }, ["/a metadata noise.kind", "edm"]),
                ("sigma", good.with { $0.metadata["noise.sigma"] = "0.5" }, ["/a metadata noise.sigma", "0.5"]),
                ("sigma text", good.with { $0.metadata["noise.sigma"] = "none" }, ["/a metadata noise.sigma"]),
                ("space", good.with { $0.metadata["space"] = "vae_raw" }, ["/a metadata space", "normalised"]),
                ("layout", good.with { $0.metadata["layout"] = "FCHW" }, ["/a metadata layout", "CFHW, CHW"]),
                ("vae", good.with { $0.metadata["vae"] = nil }, ["/a metadata vae", "missing"]),
                ("backbone", good.with { $0.metadata["backbone"] = nil }, ["/a metadata backbone", "missing"]),
                ("batch axis", good.with { $0.latents = [1, 4, 3, 2, 2] }, ["/a latents", "batch axis"]),
                ("patch", good.with { ($0.latents, $0.condition) = ([4, 3, 3, 2], [2, 3, 3, 2]) }, ["/a latents", "patches"]),
                ("prompt missing", good.with { $0.promptEmbeds = nil }, ["/a prompt_embeds", "missing"]),
                ("prompt width", good.with { $0.promptEmbeds = [5, 9] }, ["/a prompt_embeds", "9 wide"]),
                ("nan", good.with { $0.value = .nan }, ["/a latents", "NaN"]),
                ("infinite", good.with { $0.value = .infinity }, ["/a latents", "NaN or infinite"]),
                ("raw", good.with { $0.value = 1e6 }, ["/a latents", "normalised"]),
            ]
            let sound = ingest.server.put("sound", good.bytes)
            let lines = try flawed.map { name, sample, _ in
                String(
                    decoding: try JSONEncoder().encode(
                        pair(name, ingest.server.put(name.replacing(" ", with: "-"), sample.bytes), sound)), as: UTF8.self)
            }
            let last = String(decoding: try JSONEncoder().encode(pair("fine", sound, sound, outcome: .tie)), as: UTF8.self)
            let bulk = try await ingest.postLines(lines + [last]).decode(PostTests.Bulk.self)
            for (line, (name, _, words)) in zip(bulk.results, flawed) {
                let stored = try await ingest.settled(try #require(line.id))
                #expect(stored.state == "quarantined", "\(name)")
                for word in words { #expect(stored.reason?.contains(word) == true, "\(name): \(stored.reason ?? "no reason")") }
            }
            // One bad pair in a batch never takes another with it.
            #expect(try await ingest.settled(try #require(bulk.results.last?.id)).state == "usable")
        }
    }

    @Test func bytesThatAreNoSoundFileAreNamed() async throws {
        try await RunningIngest.with { ingest in
            let sound = ingest.server.put("sound", good.bytes)
            func header(_ text: String, data: Int = 0) -> [UInt8] {
                (0..<8).map { UInt8(truncatingIfNeeded: text.utf8.count >> (8 * $0)) } + Array(text.utf8)
                    + [UInt8](repeating: 0, count: data)
            }
            let hostile: [(String, [UInt8])] = [
                ("empty", []), ("short", [1, 2, 3]), ("truncated", Array(good.bytes.dropLast(20))),
                ("huge header", [255, 255, 255, 255, 255, 255, 255, 127]), ("no header", header("hello there, no header")),
                ("huge shape", header(#"{"latents":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}"#, data: 16)),
                (
                    "overlap",
                    header(
                        #"{"latents":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#,
                        data: 16)
                ),
                ("outside", header(#"{"latents":{"dtype":"F32","shape":[4],"data_offsets":[1000,1016]}}"#, data: 16)),
                (
                    "duplicate",
                    header(
                        #"{"latents":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"latents":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#
                    )
                ),
            ]
            for (name, bytes) in hostile {
                let stored = try await ingest.settle(pair(name, sound, ingest.server.put(name.replacing(" ", with: "-"), bytes)))
                #expect(stored.state == "quarantined", "\(name)")
                #expect(stored.reason?.hasPrefix("/b file: ") == true, "\(name): \(stored.reason ?? "no reason")")
            }
            #expect(try await ingest.settle(pair("fine", sound, sound)).state == "usable")
        }
    }

    @Test func sidesThatCannotBeComparedAreNamed() async throws {
        try await RunningIngest.with { ingest in
            let sound = ingest.server.put("sound", good.bytes)
            let others: [(String, LatentSample, String)] = [
                ("vae", good.with { $0.metadata["vae"] = "other" }, "vae"),
                ("backbone", good.with { $0.metadata["backbone"] = "other" }, "backbone"),
                ("shape", good.with { ($0.latents, $0.condition) = ([4, 2, 2, 2], [2, 2, 2, 2]) }, "latents"),
                ("prompt", good.with { $0.promptEmbeds = [6, 8] }, "prompt_embeds"),
            ]
            for (name, sample, word) in others {
                let stored = try await ingest.settle(pair(name, sound, ingest.server.put(name, sample.bytes)))
                #expect(stored.state == "quarantined")
                #expect(
                    stored.reason?.hasPrefix("/a and /b differ in") == true && stored.reason?.contains(word) == true,
                    "\(stored.reason ?? "")")
            }
        }
    }

    @Test func artifactsThatCannotBeHadAreNamed() async throws {
        try await RunningIngest.with { ingest in
            let sound = ingest.server.put("sound", good.bytes)
            let digest = sound.sha256
            let other = String(repeating: "c", count: 64)
            let cases: [(String, PairSide, [String])] = [
                ("digest", PairSide(url: sound.url, sha256: other), ["/b/sha256", digest, other]),
                ("missing", PairSide(url: ingest.server.url + "/nothing?signature=secret", sha256: other), ["/b/url", "404"]),
                ("unreachable", PairSide(url: "http://127.0.0.1:1/b", sha256: other), ["/b/url", "cannot be reached", "2 tries"]),
                (
                    "forbidden", PairSide(url: "http://169.254.169.254/latest/meta-data", sha256: other),
                    ["/b/url", "FORETASTE_ARTIFACTS_ALLOW"]
                ),
                ("another port", PairSide(url: "http://127.0.0.1:2/b", sha256: other), ["/b/url", "FORETASTE_ARTIFACTS_ALLOW"]),
                ("file", PairSide(url: "file:///etc/passwd", sha256: other), ["/b/url", "allowed"]),
                ("climbing", PairSide(url: "file:///tmp/../etc/passwd", sha256: other), ["/b/url", "allowed"]),
                ("s3", PairSide(url: "s3://bucket/key", sha256: other), ["/b/url", "s3"]),
            ]
            var ids: [String] = []
            for (name, side, _) in cases { ids.append(try await ingest.post(pair(name, sound, side)).decode(RunningIngest.Stored.self).id) }
            for (id, (name, _, words)) in zip(ids, cases) {
                let stored = try await ingest.settled(id)
                #expect(stored.state == "quarantined", "\(name)")
                #expect(stored.reason?.contains("secret") == false)
                for word in words { #expect(stored.reason?.contains(word) == true, "\(name): \(stored.reason ?? "no reason")") }
            }
            #expect(try await ingest.store.summary() == PairSummary(received: 0, usable: 0, quarantined: cases.count))
            #expect(try await ingest.send("GET", "/livez").status == 200)
        }
    }

    @Test func anUnreachableArtifactHoldsUpNothingAndIsTakenWhenItComes() async throws {
        try await RunningIngest.with(["FORETASTE_INGEST_RETRY_SECONDS": "0.2,0.2,0.2,0.2,0.2,0.2,0.2,0.2"]) { ingest in
            let sound = ingest.server.put("sound", good.bytes)
            let late = good.with { $0.value = 0.125 }
            let side = ingest.server.put("late", late.bytes)
            // Nobody listens there.
            let away = PairSide(url: "http://127.0.0.1:1/late", sha256: side.sha256)
            let lines = try [pair("away", sound, away), pair("here", sound, sound)].map {
                String(decoding: try JSONEncoder().encode($0), as: UTF8.self)
            }
            let ids = try await ingest.postLines(lines).decode(PostTests.Bulk.self).results.compactMap(\.id)
            #expect(try await ingest.settled(ids[1]).state == "usable")
            #expect(try await ingest.store.get(ids[0])?.state == .received)
            // The same bytes arrive in the cache by another way.
            #expect(try await ingest.settle(pair("other", sound, side)).state == "usable")
            #expect(try await ingest.settled(ids[0]).state == "usable")
        }
    }

    @Test func usablePairsFireTheSchedulesThatCountThem() async throws {
        try await RunningIngest.with { ingest in
            let client = ingest.client
            try await client.query("select queue.schedule_add('every-3', 'train_reward', '{\"name\":\"r\"}', every_new_pairs => 3)")
            let sound = ingest.server.put("sound", good.bytes)
            for key in 0..<3 { #expect(try await ingest.settle(pair(String(key), sound, sound)).state == "usable") }
            #expect(try await client.query("select 1 from ops.jobs where kind = 'train_reward'").count == 1)
        }
    }
}
