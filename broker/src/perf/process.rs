//! What processes cost: the load generator itself, and those it was told to watch.

/// Linux counts a process's time in ticks of 10 ms, whatever the machine.
const TICKS_PER_S: f64 = 100.0;

/// Seconds of user and system time so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Cpu {
    /// `None` where there is no `/proc`.
    pub(super) own: Option<f64>,
    /// The sum over the watched processes; `None` if there are none, or one of them has ended.
    pub(super) watched: Option<f64>,
}

impl Cpu {
    pub(super) fn now(watched: &[u32]) -> Self {
        let sum = || watched.iter().map(|pid| cpu_s(&pid.to_string())).sum();
        Self {
            own: cpu_s("self"),
            watched: if watched.is_empty() { None } else { sum() },
        }
    }

    pub(super) fn since(self, before: Self) -> Self {
        let difference = |now: Option<f64>, before: Option<f64>| Some(now? - before?);
        Self {
            own: difference(self.own, before.own),
            watched: difference(self.watched, before.watched),
        }
    }
}

fn cpu_s(process: &str) -> Option<f64> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Fields 14 and 15 of a line of `/proc/PID/stat`. The second is a name in parentheses that may hold anything.
pub(super) fn parse_stat(line: &str) -> Option<f64> {
    let after = &line[line.rfind(')')? + 1..];
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_PER_S)
}
