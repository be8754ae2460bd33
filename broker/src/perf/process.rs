//! What the load generator itself costs.

/// Linux counts a process's time in ticks of 10 ms, whatever the machine.
const TICKS_PER_S: f64 = 100.0;

/// User and system time of this process in seconds; `None` where there is no `/proc`.
pub(super) fn cpu_s() -> Option<f64> {
    parse_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// Fields 14 and 15 of a line of `/proc/PID/stat`. The second is a name in parentheses that may hold anything.
pub(super) fn parse_stat(line: &str) -> Option<f64> {
    let after = &line[line.rfind(')')? + 1..];
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_PER_S)
}
