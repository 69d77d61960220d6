import Foundation
import FoundationNetworking
import Postgres

/// Clips of noise, of which the brighter one is preferred: enough for a reward head to learn something, small enough to train in a minute.
struct TrainingMaterial {
    let folder: String
    let client: PostgresClient

    /// Writes the clips and posts all pairs of each group; returns when every pair is usable.
    func post(to ingest: String, key: String) async throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        var lines: [String] = []
        for prompt in 0..<4 {
            for group in 0..<3 {
                var clips: [(url: String, digest: String)] = []
                for member in 0..<4 { clips.append(try await write(prompt: prompt, group: group, member: member)) }
                for a in 0..<4 {
                    for b in a + 1..<4 {
                        lines.append(
                            """
                            {"source":"chaos","external_id":"\(prompt)-\(group)-\(a)-\(b)","prompt":"prompt \(prompt)","dimension":"overall",\
                            "outcome":"b","rater":"chaos","a":{"url":"\(clips[a].url)","sha256":"\(clips[a].digest)"},\
                            "b":{"url":"\(clips[b].url)","sha256":"\(clips[b].digest)"}}
                            """)
                    }
                }
            }
        }
        guard let url = URL(string: ingest + "/v1/preferences") else { throw ChaosError("no URL: \(ingest)") }
        var request = URLRequest(url: url, timeoutInterval: 60)
        request.httpMethod = "POST"
        request.httpBody = Data(lines.joined(separator: "\n").utf8)
        request.setValue("application/x-ndjson", forHTTPHeaderField: "Content-Type")
        request.setValue("Bearer \(key)", forHTTPHeaderField: "Authorization")
        let (answer, response) = try await URLSession.shared.data(for: request)
        guard (response as? HTTPURLResponse)?.statusCode == 200 else {
            throw ChaosError("the pairs were refused: \(String(decoding: answer.prefix(600), as: UTF8.self))")
        }
        struct Summary: Decodable { let usable: Int, quarantined: Int }
        guard let summary = URL(string: ingest + "/v1/preferences/summary") else { throw ChaosError("no URL: \(ingest)") }
        var question = URLRequest(url: summary, timeoutInterval: 10)
        question.setValue("Bearer \(key)", forHTTPHeaderField: "Authorization")
        var last = Summary(usable: 0, quarantined: 0)
        for _ in 0..<600 {
            last = try JSONDecoder().decode(Summary.self, from: try await URLSession.shared.data(for: question).0)
            if last.usable == lines.count { return }
            if last.quarantined > 0 { break }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw ChaosError("not every pair became usable within a minute: \(last)")
    }

    private func write(prompt: Int, group: Int, member: Int) async throws -> (url: String, digest: String) {
        var dice = Dice(seed: UInt64(prompt * 100 + group * 10 + member))
        var words = Dice(seed: UInt64(1000 + prompt))
        func noise(_ count: Int, _ dice: inout Dice, plus offset: Float) -> [Float] {
            (0..<count).map { _ in (0..<4).reduce(Float(0)) { sum, _ in sum + Float.random(in: -0.9...0.9, using: &dice) } + offset }
        }
        let bytes = Self.safetensors(
            [
                ("condition", [8, 2, 8, 8], [Float](repeating: 0.5, count: 8 * 2 * 8 * 8)),
                ("latents", [12, 2, 8, 8], noise(12 * 2 * 8 * 8, &dice, plus: Float(member) - 1.5)),
                ("prompt_embeds", [4, 64], noise(4 * 64, &words, plus: 0)),
            ],
            metadata: [
                "backbone": "wan-demo", "vae": "wan-demo-vae", "layout": "CFHW", "space": "normalized", "noise.kind": "flow",
                "noise.sigma": "0",
            ]
        )
        let path = "\(folder)/\(prompt)-\(group)-\(member).safetensors"
        try bytes.write(to: URL(filePath: path))
        return ("file://" + path, try await sha256(bytes, client))
    }

    /// The format is eight bytes of length, a JSON header, and the numbers.
    static func safetensors(_ tensors: [(name: String, shape: [Int], values: [Float])], metadata: [String: String]) -> Data {
        var body = Data()
        var entries = [
            "\"__metadata__\":{" + metadata.sorted { $0.key < $1.key }.map { "\"\($0.key)\":\"\($0.value)\"" }.joined(separator: ",") + "}"
        ]
        for tensor in tensors {
            let start = body.count
            for value in tensor.values { withUnsafeBytes(of: value.bitPattern.littleEndian) { body.append(contentsOf: $0) } }
            entries.append("\"\(tensor.name)\":{\"dtype\":\"F32\",\"shape\":\(tensor.shape),\"data_offsets\":[\(start),\(body.count)]}")
        }
        var header = "{" + entries.joined(separator: ",") + "}"
        header += String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
        var data = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) }
        data.append(contentsOf: header.utf8)
        return data + body
    }
}
