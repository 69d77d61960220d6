import Foundation

/// What every process can say of itself, in the names that Prometheus' client libraries use.
enum ProcessMetrics {
    /// The process' start in seconds since 1970, as nearly as it matters: when this was first asked for.
    static let startTime = Date.now.timeIntervalSince1970

    static func render() -> String {
        var text = ""
        func gauge(_ name: String, _ value: Double, type: String = "gauge") {
            text += "# TYPE \(name) \(type)\n\(name) \(PrometheusText.number(value))\n"
        }
        var usage = rusage()
        if getrusage(RUSAGE_SELF.rawValue, &usage) == 0 {
            let seconds =
                Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6
            gauge("process_cpu_seconds_total", seconds, type: "counter")
        }
        let page = Double(sysconf(Int32(_SC_PAGESIZE)))
        // Virtual and resident size in pages.
        if let statm = try? String(contentsOfFile: "/proc/self/statm", encoding: .ascii) {
            let fields = statm.split(separator: " ").prefix(2).compactMap { Double($0) }
            if fields.count == 2 {
                gauge("process_virtual_memory_bytes", fields[0] * page)
                gauge("process_resident_memory_bytes", fields[1] * page)
            }
        }
        if let files = try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd") {
            gauge("process_open_fds", Double(files.count))
        }
        var limit = rlimit()
        if getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 { gauge("process_max_fds", Double(limit.rlim_cur)) }
        gauge("process_start_time_seconds", startTime)
        return text
    }
}
