import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

/// Weights in several files behind an index.
@Suite struct ShardedModelFolders {
    private static let index = "diffusion_pytorch_model.safetensors.index.json"
    private static let shards = (1...3).map { "diffusion_pytorch_model-0000\($0)-of-00003.safetensors" }

    /// Splits a fixture's weights in three. - Returns: which file has each tensor.
    private func split(_ folder: SpoiltFolder) throws -> [(name: String, shard: String)] {
        let whole = "\(folder.model)/\(SpoiltFolder.weights)"
        let file = try SafetensorsFile(contentsOf: whole)
        let third = (file.names.count + 2) / 3
        var map: [(name: String, shard: String)] = []
        for (number, shard) in Self.shards.enumerated() {
            let names = file.names.dropFirst(number * third).prefix(third)
            try SafetensorsWriter.write(tensors: names.map { ($0, try file.tensor($0)) }, to: "\(folder.model)/\(shard)")
            map += names.map { ($0, shard) }
        }
        try FileManager.default.removeItem(atPath: whole)
        return map
    }

    private func write(_ map: [(name: String, shard: String)], _ folder: SpoiltFolder) throws {
        let members = map.map { "\(StrictJSON.quoted($0.name)): \($0.shard)" }.joined(separator: ",\n")
        try Data("{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\(members)}}".utf8)
            .write(to: URL(fileURLWithPath: "\(folder.model)/\(Self.index)"))
    }

    @Test func areReadThroughTheirIndexAsOneFileIs() throws {
        try forEachFamily { folder in
            #expect(folder.refusal() == nil)
            let whole = try SafetensorsFile(contentsOf: folder.output).tensor("sample")
            let map = try split(folder)
            try write(map.map { ($0.name, StrictJSON.quoted($0.shard)) }, folder)
            #expect(folder.refusal() == nil, "\(folder.name)")
            #expect(try SafetensorsFile(contentsOf: folder.output).tensor("sample") == whole, "\(folder.name)")
            let inspection = try BackboneInspection(PipelineFolder(folder.model))
            #expect(inspection.shards.map(\.file) == Self.shards)
            #expect(inspection.shards.reduce(0) { $0 + $1.tensors } == map.count)
            // The hub's cache keeps its files elsewhere and links to them.
            let blob = "\(folder.folder)/blob"
            try FileManager.default.moveItem(atPath: "\(folder.model)/\(Self.shards[1])", toPath: blob)
            try FileManager.default.createSymbolicLink(atPath: "\(folder.model)/\(Self.shards[1])", withDestinationPath: "../blob")
            #expect(folder.refusal() == nil && folder.inspectionRefusal() == nil, "\(folder.name): links")
        }
    }

    @Test func theVariantInHalfPrecisionIsReadWhereThereIsNoOther() throws {
        try forEachFamily { folder in
            func rename(_ from: String, _ to: String) throws {
                try FileManager.default.moveItem(atPath: "\(folder.model)/\(from)", toPath: "\(folder.model)/\(to)")
            }
            try rename(SpoiltFolder.weights, "diffusion_pytorch_model.fp16.safetensors")
            #expect(folder.refusal() == nil && folder.inspectionRefusal() == nil, "\(folder.name)")
            try rename("diffusion_pytorch_model.fp16.safetensors", SpoiltFolder.weights)
            let map = try split(folder)
            try write(map.map { ($0.name, StrictJSON.quoted($0.shard)) }, folder)
            try rename(Self.index, "\(SpoiltFolder.weights).index.fp16.json")
            #expect(folder.refusal() == nil && folder.inspectionRefusal() == nil, "\(folder.name)")
        }
    }

    /// An index goes before a file, so that an older one must not outlive what it was for.
    @Test func savingLeavesNoIndex() throws {
        try withTemporaryFolder { temporary in
            let folder = try SpoiltFolder("t2v", in: temporary)
            let model = try WanTransformer3DModel.load(directory: folder.model)
            try write(try split(folder).map { ($0.name, StrictJSON.quoted($0.shard)) }, folder)
            try model.save(directory: folder.model)
            #expect(try BackboneInspection(PipelineFolder(folder.model)).shards.map(\.file) == [SpoiltFolder.weights])
        }
    }

    @Test func anIndexNamesPlainFilesBesideIt() throws {
        try withTemporaryFolder { temporary in
            let folder = try SpoiltFolder("sd35", in: temporary)
            let map = try split(folder).map { (name: $0.name, shard: StrictJSON.quoted($0.shard)) }
            // A good file in every place that a bad name could lead to.
            let good = "\(folder.model)/\(Self.shards[2])"
            try FileManager.default.createDirectory(atPath: "\(folder.model)/sub", withIntermediateDirectories: true)
            for place in ["../outside.safetensors", "sub/inside.safetensors", ".hidden.safetensors", "shard.bin"] {
                try FileManager.default.copyItem(atPath: good, toPath: "\(folder.model)/\(place)")
            }
            let names = [
                "\"../outside.safetensors\"", "\"\(temporary)/outside.safetensors\"", "\"sub/inside.safetensors\"",
                "\"./\(Self.shards[2])\"",
                "\"sub/../\(Self.shards[2])\"", "\".hidden.safetensors\"", "\"shard.bin\"", "\"\"", "\".\"", "\"..\"", "\".safetensors\"",
                "\"..\\\\outside.safetensors\"", "\"\(Self.shards[2])\\u0000.safetensors\"", "\"a\\nb.safetensors\"", "7", "null", "[]",
            ]
            for name in names {
                try write(map.map { $0.shard.contains("00003-of") ? ($0.name, name) : $0 }, folder)
                for message in [folder.refusal(), folder.inspectionRefusal()] {
                    let message = try #require(message, "\(name) went through")
                    #expect(message.contains(Self.index) && message.contains("weight_map '"), "\(name): \(message)")
                }
            }
        }
    }

    @Test func anIndexThatContradictsItsFilesIsRefused() throws {
        try forEachFamily { folder in
            let map = try split(folder).map { (name: $0.name, shard: StrictJSON.quoted($0.shard)) }
            func expect(_ what: String, _ words: [String], _ changed: [(name: String, shard: String)]) throws {
                try write(changed, folder)
                for message in [folder.refusal(), folder.inspectionRefusal()] {
                    let message = try #require(message, "\(folder.name), \(what): went through")
                    for word in words { #expect(message.contains(word), "\(folder.name), \(what): \(message)") }
                }
            }
            try expect("lost", ["'\(map.last!.name)'"], map.dropLast())
            try expect("in another file", ["'\(map[0].name)'"], [(map[0].name, map.last!.shard)] + map.dropFirst())
            try expect("absent file", ["absent.safetensors"], [(map[0].name, "\"absent.safetensors\"")] + map.dropFirst())
            try expect("unknown tensor", ["'extra'"], map + [("extra", map[0].shard)])
            try expect("twice", [map[0].name], map + [map[0]])
            try expect("none", ["weight_map"], [])
            for text in ["", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {\"a\": \"b.safetensors\"}", "{\"weight_map\": 3}"] {
                try Data(text.utf8).write(to: URL(fileURLWithPath: "\(folder.model)/\(Self.index)"))
                #expect(folder.refusal()?.contains(Self.index) == true, "\(folder.name): \(text)")
            }
            try write(map, folder)
            #expect(folder.refusal() == nil)
            // A file that is a pipe is not waited for.
            let shard = "\(folder.model)/\(Self.shards[0])"
            try FileManager.default.removeItem(atPath: shard)
            #expect(mkfifo(shard, 0o600) == 0)
            #expect(folder.refusal()?.contains(Self.shards[0]) == true)
        }
    }
}
