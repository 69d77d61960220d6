import Glibc
import Safetensors
import SafetensorsChecks

/// libFuzzer's own entry, which our `main` hands over to.
@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ count: UnsafeMutablePointer<Int32>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ test: @convention(c) (UnsafePointer<UInt8>?, Int) -> Int32
) -> Int32

/// SwiftPM calls an executable's entry by the name of its target and makes the linker jump there.
@_cdecl("SafetensorsFuzz_main")
public func start(_ count: Int32, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Int32 {
    var (count, arguments) = (count, arguments)
    return runDriver(&count, &arguments) { LLVMFuzzerTestOneInput($0, $1) }
}

/// One input: a crash is a finding, and so is a file that is accepted and inconsistent. The same bytes are also read as JSON alone.
@_cdecl("LLVMFuzzerTestOneInput")
public func LLVMFuzzerTestOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let bytes = Array(UnsafeBufferPointer(start: start, count: count))
    if case .inconsistent(let what) = FileCheck.verdict(of: bytes) { fatalError("accepted, but \(what)") }
    _ = try? StrictJSON.parse(bytes)
    return 0
}
