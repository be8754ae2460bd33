//! What came out, for people and for programs.

use std::fmt::{self, Write};

use serde::Serialize;

use super::{
    latency::Summary,
    meter::{Total, Totals},
    options::Options,
};

/// Latencies are microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// As the server names itself.
    pub server: String,
    pub setup: Setup,
    /// How long was measured.
    pub seconds: f64,
    pub published: Rate,
    pub confirmed: Rate,
    pub consumed: Rate,
    /// Publishes that the server refused.
    pub nacked: u64,
    /// Messages that were not confirmed in the end, although the run waited.
    pub unconfirmed: u64,
    pub redelivered: u64,
    /// From publish to confirm.
    pub confirm_latency: Option<Summary>,
    /// From publish to delivery.
    pub deliver_latency: Option<Summary>,
    /// User and system time of this program while it measured.
    pub cpu_s: Option<f64>,
    /// The same for each message that it published or consumed.
    pub cpu_us_per_message: Option<f64>,
    /// The time of the processes that it was told to watch.
    pub watched_cpu_s: Option<f64>,
    /// The same for each message published, or consumed if none was.
    pub watched_cpu_us_per_message: Option<f64>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setup {
    pub publishers: u32,
    pub consumers: u32,
    pub queues: u32,
    pub queue_type: Option<&'static str>,
    pub durable: bool,
    pub persistent: bool,
    pub fanout: bool,
    pub topic_bindings: Option<u32>,
    pub size: usize,
    pub confirm: u32,
    pub rate: Option<f64>,
    pub prefetch: u16,
    pub ack_every: Option<u32>,
}

impl Setup {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            publishers: options.publishers,
            consumers: options.consumers,
            queues: options.queues,
            queue_type: options.queue_type.map(super::options::QueueType::as_str),
            durable: !options.transient,
            persistent: options.persistent,
            fanout: options.fanout,
            topic_bindings: options.topic_bindings,
            size: options.size,
            confirm: options.confirm,
            rate: options.rate,
            prefetch: options.prefetch,
            ack_every: (!options.no_ack).then_some(options.ack_every),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rate {
    pub count: u64,
    pub seconds: f64,
    pub per_s: f64,
}

impl Rate {
    fn new(count: u64, ns: u64) -> Self {
        let seconds = ns as f64 / 1e9;
        Self {
            count,
            seconds,
            per_s: if ns > 0 { count as f64 / seconds } else { 0.0 },
        }
    }
}

/// When was measured, and what had been counted at both ends.
pub(super) struct Span {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    pub(super) from: Totals,
    pub(super) to: Totals,
    /// Each count is over when its last message was counted, not when everything was.
    pub(super) is_open_ended: bool,
}

impl Span {
    pub(super) fn rate(&self, total: impl Fn(&Totals) -> Total) -> Rate {
        let to = total(&self.to);
        let end = if self.is_open_ended { to.last_ns } else { self.to_ns };
        let count = to.count - total(&self.from).count;
        Rate::new(count, end.saturating_sub(self.from_ns))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {:.1} s", self.server, self.seconds)?;
        for (name, rate) in [
            ("published", &self.published),
            ("confirmed", &self.confirmed),
            ("consumed", &self.consumed),
        ] {
            if rate.count > 0 {
                let (per_s, count) = (grouped(rate.per_s.round() as u64), grouped(rate.count));
                writeln!(f, "{name:<12} {per_s:>12}/s   {count} in {:.2} s", rate.seconds)?;
            }
        }
        for (name, summary) in [("confirm", &self.confirm_latency), ("deliver", &self.deliver_latency)] {
            if let Some(Summary {
                p50,
                p90,
                p99,
                p999,
                max,
                ..
            }) = summary
            {
                let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(|us| ms(*us));
                writeln!(
                    f,
                    "{name:<12} p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max} ms"
                )?;
            }
        }
        for (name, count) in [
            ("refused", self.nacked),
            ("unconfirmed", self.unconfirmed),
            ("redelivered", self.redelivered),
        ] {
            if count > 0 {
                writeln!(f, "{name:<12} {:>12}", grouped(count))?;
            }
        }
        if let Some(cpu) = self.cpu_s {
            write!(f, "own CPU      {cpu:.2} s")?;
            if let Some(us) = self.cpu_us_per_message {
                write!(f, ", {us:.2} us for each message published or consumed")?;
            }
            writeln!(f)?;
        }
        if let Some((cpu, us)) = self.watched_cpu_s.zip(self.watched_cpu_us_per_message) {
            writeln!(f, "watched CPU  {cpu:.2} s, {us:.2} us for each message")?;
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds as milliseconds, to about three digits.
pub(super) fn ms(us: u64) -> String {
    let ms = us as f64 / 1000.0;
    let mut text = String::new();
    let digits = match us {
        0..10_000 => 2,
        10_000..100_000 => 1,
        _ => 0,
    };
    write!(text, "{ms:.digits$}").expect("a string takes everything");
    text
}
