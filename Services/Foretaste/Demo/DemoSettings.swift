/// How large a run is. The intervals of the report need at least 96 Best-of-N groups and 240 tuning clips; the miniature is for tests.
struct DemoSettings: Sendable {
    var seed: UInt64 = 7
    /// Groups of candidates that are labelled, and the sampler's steps.
    var trainingGroups = 336
    var groupSize = 4
    var trainingSteps = 10
    /// Best-of-N.
    var candidates = 8
    var steps = 20
    var validationGroups = 48
    var testGroups = 96
    /// Reward training.
    var rewardSteps = 500
    var rewardBlock = 3
    /// Tuning.
    var iterations = 100
    var waypoints = 20
    var tuningClips = 240
    var tuningValidationClips = 96
    var tuningSteps = 10
    var shift: Float = 3

    /// Streams of starting noise that must not meet.
    enum Noise {
        static let validation: UInt64 = 1_000_003
        static let test: UInt64 = 2_000_003
        static let tuningValidation: UInt64 = 3_000_017
        static let tuningTest: UInt64 = 4_000_037
    }

    /// A run of a few seconds: it shows that everything is joined, and its numbers mean nothing.
    static let miniature: DemoSettings = {
        var settings = DemoSettings()
        settings.trainingGroups = 24
        settings.validationGroups = 4
        settings.testGroups = 6
        settings.rewardSteps = 40
        settings.iterations = 4
        settings.waypoints = 2
        settings.tuningClips = 12
        settings.tuningValidationClips = 12
        return settings
    }()
}
