import Foundation
import Migrations
import Postgres
import PostgresTesting
import Preferences
import Safetensors
import Tensors
import Testing

/// What diffusers says, made for the tests of Backbones.
private let fixtures =
    URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().path(percentEncoded: false)
    + "Backbones/Fixtures"

extension ForetasteProcessTests {
    /// The command line as programs and people call it.
    @Suite(.serialized) struct Commands {
        private func forward(_ changes: [String], in folder: String) async throws -> Program.Ended {
            let base = [
                "backbone", "forward", "\(fixtures)/t2v", "--input", "\(fixtures)/t2v/inputs.safetensors", "--output",
                "\(folder)/out.safetensors",
            ]
            return try await Program.run(base + changes, in: folder)
        }

        @Test func forwardWritesWhatIsAskedFor() async throws {
            try await withTemporaryFolder { folder in
                let expected = try SafetensorsFile(contentsOf: "\(fixtures)/t2v/expected.safetensors")
                let plain = try await forward([], in: folder)
                try #require(plain.status == 0, "\(plain.errors)")
                #expect(try SafetensorsFile(contentsOf: "\(folder)/out.safetensors").names == ["sample"])
                let full = try await forward(
                    [
                        "--features", "1,3", "--cotangent", "\(fixtures)/t2v/cotangent.safetensors", "--gradients",
                        "patch_embedding.weight,proj_out.bias", "--threads", "2",
                    ], in: folder)
                try #require(full.status == 0, "\(full.errors)")
                let out = try SafetensorsFile(contentsOf: "\(folder)/out.safetensors")
                #expect(
                    Set(out.names) == [
                        "sample", "features.1", "features.3", "grad_hidden_states", "grad_encoder_hidden_states",
                        "grad.patch_embedding.weight",
                        "grad.proj_out.bias",
                    ])
                for name in out.names {
                    let tolerance: Float = name.hasPrefix("grad") ? 1e-3 : 1e-4
                    #expect(try out.tensor(name).relativeError(to: expected.tensor(name)) < tolerance, "\(name)")
                }
            }
        }

        /// Each: what is asked for, and what the message must say.
        @Test func anErrorIsSaidAndLeavesNoFile() async throws {
            try await withTemporaryFolder { folder in
                let cotangent = ["--cotangent", "\(fixtures)/t2v/cotangent.safetensors"]
                let cases: [([String], String)] = [
                    (["--features", "9"], "9"), (["--features", "one"], "features: there is no 'one'"),
                    (["--gradients", "proj_out.bias"], "--cotangent"),
                    (cotangent + ["--gradients", "no.such.weight"], "no.such.weight"), (["--threads", "0"], "--threads"),
                    (["--lora", "\(folder)/absent.safetensors"], "absent.safetensors"),
                    (["--cotangent", "\(fixtures)/t2v/inputs.safetensors"], "cotangent"),
                ]
                for (arguments, word) in cases {
                    let ended = try await forward(arguments, in: folder)
                    #expect((1...127).contains(ended.status), "\(arguments): \(ended.status)")
                    #expect(ended.errors.contains(word), "\(arguments): \(ended.errors)")
                    #expect(ended.output.isEmpty && !FileManager.default.fileExists(atPath: "\(folder)/out.safetensors"), "\(arguments)")
                }
                let nowhere = try await Program.run(["backbone", "inspect", "\(folder)/nowhere"], in: folder)
                #expect(nowhere.status == 1 && nowhere.errors.contains("nowhere"))
            }
        }

        /// A copy of a fixture's model folder.
        private func model(in folder: String, without missing: String? = nil) throws -> String {
            let path = folder + "/model\(missing == nil ? "" : "-torn")"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            try FileManager.default.copyItem(atPath: "\(fixtures)/t2v/config.json", toPath: path + "/config.json")
            let name = "/diffusion_pytorch_model.safetensors"
            let weights = try SafetensorsFile(contentsOf: "\(fixtures)/t2v" + name)
            try SafetensorsWriter.write(
                tensors: weights.names.filter { $0 != missing }.map { ($0, try weights.tensor($0)) }, to: path + name)
            return path
        }

        private struct Listed: Decodable {
            let name: String
            let version: Int
            let kind: String
            let aliases: [String]
            let sha256: String
        }

        @Test func modelsAreImportedWholeOrNotAtAll() async throws {
            try await withTemporaryFolder { folder in
                try await TestDatabase.with { database in
                    let variables = ["DATABASE_URL": database.url, "FORETASTE_DATA": folder + "/data"]
                    func foretaste(_ arguments: String...) async throws -> Program.Ended {
                        try await Program.run(arguments, in: folder, variables)
                    }
                    let torn = try await foretaste(
                        "models", "import", try model(in: folder, without: "blocks.1.ffn.net.2.bias"), "--name", "wan")
                    #expect(torn.status == 1 && torn.output.isEmpty)
                    #expect(torn.errors.contains("blocks.1.ffn.net.2.bias"), "\(torn.errors)")
                    let empty = try await foretaste("models", "import", folder, "--name", "wan")
                    #expect(empty.status == 1 && empty.errors.contains("config.json"))
                    let path = try model(in: folder)
                    #expect(try await foretaste("models", "import", path, "--name", "a:b").status == 1)
                    let nothing = try await foretaste("models", "list", "--json")
                    #expect(nothing.status == 0 && nothing.line == "[]", "\(nothing)")

                    for _ in 0..<2 {
                        let whole = try await foretaste("models", "import", path, "--name", "wan")
                        #expect(whole.status == 0 && whole.line == "wan:1", "\(whole)")
                    }
                    let promoted = try await foretaste("models", "promote", "wan:1", "--reason", "the first")
                    #expect(promoted.status == 0, "\(promoted)")
                    let listed = try JSONDecoder().decode(
                        [Listed].self, from: Data(try await foretaste("models", "list", "--json").output.utf8))
                    #expect(listed.map(\.name) == ["wan"] && listed[0].version == 1 && listed[0].kind == "generator")
                    #expect(listed[0].aliases == ["champion"] && listed[0].sha256.count == 64)

                    let exported = try await foretaste("models", "export", "wan@champion", folder + "/out")
                    #expect(exported.status == 0, "\(exported)")
                    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
                        #expect(FileManager.default.contentsEqual(atPath: path + "/" + name, andPath: "\(folder)/out/\(name)"), "\(name)")
                    }
                    // Out of a pipeline the VAE's and the scheduler's configurations come along, and nothing else.
                    let pipeline = folder + "/pipeline"
                    let texts = [
                        "model_index.json": #"{"_class_name": "StableDiffusion3Pipeline"}"#,
                        "vae/config.json": #"{"_class_name": "AutoencoderKL"}"#,
                        "scheduler/scheduler_config.json": #"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#,
                        "tokenizer/vocab.json": "{}",
                    ]
                    for (name, text) in texts {
                        let file = URL(filePath: "\(pipeline)/\(name)")
                        try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
                        try Data(text.utf8).write(to: file)
                    }
                    try FileManager.default.createDirectory(atPath: "\(pipeline)/transformer", withIntermediateDirectories: true)
                    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
                        try FileManager.default.copyItem(atPath: "\(fixtures)/sd35/\(name)", toPath: "\(pipeline)/transformer/\(name)")
                    }
                    let imported = try await foretaste("models", "import", pipeline, "--name", "sd3")
                    #expect(imported.status == 0 && imported.line == "sd3:1", "\(imported)")
                    #expect(try await foretaste("models", "import", "\(pipeline)/transformer", "--name", "sd3").line == "sd3:1")
                    #expect(try await foretaste("models", "import", "\(fixtures)/unet-sdxl", "--name", "sdxl").line == "sdxl:1")
                    #expect(try await foretaste("models", "export", "sd3:1", folder + "/sd3").status == 0)
                    #expect(
                        try FileManager.default.subpathsOfDirectory(atPath: folder + "/sd3").sorted() == [
                            "config.json", "diffusion_pytorch_model.safetensors", "scheduler", "scheduler/scheduler_config.json", "vae",
                            "vae/config.json",
                        ])
                    let inspected = try await foretaste("backbone", "inspect", folder + "/sd3")
                    #expect(inspected.output.contains("FlowMatchEulerDiscreteScheduler") && inspected.output.contains("z x 0.18215"))
                    let absent = try await foretaste("models", "show", "wan:7")
                    #expect(absent.status == 1 && absent.errors.contains("wan:1"), "\(absent)")
                }
            }
        }

        @Test func migratingTwiceIsMigratingOnce() async throws {
            try await withTemporaryFolder { folder in
                try await TestDatabase.with { database in
                    let variables = ["DATABASE_URL": database.url, "FORETASTE_DATA": folder + "/data"]
                    for _ in 0..<2 {
                        let ended = try await Program.run(["migrate"], in: folder, variables)
                        #expect(ended.status == 0 && ended.output.contains("up to date"), "\(ended)")
                    }
                    let applied = try await database.client.query("select count(*) as n from public.schema_migrations")
                    #expect(try applied[0]["n"].int == BundledMigrations.all().count)
                }
            }
        }

        @Test func jobsAreEnqueuedShownAndCancelled() async throws {
            try await withTemporaryFolder { folder in
                try await TestDatabase.with { database in
                    let variables = ["DATABASE_URL": database.url, "FORETASTE_DATA": folder + "/data"]
                    func jobs(_ arguments: String...) async throws -> Program.Ended {
                        try await Program.run(["jobs"] + arguments, in: folder, variables)
                    }
                    let added = try await jobs(
                        "enqueue", "train_reward", "--set", "name=reward-overall", "--set", "steps=40", "--set", "learning_rate=1e-3")
                    let id = try #require(Int(added.line), "\(added)")
                    let twice = try await jobs("enqueue", "train_reward", "--set", "steps=40", "--set", "steps=50")
                    #expect((1...127).contains(twice.status) && twice.errors.contains("steps") && twice.output.isEmpty, "\(twice)")
                    let unknown = try await jobs("enqueue", "trian_reward")
                    #expect(unknown.status == 1 && unknown.errors.contains("trian_reward"), "\(unknown)")

                    let shown = try await jobs("show", String(id), "--json")
                    let job = try #require(try JSONSerialization.jsonObject(with: Data(shown.output.utf8)) as? [String: Any])
                    #expect(job["kind"] as? String == "train_reward" && job["state"] as? String == "ready")
                    let arguments = try #require(job["args"] as? [String: Any])
                    #expect(arguments["steps"] as? Int == 40 && arguments["learning_rate"] as? Double == 1e-3)
                    let listed = try await jobs("list", "--json")
                    #expect((try JSONSerialization.jsonObject(with: Data(listed.output.utf8)) as? [Any])?.count == 1)
                    #expect(try await jobs("cancel", String(id)).line == "cancelled")
                    #expect(try await jobs("retry", String(id)).status == 0)
                    #expect(try await jobs("show", "999").status == 1)
                }
            }
        }

        @Test func schedulesAreAddedListedAndRemoved() async throws {
            try await withTemporaryFolder { folder in
                try await TestDatabase.with { database in
                    let variables = ["DATABASE_URL": database.url, "FORETASTE_DATA": folder + "/data"]
                    func schedule(_ arguments: String...) async throws -> Program.Ended {
                        try await Program.run(["schedule"] + arguments, in: folder, variables)
                    }
                    for every in ["500", "250"] {
                        let added = try await schedule("add", "retrain", "--every", every, "--set", "name=reward-overall")
                        #expect(added.status == 0, "\(added)")
                    }
                    #expect((1...127).contains(try await schedule("add", "never", "--every", "0").status))
                    let listed = try await schedule("list", "--json")
                    let rows = try #require(try JSONSerialization.jsonObject(with: Data(listed.output.utf8)) as? [[String: Any]])
                    #expect(rows.count == 1 && listed.output.contains("250") && listed.output.contains("reward-overall"), "\(listed)")
                    let cron = ["--cron", "0 3 * * *", "--tz", "Europe/Berlin"]
                    #expect(try await schedule("add", "nightly", "train_reward", cron[0], cron[1], cron[2], cron[3]).status == 0)
                    let never = try await schedule("add", "never", "train_reward", "--cron", "0 0 30 2 *")
                    #expect(never.status == 1 && never.errors.contains("day of month: 30 never comes in month 2"), "\(never)")
                    let nowhere = try await schedule("preview", "0 3 * * *", "--tz", "Europe/Berln")
                    #expect(nowhere.status == 1 && nowhere.errors.contains("Europe/Berln"), "\(nowhere)")
                    let preview = try await schedule("preview", "0 3 * * *", "--tz", "Europe/Berlin", "--number", "3")
                    let moments = preview.output.split(separator: "\n")
                    #expect(moments.count == 3 && moments.allSatisfy { $0.contains(" 03:00 +0") }, "\(preview)")
                    #expect(try await schedule("pause", "nightly").status == 0)
                    let paused = try await schedule("list")
                    #expect(paused.output.contains("0 3 * * * Europe/Berlin") && paused.output.contains("paused"), "\(paused)")
                    #expect(try await schedule("resume", "nightly").status == 0)
                    #expect(try await schedule("resume", "nothing").status == 1)
                    #expect(try await schedule("remove", "retrain").status == 0)
                    let again = try await schedule("remove", "retrain")
                    #expect(again.status == 1 && again.errors.contains("retrain"), "\(again)")
                }
            }
        }

        /// Two steps teach nothing, but what they leave is a whole model, and the same each time.
        @Test func pretrainingLeavesAModelInDiffusersLayout() async throws {
            try await withTemporaryFolder { folder in
                for name in ["one", "two"] {
                    let ended = try await Program.run(
                        ["pretrain", "--output", "\(folder)/\(name)", "--steps", "2", "--seed", "3"], in: folder)
                    try #require(ended.status == 0, "\(ended)")
                }
                for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
                    #expect(FileManager.default.contentsEqual(atPath: "\(folder)/one/\(name)", andPath: "\(folder)/two/\(name)"), "\(name)")
                }
                let inspected = try await Program.run(["backbone", "inspect", folder + "/one"], in: folder)
                #expect(inspected.status == 0 && inspected.output.contains("20 channels in, 12 out"), "\(inspected)")
                #expect(try await Program.run(["pretrain", "--output", folder + "/none", "--steps", "0"], in: folder).status != 0)
            }
        }
    }
}
