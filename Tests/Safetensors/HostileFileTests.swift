import Foundation
import Safetensors
import Tensors
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// One tensor's header entry around these three values, as text.
private func header(_ dtype: String = "\"F32\"", _ shape: String = "[1]", _ offsets: String = "[0,4]") -> String {
    #"{"x":{"dtype":\#(dtype),"shape":\#(shape),"data_offsets":\#(offsets)}}"#
}

private func withFolder(_ body: (String) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("foretaste-hostile-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try body(folder)
}

private func message(reading path: String) -> String {
    do {
        _ = try SafetensorsFile(contentsOf: path)
        return "accepted"
    } catch { return "\(error)" }
}

struct HostileFileTests {
    @Test(arguments: [
        // Numbers that are no extents, and extents that are no memory.
        (header("\"F32\"", "[1.0]"), "shape"), (header("\"F32\"", "[1e0]"), "shape"), (header("\"F32\"", "[1e999]"), "shape"),
        (header("\"F32\"", "[-0.0]"), "shape"), (header("\"F32\"", "[01]"), "shape"), (header("\"F32\"", "[\"1\"]"), "shape"),
        (header("\"F32\"", "[null]"), "shape"), (header("\"F32\"", "[[1]]"), "shape"), (header("\"F32\"", "{}"), "shape"),
        (header("\"F32\"", "1"), "shape"), (header("\"F32\"", "[9223372036854775808]"), "shape"),
        (header("\"F32\"", "[18446744073709551615]"), "shape"), (header("\"F32\"", "[9223372036854775807]"), "too large"),
        (header("\"F32\"", "[4294967296,4294967296]"), "too large"), (header("\"F32\"", "[4294967296,4294967296,0]"), "too large"),
        (header("\"F32\"", "[-9223372036854775808]"), "negative"),
        (header("\"F32\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), "at most 16"),
        // Offsets.
        (header("\"F32\"", "[1]", "[0,4,8]"), "data_offsets"), (header("\"F32\"", "[1]", "[0]"), "data_offsets"),
        (header("\"F32\"", "[1]", "[-4,0]"), "data_offsets"), (header("\"F32\"", "[1]", "[0,4.0]"), "data_offsets"),
        (header("\"F32\"", "[1]", "[18446744073709551612,0]"), "data_offsets"),
        (header("\"F32\"", "[1]", "[9223372036854775803,9223372036854775807]"), "data_offsets"),
        // Types.
        (header("\"F8_E4M3\"", "[4]"), "'F8_E4M3' is not supported"), (header("\"F8_E5M2\"", "[4]"), "'F8_E5M2' is not supported"),
        (header("\"F4\"", "[8]"), "'F4' is not supported"), (header("\"C64\"", "[1]"), "'C64' is not supported"),
        (header("\"f32\""), "'f32' is not supported"), (header("\"\""), "'' is not supported"), (header("32"), "dtype"),
        (header("null"), "dtype"),
        // Duplicates at every level, also in disguise.
        (#"{"__metadata__":{"k":"1","k":"2"}}"#, "duplicate key 'k'"),
        (#"{"__metadata__":{},"__metadata__":{}}"#, "duplicate key '__metadata__'"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\u0078":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, "duplicate"),
        (#"{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, "duplicate key 'dtype'"),
        (#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}}"#, "duplicate key 'data_offsets'"),
        // Missing parts.
        (#"{"x":{"shape":[1],"data_offsets":[0,4]}}"#, "dtype is missing"),
        (#"{"x":{"dtype":"F32","data_offsets":[0,4]}}"#, "shape is missing"),
        (#"{"x":{"dtype":"F32","shape":[1]}}"#, "data_offsets is missing"), (#"{"x":{}}"#, "dtype is missing"), (#"{"x":[]}"#, "an array"),
        (#"{"__metadata__":"none"}"#, "a string, not an object"), (#"{"__metadata__":{"k":null}}"#, "'k' is null"),
        // Text that is no JSON.
        ("{", "expected '\"'"), ("{}{}", "text after"), (#"{"x":1,}"#, "'x'"), ("{'x':1}", "JSON"), ("{\"x\"", "JSON"),
        (#"{"\ud800":1}"#, "surrogate"),
        (#"{"\ud800\ud800":1}"#, "surrogate"), (#"{"\q":1}"#, "unknown escape"), ("{\"a\nb\":1}", "control character"),
        (#"{"\u12g4":1}"#, "\\u escape"),
        (#"{"\"#, "without an end"), (#"{"\u00"#, "without an end"),
    ]) func `A header that lies is refused with its place`(header: String, says: String) {
        let found = message(file(header, data: [0, 0, 0, 0]))
        #expect(found.contains(says), "\(found)")
    }

    @Test func `Text that is not UTF-8 is refused wherever it stands`() {
        for bytes: [UInt8] in [[0xFF], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xE2, 0x82], [0x80]] {
            for text in [#"{"@":{}}"#, #"{"__metadata__":{"@":"v"}}"#, #"{"__metadata__":{"k":"@"}}"#, #"{"x":{"dtype":"@"}}"#] {
                let header = Array(text.utf8).flatMap { $0 == UInt8(ascii: "@") ? bytes : [$0] }
                let whole = (0..<8).map { UInt8(truncatingIfNeeded: header.count >> (8 * $0)) } + header
                #expect(message(whole).contains("not UTF-8"), "\(text) with \(bytes)")
            }
        }
    }

    @Test func `Empty tensors, extents of zero and single numbers are read as they are`() throws {
        let read = try SafetensorsFile(
            data: file(
                #"{"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"F16","shape":[0],"data_offsets":[4,4]},"#
                    + #""wide":{"dtype":"I64","shape":[1152921504606846975,0],"data_offsets":[4,4]}, "#
                    + #""first":{"dtype":"BF16","shape":[3,0,2],"data_offsets":[0,0]},"flag":{"dtype":"BOOL","shape":[2],"data_offsets":[4,6]}}   "#,
                data: [0, 0, 0x80, 0x3F, 1, 0]))
        #expect(read.names == ["first", "scalar", "none", "wide", "flag"])
        #expect(try read.tensor("scalar").shape == [] && read.tensor("scalar").item == 1)
        #expect(try read.tensor("none").count == 0 && read.tensor("first").shape == [3, 0, 2])
        #expect(try read.integers("wide").isEmpty && read.entries["wide"]?.count == 0)
        #expect(try read.integers("flag") == [1, 0])
        #expect(try SafetensorsFile(data: file("{}")).names.isEmpty)
    }

    @Test func `A boolean is 0 or 1, and an unsigned number beyond Int64 is refused`() throws {
        let flags = try SafetensorsFile(data: file(header("\"BOOL\"", "[4]"), data: [0, 1, 2, 0]))
        #expect(throws: SafetensorsError("tensor 'x': 2 is out of range")) { try flags.integers("x") }
        let large = try SafetensorsFile(data: file(header("\"U64\"", "[1]", "[0,8]"), data: [UInt8](repeating: 255, count: 8)))
        #expect(throws: SafetensorsError("tensor 'x': 18446744073709551615 is out of range")) { try large.integers("x") }
    }

    @Test func `Names that would move a terminal's cursor or fill its screen are made harmless in messages`() throws {
        let name = "a\u{1B}[2J\u{9B}\u{202E}\u{2028}b" + String(repeating: "x", count: 500)
        let text = StrictJSON.quoted(name)
        let found = message(file(#"{\#(text):{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, data: [0, 0, 0, 0]))
        #expect(found.hasPrefix("tensor 'a?[2J???bxxx") && found.contains("...'") && found.utf8.count < 300, "\(found)")
        #expect(message(file(#"{"\#(String(repeating: "n", count: 1025))":{}}"#)).contains("1025 bytes"))
    }

    @Test func `Depth, the number of values and that of metadata are limited`() {
        #expect(throws: SafetensorsError.self) { try StrictJSON.parse(Array(String(repeating: "[", count: 100_000).utf8)) }
        #expect(throws: SafetensorsError.self) { try StrictJSON.parse(Array(String(repeating: "{\"a\":", count: 100_000).utf8)) }
        #expect(throws: SafetensorsError.self) {
            try StrictJSON.parse(Array(("[" + String(repeating: "0,", count: 1 << 20) + "0]").utf8))
        }
        #expect((try? StrictJSON.parse(Array((String(repeating: "[", count: 32) + String(repeating: "]", count: 32)).utf8))) != nil)
        #expect(message(file(String(repeating: "{\"a\":", count: 100_000))).contains("unknown field 'a'"))
        let metadata = (0...10_000).map { "\"\($0)\":\"\"" }.joined(separator: ",")
        #expect(message(file("{\"__metadata__\":{\(metadata)}}")).contains("more than 10000"))
    }

    @Test func `A file that shrinks while it is open is an error, not a signal`() throws {
        try withFolder { folder in
            let path = folder + "/x.safetensors"
            for dtype in [FloatStorage.float32, .bfloat16] {
                let tensor = Tensor(full: 3, shape: [3 << 20])
                try SafetensorsWriter.write(tensors: [("x", tensor)], dtype: dtype, to: path)
                let open = try SafetensorsFile(contentsOf: path)
                #expect(try open.tensor("x") == tensor, "several pieces make the whole")
                #expect(truncate(path, 3 << 20) == 0)
                do {
                    _ = try open.tensor("x")
                    Issue.record("read beyond the end")
                } catch { #expect("\(error)".contains("shrank"), "\(error)") }
                #expect(truncate(path, 4) == 0)
                #expect(message(reading: path).contains("x.safetensors: no safetensors file: 4 bytes"))
            }
        }
    }

    @Test func `Pipes, devices and folders are refused at once; symbolic links are followed`() throws {
        try withFolder { folder in
            let path = folder + "/x.safetensors"
            try SafetensorsWriter.write(tensors: [("x", Tensor(scalar: 1))], to: path)
            try FileManager.default.createSymbolicLink(atPath: folder + "/link", withDestinationPath: "x.safetensors")
            try FileManager.default.createSymbolicLink(atPath: folder + "/loop", withDestinationPath: "loop")
            #expect(mkfifo(folder + "/pipe", 0o600) == 0)
            #expect(try SafetensorsFile(contentsOf: folder + "/link").tensor("x").item == 1)
            #expect(message(reading: folder + "/pipe") == "pipe: is not a regular file")
            for other in [folder, "/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem", folder + "/loop", folder + "/none", ""] {
                let found = message(reading: other)
                #expect(found != "accepted", "\(other)")
            }
        }
    }

    @Test func `A sparse file that honestly holds more than memory is an error`() throws {
        try withFolder { folder in
            let path = folder + "/x.safetensors"
            let count = 1 << 40
            let head = file(#"{"x":{"dtype":"U8","shape":[\#(count)],"data_offsets":[0,\#(count)]}}"#)
            try Data(head).write(to: URL(filePath: path))
            try #require(truncate(path, head.count + count) == 0)
            let open = try SafetensorsFile(contentsOf: path)
            #expect(throws: SafetensorsError.self) { try open.integers("x") }
        }
    }
}
