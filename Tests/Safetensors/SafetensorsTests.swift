import Foundation
import Safetensors
import Tensors
import Testing

/// A file from a header's text and its data.
func file(_ header: String, data: [UInt8] = []) -> [UInt8] {
    let text = Array(header.utf8)
    return (0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text + data
}

func message(_ bytes: [UInt8]) -> String {
    do {
        _ = try SafetensorsFile(data: bytes)
        return "accepted"
    } catch { return "\(error)" }
}

@Suite struct SafetensorsReading {
    @Test func readsBackWhatWasWritten() throws {
        let a = Tensor((0..<6).map { Float($0) * 0.25 - 1 }, shape: [2, 3])
        let bytes = SafetensorsWriter.data(
            tensors: [("b", a), ("a", Tensor(scalar: 7)), ("none", Tensor(zeros: [0, 4]))], metadata: ["z": "1", "a": "quote \" and \n"])
        let file = try SafetensorsFile(data: bytes)
        #expect(Set(file.names) == ["b", "a", "none"])
        #expect(file.metadata == ["z": "1", "a": "quote \" and \n"])
        #expect(try file.tensor("b").array == a.array)
        #expect(file.entries["b"]?.shape == [2, 3])
        #expect(try file.tensor("a").array == [7])
        #expect(try file.tensor("none").shape == [0, 4])
    }

    @Test func writesTheSameBytesAlwaysWithAnAlignedHeader() throws {
        let tensors = [("x", Tensor([1, 2, 3], shape: [3]))]
        let bytes = SafetensorsWriter.data(tensors: tensors, metadata: ["b": "2", "a": "1", "c": "3"])
        #expect(bytes == SafetensorsWriter.data(tensors: tensors, metadata: ["c": "3", "a": "1", "b": "2"]))
        let length = bytes.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
        #expect(length % 8 == 0 && bytes.count == 8 + length + 12)
    }

    @Test(arguments: [FloatStorage.bfloat16, .float16]) func halfPrecisionRoundsToNearestEven(storage: FloatStorage) throws {
        let values: [Float] = [0, -1, 1.0 / 3, 65504, 1e-8, .infinity, 3.1415927, 1.00390625, 1.01171875]
        let read = try SafetensorsFile(data: SafetensorsWriter.data(tensors: [("x", Tensor(values, shape: [9]))], dtype: storage)).tensor(
            "x")
        let expected: [Float] =
            storage == .float16
            ? values.map { Float(Float16($0)) }
            : [0, -1, 0.333984375, 65536, 1.0011718e-08, .infinity, 3.140625, 1.0, 1.015625]
        for (found, wanted) in zip(read.array, expected) { #expect(found == wanted || abs(found - wanted) < 1e-6 * abs(wanted)) }
    }

    @Test func readsDoublesAndIntegersOfEveryWidth() throws {
        var data: [UInt8] = []
        withUnsafeBytes(of: Double(0.1)) { data += Array($0) }
        withUnsafeBytes(of: Int64(-5)) { data += Array($0) }
        withUnsafeBytes(of: Int32(-70000)) { data += Array($0) }
        data += [200, 1, 0xFE]
        let read = try SafetensorsFile(
            data: file(
                #"{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"i":{"dtype":"I64","shape":[],"data_offsets":[8,16]},"#
                    + #""j":{"dtype":"I32","shape":[1],"data_offsets":[16,20]},"u":{"dtype":"U8","shape":[1],"data_offsets":[20,21]},"#
                    + #""b":{"dtype":"BOOL","shape":[1],"data_offsets":[21,22]},"s":{"dtype":"I8","shape":[1],"data_offsets":[22,23]}}"#,
                data: data))
        #expect(try read.tensor("d").array == [0.1])
        #expect(try read.integers("i") == [-5])
        #expect(try read.integers("j") == [-70000])
        #expect(try read.integers("u") == [200] && read.integers("b") == [1] && read.integers("s") == [-2])
        #expect(throws: SafetensorsError.self) { try read.tensor("i") }
        #expect(throws: SafetensorsError.self) { try read.integers("d") }
        #expect(throws: SafetensorsError.self) { try read.tensor("absent") }
    }

    @Test func aFileAppearsWholeOrNotAtAll() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("foretaste-st-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let tensor = Tensor([1, 2, 3, 4], shape: [2, 2])
        try SafetensorsWriter.write(tensors: [("x", tensor)], metadata: ["k": "v"], to: folder + "/x.safetensors")
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["x.safetensors"])
        let read = try SafetensorsFile(contentsOf: folder + "/x.safetensors")
        #expect(try read.tensor("x").array == tensor.array)
        #expect(throws: SafetensorsError.self) { try SafetensorsWriter.write(tensors: [("x", tensor)], to: folder + "/no/x.safetensors") }
        #expect(throws: SafetensorsError.self) { try SafetensorsFile(contentsOf: folder) }
    }
}

@Suite struct SafetensorsRefusals {
    @Test(arguments: [
        (#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, "'x'"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 8, "bytes too many"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 0, "data_offsets"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "gap"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4, "'y'"),
        (
            #"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8,
            "duplicate key 'x'"
        ),
        (#"{"x":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}"#, 4, "duplicate key 'shape'"),
        (#"{"x":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}"#, 4, "'Q4'"),
        (#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "negative"),
        (#"{"x":{"dtype":"F32","shape":[4611686018427387904,16],"data_offsets":[0,0]}}"#, 0, "too large"),
        (#"{"x":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#, 4, "shape"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "data_offsets"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}}"#, 4, "'extra'"),
        (#"{"__metadata__":{"k":1}}"#, 0, "'k'"),
        (#"{"__metadata__":[]}"#, 0, "__metadata__"),
        (#" {}"#, 0, "'{'"),
        (#"[]"#, 0, "'{'"),
        (#"{"x":3}"#, 0, "'x'"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]}}"#, 4, "'x'"),
    ]) func theMessageSaysWhatIsWrong(header: String, bytes: Int, says: String) {
        let found = message(file(header, data: [UInt8](repeating: 0, count: bytes)))
        #expect(found.contains(says), "\(found)")
    }

    @Test func headerLengthsThatLieAreRefusedBeforeAnythingIsRead() {
        #expect(message([]).contains("too short"))
        #expect(message([1, 2, 3]).contains("too short"))
        #expect(message([UInt8](repeating: 255, count: 8)).contains("header length"))
        #expect(message([200, 0, 0, 0, 0, 0, 0, 0, UInt8(ascii: "{")]).contains("truncated"))
    }

    /// Thousands of damaged files: none crashes the reader, and whatever it accepts is consistent.
    @Test func noMutationIsAcceptedInconsistently() throws {
        let original = SafetensorsWriter.data(
            tensors: [("first", Tensor(full: 1, shape: [3, 2])), ("second", Tensor(full: 2, shape: [4])), ("empty", Tensor(zeros: [0]))],
            metadata: ["noise.kind": "flow", "layout": "CFHW"])
        var random = RandomStream(seed: 20)
        var accepted = 0
        for _ in 0..<6000 {
            var bytes = original
            for _ in 0..<random.integer(in: 1..<4) {
                let place = random.integer(in: 0..<max(bytes.count, 1))
                switch random.integer(in: 0..<6) {
                case 0: bytes[place] = UInt8(random.integer(in: 0..<256))
                case 1: bytes[place] ^= 1 << UInt8(random.integer(in: 0..<8))
                case 2: bytes.remove(at: place)
                case 3: bytes.insert(Array("0123456789{}[]\",:-".utf8)[random.integer(in: 0..<18)], at: place)
                case 4: bytes.removeLast(min(bytes.count - 1, random.integer(in: 1..<40)))
                default: bytes += bytes[place...].prefix(32)
                }
                if bytes.isEmpty { break }
            }
            guard let file = try? SafetensorsFile(data: bytes) else { continue }
            accepted += 1
            var total = 0
            for name in file.names {
                let entry = try #require(file.entries[name])
                #expect(entry.shape.allSatisfy { $0 >= 0 })
                total += entry.count * entry.dtype.size
                if entry.dtype.isFloatingPoint { _ = try file.tensor(name) } else { _ = try? file.integers(name) }
            }
            let header = bytes.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
            #expect(8 + header + total == bytes.count)
        }
        #expect(accepted > 0, "a changed data byte is still a valid file")
    }
}
