// swift-tools-version: 6.1
import Foundation
import PackageDescription

// One configuration everywhere: `swift build -c release` builds what `make demo`, `make test` and CI run.
// `-enable-testing` therefore stands in the settings and not on the command line, where it would rebuild everything.
let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .unsafeFlags(["-enable-testing"]),
]

let log: Target.Dependency = .product(name: "Logging", package: "swift-log")
let metrics: Target.Dependency = .product(name: "Metrics", package: "swift-metrics")
let coreMetrics: Target.Dependency = .product(name: "CoreMetrics", package: "swift-metrics")
let lifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let hummingbird: Target.Dependency = .product(name: "Hummingbird", package: "hummingbird")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")

/// The migrations are SQL files that dbmate can run too; each is bundled as a resource of the `Migrations` target.
let migrationFiles =
    ((try? FileManager.default.contentsOfDirectory(atPath: Context.packageDirectory + "/migrations")) ?? [])
    .filter { $0.hasSuffix(".sql") }.sorted()

let package = Package(
    name: "foretaste",
    platforms: [.macOS(.v15)],
    products: [
        .executable(name: "foretaste", targets: ["Foretaste"]),
        .executable(name: "foretaste-ingest", targets: ["Ingest"]),
        .executable(name: "foretaste-reward-trainer", targets: ["RewardTrainer"]),
        .executable(name: "foretaste-latent-scorer", targets: ["LatentScorer"]),
        .executable(name: "foretaste-generator-tuner", targets: ["GeneratorTuner"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.5.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.6.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0", traits: []),
    ],
    targets: [
        // System libraries, and the thinnest C shims over them.
        .systemLibrary(
            name: "COpenBLAS", path: "Shared/System/COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
        .systemLibrary(name: "CLibpq", path: "Shared/System/CLibpq", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),
        .systemLibrary(name: "CLibcrypto", path: "Shared/System/CLibcrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CZlib", path: "Shared/System/CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .target(name: "CFiles", path: "Shared/System/CFiles"),
        .target(name: "CCurl", path: "Shared/System/CCurl", linkerSettings: [.linkedLibrary("curl")]),
        .target(name: "CSpawn", path: "Shared/System/CSpawn"),
        .target(
            name: "CKernels", path: "Shared/System/CKernels", cSettings: [.unsafeFlags(["-O3", "-ffast-math", "-fno-finite-math-only"])]),

        // Numerics: a library that somebody could use alone.
        .target(name: "Tensors", dependencies: ["COpenBLAS", "CKernels"], path: "Shared/Tensors", swiftSettings: settings),
        .target(name: "Safetensors", dependencies: ["Tensors"], path: "Shared/Safetensors", swiftSettings: settings),
        .target(name: "Backbones", dependencies: ["Tensors", "Safetensors"], path: "Shared/Backbones", swiftSettings: settings),
        .target(name: "Diffusion", dependencies: ["Tensors", "Safetensors"], path: "Shared/Diffusion", swiftSettings: settings),
        .target(
            name: "Rewards", dependencies: ["Tensors", "Safetensors", "Backbones", "Diffusion"], path: "Shared/Rewards",
            swiftSettings: settings),
        .target(
            name: "Alignment", dependencies: ["Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards"], path: "Shared/Alignment",
            swiftSettings: settings),
        .target(
            name: "DemoWorld", dependencies: ["Tensors", "Safetensors"], path: "Shared/DemoWorld", resources: [.copy("Resources")],
            swiftSettings: settings),

        // Plumbing: knows nothing of tensors or of preferences.
        .target(
            name: "Artifacts", dependencies: ["CCurl", "CFiles", "CLibcrypto", log], path: "Shared/Artifacts", swiftSettings: settings),
        .target(name: "Postgres", dependencies: ["CLibpq", "CSpawn", log], path: "Shared/Postgres", swiftSettings: settings),
        .target(
            name: "Migrations", dependencies: ["Postgres"], path: "migrations", resources: migrationFiles.map { .copy($0) },
            swiftSettings: settings),
        .target(name: "JobQueue", dependencies: ["Postgres", log], path: "Shared/JobQueue", swiftSettings: settings),
        .target(
            name: "ServiceKit", dependencies: ["CZlib", hummingbird, log, metrics, coreMetrics, lifecycle], path: "Shared/ServiceKit",
            swiftSettings: settings),
        .target(
            name: "Access", dependencies: ["CLibcrypto", "Postgres", "ServiceKit", hummingbird, log], path: "Shared/Access",
            swiftSettings: settings),

        // The domain in SQL.
        .target(
            name: "Preferences", dependencies: ["CLibcrypto", "Postgres", "JobQueue", log], path: "Shared/Preferences",
            swiftSettings: settings),

        // What the services have in common where plumbing and domain meet.
        .target(
            name: "ServiceWiring", dependencies: ["Artifacts", "Postgres", "JobQueue", "Preferences", "ServiceKit", log],
            path: "Shared/ServiceWiring", swiftSettings: settings),

        // Services: thin; they join the three.
        .target(
            name: "ArtifactServer", dependencies: ["Artifacts", "ServiceKit", hummingbird, log], path: "Services/Foretaste/ArtifactServer",
            swiftSettings: settings),
        .executableTarget(
            name: "Ingest",
            dependencies: [
                "Tensors", "Safetensors", "Backbones", "Artifacts", "Postgres", "Migrations", "JobQueue", "Preferences", "ServiceKit",
                "ServiceWiring", "Access", hummingbird, log, lifecycle,
            ], path: "Services/Ingest", swiftSettings: settings),
        .executableTarget(
            name: "RewardTrainer",
            dependencies: [
                "Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards", "Alignment", "Artifacts", "Postgres", "JobQueue",
                "Preferences", "ServiceKit", "ServiceWiring", hummingbird, log, lifecycle,
            ], path: "Services/RewardTrainer", swiftSettings: settings),
        .executableTarget(
            name: "LatentScorer",
            dependencies: [
                "Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards", "Alignment", "Artifacts", "Postgres", "JobQueue",
                "Preferences", "ServiceKit", "ServiceWiring", "Access", hummingbird, log, lifecycle,
            ], path: "Services/LatentScorer", swiftSettings: settings),
        .executableTarget(
            name: "GeneratorTuner",
            dependencies: [
                "Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards", "Alignment", "Artifacts", "Postgres", "JobQueue",
                "Preferences", "ServiceKit", "ServiceWiring", hummingbird, log, lifecycle,
            ], path: "Services/GeneratorTuner", swiftSettings: settings),
        .executableTarget(
            name: "Foretaste",
            dependencies: [
                "Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards", "Alignment", "DemoWorld", "Artifacts", "Postgres",
                "Migrations", "JobQueue", "Preferences", "ServiceKit", "ServiceWiring", "Access", "ArtifactServer", "CCurl", arguments, log,
            ], path: "Services/Foretaste", exclude: ["ArtifactServer"], swiftSettings: settings),

        // Tests: a folder a module. What they need beside it stands in Support.
        .target(name: "PostgresTesting", dependencies: ["Postgres"], path: "Tests/Support/PostgresTesting", swiftSettings: settings),
        .target(name: "NetworkTesting", path: "Tests/Support/NetworkTesting", swiftSettings: settings),
        .target(name: "SeededRandom", path: "Tests/Support/SeededRandom", swiftSettings: settings),
        .target(name: "CClockShift", path: "Tests/Support/CClockShift"),
        .executableTarget(
            name: "ArtifactTestFetcher", dependencies: ["Artifacts", log], path: "Tests/Support/ArtifactTestFetcher",
            swiftSettings: settings),
        .executableTarget(
            name: "JobQueueTestWorker", dependencies: ["CClockShift", "JobQueue", "Postgres", log],
            path: "Tests/Support/JobQueueTestWorker",
            swiftSettings: settings),
        .target(
            name: "ChaosHarness", dependencies: ["JobQueue", "Postgres", "Migrations", "SeededRandom", log], path: "Tests/Chaos/Harness",
            swiftSettings: settings),
        .executableTarget(name: "Chaos", dependencies: ["ChaosHarness"], path: "Tests/Chaos/Program", swiftSettings: settings),
        .executableTarget(
            name: "QueueBench", dependencies: ["JobQueue", "Postgres", "Migrations", log], path: "Tests/Performance/QueueBench",
            swiftSettings: settings),
        .executableTarget(name: "TensorBench", dependencies: ["Tensors"], path: "Tests/Performance/TensorBench", swiftSettings: settings),
        .executableTarget(
            name: "BackboneBench", dependencies: ["COpenBLAS", "Tensors", "Backbones"], path: "Tests/Performance/BackboneBench",
            swiftSettings: settings),
        .testTarget(name: "TensorsTests", dependencies: ["Tensors"], path: "Tests/Tensors", swiftSettings: settings),
        .target(name: "CAllocationCounter", path: "Tests/Support/CAllocationCounter"),
        .target(
            name: "SafetensorsChecks", dependencies: ["Tensors", "Safetensors"], path: "Tests/Support/SafetensorsChecks",
            swiftSettings: settings),
        .executableTarget(
            name: "SafetensorsMutator", dependencies: ["Safetensors", "SafetensorsChecks", "CAllocationCounter"],
            path: "Tests/Support/SafetensorsMutator", swiftSettings: settings),
        .testTarget(
            name: "SafetensorsTests", dependencies: ["Tensors", "Safetensors", "SafetensorsChecks", "SafetensorsMutator"],
            path: "Tests/Safetensors", swiftSettings: settings),
        .testTarget(
            name: "BackbonesTests", dependencies: ["Tensors", "Safetensors", "Backbones"], path: "Tests/Backbones", exclude: ["Fixtures"],
            swiftSettings: settings),
        .testTarget(
            name: "DiffusionTests", dependencies: ["Diffusion", "Tensors", "Safetensors"], path: "Tests/Diffusion",
            resources: [.copy("Fixtures")], swiftSettings: settings),
        .testTarget(
            name: "DemoWorldTests", dependencies: ["Alignment", "Backbones", "DemoWorld", "Diffusion", "Tensors", "Safetensors"],
            path: "Tests/DemoWorld", resources: [.copy("Fixtures")], swiftSettings: settings),
        .testTarget(
            name: "RewardsTests", dependencies: ["Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards"], path: "Tests/Rewards",
            swiftSettings: settings),
        .testTarget(
            name: "AlignmentTests", dependencies: ["Alignment", "Diffusion", "Tensors", "Backbones", "Safetensors"],
            path: "Tests/Alignment",
            swiftSettings: settings),
        .testTarget(
            name: "PostgresTests", dependencies: ["Postgres", "Migrations", "PostgresTesting"], path: "Tests/Postgres",
            swiftSettings: settings),
        .testTarget(
            name: "JobQueueTests",
            dependencies: ["JobQueue", "Postgres", "Migrations", "PostgresTesting", "SeededRandom", "JobQueueTestWorker", log],
            path: "Tests/JobQueue", swiftSettings: settings),
        .testTarget(
            name: "ChaosTests", dependencies: ["ChaosHarness", "JobQueueTestWorker"], path: "Tests/Chaos/Tests", swiftSettings: settings),
        .testTarget(
            name: "ArtifactsTests", dependencies: ["Artifacts", "ArtifactTestFetcher", "NetworkTesting", "SeededRandom", "Postgres", log],
            path: "Tests/Artifacts",
            swiftSettings: settings),
        .target(
            name: "OpenAPIChecks", path: "Tests/Support/OpenAPIChecks", exclude: ["check", "check.py", "hooks.py", "schemathesis.toml"],
            swiftSettings: settings),
        .testTarget(
            name: "AccessTests", dependencies: ["PostgresTesting", "Access", "ServiceKit", "Postgres", "Migrations", hummingbird, log],
            path: "Tests/Access", swiftSettings: settings),
        .testTarget(
            name: "ServiceKitTests", dependencies: ["NetworkTesting", "ServiceKit", hummingbird, log, coreMetrics, lifecycle],
            path: "Tests/ServiceKit", swiftSettings: settings),
        .testTarget(
            name: "ArtifactServerTests", dependencies: ["ArtifactServer", "Artifacts", "NetworkTesting", "ServiceKit", hummingbird, log],
            path: "Tests/ArtifactServer", swiftSettings: settings),
        .testTarget(
            name: "PreferencesTests", dependencies: ["PostgresTesting", "Preferences", "JobQueue", "Postgres", "Migrations", log],
            path: "Tests/Preferences", swiftSettings: settings),
        .testTarget(
            name: "IngestTests",
            dependencies: [
                "NetworkTesting", "PostgresTesting", "Ingest", "Tensors", "Safetensors", "Artifacts", "Postgres", "Migrations", "JobQueue",
                "Preferences", "ServiceKit", "Access", "OpenAPIChecks", log,
            ], path: "Tests/Ingest", swiftSettings: settings),
        .testTarget(
            name: "RewardTrainerTests",
            dependencies: [
                "PostgresTesting", "RewardTrainer", "Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards", "Artifacts", "Postgres",
                "Migrations", "JobQueue", "Preferences", "ServiceKit", log,
            ], path: "Tests/RewardTrainer", swiftSettings: settings),
        .testTarget(
            name: "LatentScorerTests",
            dependencies: [
                "PostgresTesting", "LatentScorer", "Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards", "Artifacts", "Postgres",
                "Migrations", "JobQueue", "Preferences", "ServiceKit", "Access", "OpenAPIChecks", hummingbird, log,
            ], path: "Tests/LatentScorer", swiftSettings: settings),
        .testTarget(
            name: "GeneratorTunerTests",
            dependencies: [
                "PostgresTesting", "Tensors", "Safetensors", "Backbones", "Diffusion", "Rewards", "Alignment", "Artifacts", "Postgres",
                "Migrations", "JobQueue", "Preferences", "GeneratorTuner",
            ], path: "Tests/GeneratorTuner", swiftSettings: settings),
        .testTarget(
            name: "ForetasteTests",
            dependencies: [
                "PostgresTesting", "Foretaste", "Ingest", "RewardTrainer", "LatentScorer", "GeneratorTuner", "Tensors", "Safetensors",
                "Backbones", "Postgres", "Migrations", "JobQueue", "Preferences", "Access", "ServiceKit", arguments,
            ], path: "Tests/Foretaste", swiftSettings: settings),
    ]
)
