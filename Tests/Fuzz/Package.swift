// swift-tools-version: 6.1
import PackageDescription

// The numeric modules alone, without services or their dependencies: for the fuzzer and the sanitizers, which need everything compiled anew with
// flags of their own. Never part of `swift build` at the root; `scripts/fuzz` and `scripts/sanitize` build it in folders of their own.
//
// Numeric code is compiled with its checks here (no `-Ounchecked`): what would be undefined behaviour there is a crash here.
let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .unsafeFlags(["-enable-testing"]),
]
// libFuzzer counts which edges an input reaches in these.
let fuzzing = Context.environment["FORETASTE_FUZZ"] != nil
let fuzzed = settings + (fuzzing ? [.unsafeFlags(["-sanitize=fuzzer,address", "-parse-as-library"])] : [])

// The pool of CKernels hides from a sanitizer where a tensor ends and when it is gone.
let sanitizer = Context.environment["FORETASTE_SANITIZE"]

let numerics: [Target] = [
    .systemLibrary(name: "COpenBLAS", path: "Shared/System/COpenBLAS", pkgConfig: "openblas"),
    .target(name: "PlainMemory", path: "PlainMemory"),
    .target(
        name: "CKernels", dependencies: sanitizer == nil ? [] : ["PlainMemory"], path: "Shared/System/CKernels",
        exclude: sanitizer == nil ? [] : ["memory.c"],
        // The loader chooses among several versions of a kernel before the thread sanitizer has started.
        cSettings: [.unsafeFlags(["-O3", "-ffast-math", "-fno-finite-math-only"])]
            + (sanitizer == "thread" ? [.define("CK_ONE_VERSION")] : [])),
    .target(name: "Tensors", dependencies: ["COpenBLAS", "CKernels"], path: "Shared/Tensors", swiftSettings: settings),
    .target(name: "Safetensors", dependencies: ["Tensors"], path: "Shared/Safetensors", swiftSettings: fuzzed),
    .target(
        name: "SafetensorsChecks", dependencies: ["Safetensors", "Tensors"], path: "Support/SafetensorsChecks", swiftSettings: fuzzed),
]
let fuzzer: [Target] = [
    .executableTarget(
        name: "SafetensorsFuzz", dependencies: ["SafetensorsChecks", "Safetensors"], path: "SafetensorsFuzz", swiftSettings: fuzzed,
        linkerSettings: [.unsafeFlags(["-sanitize=fuzzer,address"])])
]
let threaded: [Target] = [
    .testTarget(name: "TensorsTests", dependencies: ["Tensors"], path: "Suites/Tensors", swiftSettings: settings)
]
let others: [Target] = [
    .target(name: "CAllocationCounter", path: "Support/CAllocationCounter"),
    .executableTarget(
        name: "SafetensorsMutator", dependencies: ["CAllocationCounter", "SafetensorsChecks", "Safetensors"],
        path: "Support/SafetensorsMutator", swiftSettings: settings),
    .target(name: "Backbones", dependencies: ["Tensors", "Safetensors"], path: "Shared/Backbones", swiftSettings: settings),
    .target(name: "Diffusion", dependencies: ["Tensors", "Safetensors"], path: "Shared/Diffusion", swiftSettings: settings),
    .testTarget(
        name: "SafetensorsTests", dependencies: ["Tensors", "Safetensors", "SafetensorsChecks", "SafetensorsMutator"],
        path: "Suites/Safetensors", swiftSettings: settings),
    .testTarget(
        name: "BackbonesTests", dependencies: ["Tensors", "Safetensors", "Backbones"], path: "Suites/Backbones", exclude: ["Fixtures"],
        swiftSettings: settings),
    .testTarget(
        name: "DiffusionTests", dependencies: ["Diffusion", "Tensors", "Safetensors"], path: "Suites/Diffusion",
        resources: [.copy("Fixtures")], swiftSettings: settings),
]

let package = Package(
    name: "foretaste-numerics",
    platforms: [.macOS(.v15)],
    targets: numerics + (fuzzing ? fuzzer : sanitizer == "thread" ? threaded : threaded + others)
)
