import Foundation

/// Seconds of wall time and of the whole process's CPU time that `body` takes.
func measured<Result>(_ body: () throws -> Result) rethrows -> (result: Result, wall: Double, cpu: Double) {
    let (started, busy) = (seconds(CLOCK_MONOTONIC), seconds(CLOCK_PROCESS_CPUTIME_ID))
    let result = try body()
    return (result, seconds(CLOCK_MONOTONIC) - started, seconds(CLOCK_PROCESS_CPUTIME_ID) - busy)
}

private func seconds(_ clock: clockid_t) -> Double {
    var time = timespec()
    clock_gettime(clock, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// The most memory that this process has ever held, in bytes: `VmHWM`, which unlike `ru_maxrss` does not begin at the parent's.
func peakMemory() -> Int {
    guard let file = fopen("/proc/self/status", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 256)
    while let text = fgets(&line, 256, file) {
        let words = String(cString: text).split(whereSeparator: \.isWhitespace)
        if words.first == "VmHWM:", words.count > 1, let kibibytes = Int(words[1]) { return kibibytes << 10 }
    }
    return 0
}
