import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

/// Broken model folders of every family: each is refused with what is wrong by name, by `forward` and by `inspect`.
@Suite struct HostileModelFolders {
    /// A tensor of each family, somewhere in the middle.
    private static let victims = [
        "t2v": "blocks.1.ffn.net.2.weight", "sd35": "transformer_blocks.1.attn.to_k.weight",
        "unet-sdxl": "mid_block.resnets.0.conv1.weight",
    ]

    /// Expects both commands to refuse, saying each of the words.
    private func expectRefused(_ folder: SpoiltFolder, _ what: String, _ words: [String]) {
        for (command, message) in [("forward", folder.refusal()), ("inspect", folder.inspectionRefusal())] {
            guard let message else {
                Issue.record("\(folder.name), \(what): \(command) went through")
                continue
            }
            for word in words { #expect(message.contains(word), "\(folder.name), \(what): \(command) says \(message)") }
            #expect(message.count < 2000, "\(folder.name), \(what): a message is for people")
        }
    }

    @Test func anUnspoiltFolderGoesThrough() throws {
        try forEachFamily { folder in
            #expect(folder.refusal() == nil && folder.inspectionRefusal() == nil, "\(folder.name)")
            try folder.spoilWeights { _ in }
            #expect(folder.refusal() == nil, "\(folder.name): taking apart and putting together changes nothing")
        }
    }

    @Test func tensorsThatAreMissingExtraMisshapenOrNotFinite() throws {
        let cases: [(String, [String], (inout TornSafetensors, String) -> Void)] = [
            ("missing", ["missing"], { $0.remove($1) }),
            ("extra", ["'extra.weight'"], { file, _ in file.append("extra.weight", shape: [3]) }),
            ("empty extra", ["'extra.weight'"], { file, _ in file.append("extra.weight", shape: [0, 3]) }),
            (
                "misshapen", ["shape"],
                { file, name in
                    let count = ((file.header[name] as! [String: Any])["shape"] as! [Int]).reduce(1, *)
                    file.set(name, "shape", [count])
                }
            ),
            ("not finite", ["not finite"], { $0.fill($1, $0.dtype($1) == "BF16" ? [0xC0, 0x7F] : [0, 0, 0xC0, 0x7F]) }),
            ("infinite", ["not finite"], { $0.fill($1, $0.dtype($1) == "BF16" ? [0x80, 0xFF] : [0, 0, 0x80, 0xFF]) }),
            ("integers", ["point"], { $0.set($1, "dtype", $0.dtype($1) == "BF16" ? "I16" : "I32") }),
            ("renamed", ["is missing"], { $0.header["other.name"] = $0.header.removeValue(forKey: $1) }),
        ]
        try forEachFamily { folder in
            let victim = try #require(Self.victims[folder.name])
            for (what, words, change) in cases {
                try folder.spoilWeights { change(&$0, victim) }
                expectRefused(folder, what, words + (what.contains("extra") ? [] : ["'\(victim)'"]))
            }
        }
    }

    /// What diffusers itself writes or skips is no mistake; but it is checked too.
    @Test func buffersAreNoExtraTensors() throws {
        try withTemporaryFolder { temporary in
            let folder = try SpoiltFolder("t2v", in: temporary)
            try folder.spoilWeights { $0.append("blocks.0.attn2.norm_added_q.weight", shape: [40]) }
            #expect(folder.refusal() == nil && folder.inspectionRefusal() == nil)
        }
        try withTemporaryFolder { temporary in
            let folder = try SpoiltFolder("sd35", in: temporary)
            let table = "pos_embed.pos_embed"
            try folder.spoilWeights { $0.fill(table, [0, 0, 0xC0, 0x7F]) }
            expectRefused(folder, "not finite", ["'\(table)'", "not finite"])
            try folder.spoilWeights { file in
                file.remove(table)
                file.append(table, shape: [1, 35, 20])
            }
            expectRefused(folder, "misshapen", ["'\(table)'", "shape"])
            try folder.spoilWeights { $0.remove(table) }
            #expect(folder.refusal() == nil && folder.inspectionRefusal() == nil)
        }
    }

    @Test func filesThatContradictThemselves() throws {
        let cases: [(String, [String], (inout TornSafetensors, String) -> Void)] = [
            ("trailing bytes", ["bytes"], { file, _ in file.data.append(7) }),
            ("truncated", ["data"], { file, _ in file.data.removeLast(4) }),
            (
                "gap", ["gap"],
                { file, _ in
                    for (name, value) in file.header {
                        guard let entry = value as? [String: Any], let place = entry["data_offsets"] as? [Int] else { continue }
                        file.set(name, "data_offsets", place.map { $0 + 8 })
                    }
                    file.data = Data(count: 8) + file.data
                }
            ),
            (
                "overlap", ["overlap"],
                { file, name in
                    let length = file.offsets(name)[1] - file.offsets(name)[0]
                    file.header["aaa"] = ["dtype": "U8", "shape": [length], "data_offsets": file.offsets(name)]
                }
            ),
            (
                "duplicate", ["'aaa'"],
                { file, _ in
                    file.rawMember =
                        #""aaa":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"aaa":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#
                }
            ),
            (
                "overflow", ["aaa", "large"],
                { file, _ in
                    file.header["aaa"] = ["dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 0]]
                }
            ),
            (
                "wrapping overflow", ["aaa"],
                { file, _ in
                    file.header["aaa"] = ["dtype": "F32", "shape": [1 << 32, 1 << 30], "data_offsets": [0, 0]]
                }
            ),
            ("negative", ["aaa"], { file, _ in file.header["aaa"] = ["dtype": "F32", "shape": [-4, -1], "data_offsets": [0, 16]] }),
            ("backwards", ["aaa"], { file, _ in file.header["aaa"] = ["dtype": "F32", "shape": [1], "data_offsets": [8, 4]] }),
            ("unknown type", ["aaa", "F12"], { file, _ in file.header["aaa"] = ["dtype": "F12", "shape": [0], "data_offsets": [0, 0]] }),
            ("no offsets", ["aaa", "data_offsets"], { file, _ in file.header["aaa"] = ["dtype": "F32", "shape": [0]] }),
            (
                "a claim beyond the file", ["aaa"],
                { file, _ in
                    file.header["aaa"] = ["dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]]
                }
            ),
        ]
        try forEachFamily { folder in
            let victim = try #require(Self.victims[folder.name])
            for (what, words, change) in cases {
                try folder.spoilWeights { change(&$0, victim) }
                expectRefused(folder, what, words)
            }
            for (what, bytes) in [
                ("empty file", []), ("no header", [UInt8](repeating: 255, count: 8)), ("half a length", [1, 0, 0]),
                ("text", Array("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n".utf8)),
            ] {
                try Data(bytes).write(to: URL(fileURLWithPath: "\(folder.model)/\(SpoiltFolder.weights)"))
                expectRefused(folder, what, [SpoiltFolder.weights])
            }
        }
    }

    /// Every number of every family's configuration, made negative, absurd, a text and a truth value. Refused by the key's name; or by a
    /// tensor's, where the value alone would make a model.
    @Test func configurationValuesThatMakeNoSense() throws {
        try forEachFamily { folder in
            let data = try Data(contentsOf: URL(fileURLWithPath: "\(fixtures)/\(folder.name)/config.json"))
            let members = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
            var numbers = 0
            for (key, value) in members where value is NSNumber && !(value is Bool) && !key.hasPrefix("_") {
                guard CFBooleanTest.isNumber(value) else { continue }
                numbers += 1
                for wrong in ["-1", "1000000000", "1e30", "\"8\"", "true", "[[]]", "{}"] {
                    try folder.configure(key, wrong)
                    expectRefused(folder, "\(key) = \(wrong)", [key])
                }
            }
            #expect(numbers >= 8, "\(folder.name): \(numbers) numbers were tried")
            let absurd: [String: [(String, String)]] = [
                "t2v": [
                    ("num_layers", "1000000"), ("num_layers", "0"), ("attention_head_dim", "0"), ("patch_size", "[1,2]"),
                    ("patch_size", "[0,2,2]"), ("eps", "0"), ("in_channels", "0"), ("ffn_dim", "0"), ("qk_norm", "\"none\""),
                ],
                "sd35": [
                    ("num_layers", "1000000"), ("num_layers", "0"), ("pos_embed_max_size", "0"), ("dual_attention_layers", "[7]"),
                    ("dual_attention_layers", "[-1]"), ("qk_norm", "\"none\""), ("patch_size", "0"), ("in_channels", "0"),
                ],
                "unet-sdxl": [
                    ("block_out_channels", "[1000000000]"), ("block_out_channels", "[]"), ("block_out_channels", "[6,0,12]"),
                    ("layers_per_block", "1000000"), ("layers_per_block", "0"), ("transformer_layers_per_block", "[1,1000000,2]"),
                    ("cross_attention_dim", "0"), ("norm_num_groups", "0"), ("norm_num_groups", "5"), ("norm_eps", "0"),
                    ("down_block_types", "[\"DownBlock2D\",\"DownBlock2D\",\"Other\"]"), ("act_fn", "\"tanh\""),
                    ("addition_embed_type", "\"image\""), ("in_channels", "0"),
                ],
            ]
            for (key, wrong) in absurd[folder.name]! {
                try folder.configure(key, wrong)
                expectRefused(folder, "\(key) = \(wrong)", [key])
            }
        }
    }

    /// Values that a configuration may have, but not together with these weights: the tensor is named before anything is allocated.
    @Test func configurationsThatTheWeightsDoNotHave() throws {
        let cases = [
            ("t2v", "num_layers", "1024", "'blocks.3."), ("t2v", "attention_head_dim", "4096", "shape"),
            ("t2v", "ffn_dim", "1048576", "'blocks.0.ffn"), ("sd35", "num_layers", "1024", "'transformer_blocks.2."),
            ("sd35", "pos_embed_max_size", "4096", "'pos_embed.pos_embed'"), ("sd35", "joint_attention_dim", "65536", "'context_embedder"),
            ("unet-sdxl", "cross_attention_dim", "65536", "attn2"), ("unet-sdxl", "layers_per_block", "8", "missing"),
        ]
        for (name, key, value, word) in cases {
            try withTemporaryFolder { temporary in
                let folder = try SpoiltFolder(name, in: temporary)
                try folder.configure(key, value)
                expectRefused(folder, "\(key) = \(value)", [word, "tensor"])
            }
        }
        try withTemporaryFolder { temporary in
            let folder = try SpoiltFolder("sd35", in: temporary)
            var configuration = try SD3Configuration(contentsOf: "\(folder.model)/config.json")
            (configuration.numAttentionHeads, configuration.attentionHeadDim, configuration.captionProjectionDim) = (1024, 1024, 1_048_576)
            configuration.posEmbedMaxSize = 4096
            try Data(configuration.encoded()).write(to: URL(fileURLWithPath: "\(folder.model)/config.json"))
            expectRefused(folder, "wider than memory", ["tensor", "shape"])
        }
    }

    @Test func configurationFilesThatAreNone() throws {
        try forEachFamily { folder in
            for (what, key, value, words) in [
                ("unknown key", "no_such_key", "1", ["no_such_key"]),
                (
                    "unknown class", "_class_name", "\"FluxTransformer2DModel\"",
                    ["_class_name", "FluxTransformer2DModel", "SD3Transformer2DModel"]
                ),
                ("class of another type", "_class_name", "7", ["_class_name"]),
            ] {
                try folder.configure(key, value)
                expectRefused(folder, what, words)
            }
            try folder.configure("_class_name", nil)
            expectRefused(folder, "no class", ["_class_name", "WanTransformer3DModel", "UNet2DConditionModel", "SD3Transformer2DModel"])
            let other = folder.name == "t2v" ? "SD3Transformer2DModel" : "WanTransformer3DModel"
            try folder.configure("_class_name", "\"\(other)\"")
            expectRefused(folder, "another class", ["config.json"])
            let path = "\(folder.model)/config.json"
            for (what, text) in [
                ("empty", ""), ("a list", "[]"), ("cut off", "{\"_class_name\": \"WanTra"), ("two", "{} {}"), ("no text", "\u{0}\u{1}"),
                ("deep", String(repeating: "[", count: 200_000)), ("deep objects", String(repeating: "{\"a\":", count: 100_000)),
                ("twice a key", "{\"_class_name\": \"WanTransformer3DModel\", \"_class_name\": \"WanTransformer3DModel\"}"),
                ("too long", "{\"_class_name\": \"\(String(repeating: "x", count: 2 << 20))\"}"),
            ] {
                try Data(text.utf8).write(to: URL(fileURLWithPath: path))
                expectRefused(folder, what, ["config.json"])
            }
            for make in [{ mkfifo(path, 0o600) }, { mkdir(path, 0o700) }, { symlink("/dev/zero", path) }, { symlink(path, path) }] {
                try? FileManager.default.removeItem(atPath: path)
                #expect(make() == 0)
                expectRefused(folder, "no file", ["config.json"])
            }
        }
    }
}

extension TornSafetensors {
    func dtype(_ tensor: String) -> String { (header[tensor] as! [String: Any])["dtype"] as! String }
}

/// JSONSerialization makes numbers and truth values one class.
private enum CFBooleanTest {
    static func isNumber(_ value: Any) -> Bool {
        guard let number = value as? NSNumber else { return false }
        return String(cString: number.objCType) != "c" && String(cString: number.objCType) != "B"
    }
}
