//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

use super::{Error, uri::Uri};

/// Bodies shorter than this carry no stamp, so there is no latency from publish to delivery.
pub const STAMP_LEN: usize = 16;

/// Puts load on an AMQP 0-9-1 broker and tells what it did with it.
#[derive(Debug, Clone, Parser)]
#[command(name = "warren-perf", version)]
pub struct Options {
    /// A broker; given several times, connections are spread over them in turn
    #[arg(long, value_name = "URI", default_value = "amqp://guest:guest@127.0.0.1:5672/")]
    pub uri: Vec<Uri>,

    /// Connections that publish
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub publishers: u32,
    /// Connections that consume
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub consumers: u32,
    /// Queues; publisher i uses queue i, or every so-manieth if there are more queues than publishers; so do consumers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub queues: u32,
    /// Queues are named PREFIX-1, PREFIX-2, ...
    #[arg(long, value_name = "PREFIX", default_value = "perf")]
    pub queue_prefix: String,
    /// x-queue-type of the queues; without it the broker decides
    #[arg(long, value_name = "TYPE")]
    pub queue_type: Option<QueueType>,
    /// Durable queues and exchanges (the default)
    #[arg(long, conflicts_with = "transient")]
    pub durable: bool,
    /// Transient queues and exchanges
    #[arg(long)]
    pub transient: bool,
    /// Publish to one fanout exchange that all queues are bound to
    #[arg(long)]
    pub fanout: bool,
    /// Publish to a topic exchange with N bindings, one of which takes each message
    #[arg(long, value_name = "N", conflicts_with = "fanout")]
    pub topic_bindings: Option<u32>,

    /// Persistent messages (delivery mode 2)
    #[arg(long)]
    pub persistent: bool,
    /// Body size; latency to delivery is measured from 16 bytes on
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    pub size: usize,
    /// Publisher confirms, with at most so many unconfirmed messages per publisher (0: no confirms; 1: wait for each)
    #[arg(long, value_name = "WINDOW", default_value_t = 1000)]
    pub confirm: u32,
    /// Messages per second of all publishers together; without it as many as the broker takes
    #[arg(long, value_name = "MSG/S")]
    pub rate: Option<f64>,

    /// Unacknowledged messages per consumer (0: no limit)
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub prefetch: u16,
    /// Acknowledge every so many messages, with one acknowledgement (at most the prefetch)
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub ack_every: u32,
    /// Consume without acknowledgements
    #[arg(long)]
    pub no_ack: bool,

    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub seconds: f64,
    /// Publish so many messages and consume them all, however long it takes
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "warmup"])]
    pub messages: Option<u64>,
    /// Seconds of load before measuring begins
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    pub warmup: f64,
    /// No consumers
    #[arg(long, conflicts_with = "drain")]
    pub publish_only: bool,
    /// No publishers: consume what waits in the queues, until they are empty
    #[arg(long, conflicts_with_all = ["messages", "warmup", "fanout", "topic_bindings"])]
    pub drain: bool,
    /// Give up when nothing moves for so long
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub stall: u64,
    /// Delete queues and exchanges afterwards
    #[arg(long)]
    pub delete: bool,

    /// Threads that publish and consume
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: u32,
    /// Tell the processor time of this process too, such as a broker on the same machine; may be given several times
    #[arg(long, value_name = "PID")]
    pub watch: Vec<u32>,
    /// Write the result to a file, as JSON (-: standard output, instead of the text)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No line of progress each second
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueueType {
    Classic,
    Quorum,
    Stream,
}

impl QueueType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }
}

/// The longest run that is asked for in seconds; what is meant to be longer counts messages.
const SECONDS_MAX: f64 = 7.0 * 24.0 * 3600.0;

impl Options {
    /// Checks what the command line's grammar does not say, and makes modes and counts agree.
    pub fn checked(mut self) -> Result<Self, Error> {
        let usage = |text: &str| Err(Error::Usage(text.to_owned()));
        if self.drain {
            self.publishers = 0;
        }
        if self.publish_only {
            self.consumers = 0;
        }
        if self.publishers == 0 && self.consumers == 0 {
            return usage("there is nothing to do without publishers and consumers");
        }
        if self.queues == 0 || self.threads == 0 || self.ack_every == 0 || self.stall == 0 {
            return usage("--queues, --threads, --ack-every and --stall are at least 1");
        }
        if self.publishers == 0 && self.messages.is_some() {
            return usage("--messages counts what publishers send, and there are none");
        }
        if self.topic_bindings == Some(0) {
            return usage("--topic-bindings is at least 1");
        }
        if !(self.seconds > 0.0 && self.seconds <= SECONDS_MAX && self.warmup >= 0.0 && self.warmup <= SECONDS_MAX) {
            return usage("--seconds and --warmup are positive and at most a week");
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return usage("--rate is positive");
        }
        if self.size > 128 << 20 {
            return usage("--size is at most 128 MiB");
        }
        // A name must fit a short string with its number.
        if self.queue_prefix.len() > 200 {
            return usage("--queue-prefix has at most 200 bytes");
        }
        // Otherwise the broker would wait for acknowledgements and the consumer for messages.
        if self.prefetch > 0 {
            self.ack_every = self.ack_every.min(self.prefetch.into());
        }
        Ok(self)
    }

    pub fn is_stamped(&self) -> bool {
        self.size >= STAMP_LEN
    }

    pub fn queue_name(&self, index: u32) -> String {
        format!("{}-{}", self.queue_prefix, index + 1)
    }

    /// The exchange that publishers use: the default one unless there is something to route.
    pub fn exchange_name(&self) -> String {
        if self.fanout {
            format!("{}-fanout", self.queue_prefix)
        } else if self.topic_bindings.is_some() {
            format!("{}-topic", self.queue_prefix)
        } else {
            String::new()
        }
    }

    /// How many queues take each message.
    pub fn copies(&self) -> u64 {
        if self.fanout { self.queues.into() } else { 1 }
    }

    /// Which of `of` connections use which queues, so that all queues are used and none more than need be.
    pub fn queues_of(&self, connection: u32, of: u32) -> Vec<u32> {
        if of >= self.queues {
            vec![connection % self.queues]
        } else {
            (connection..self.queues).step_by(of as usize).collect()
        }
    }

    /// The part of `messages` that publisher `index` sends.
    pub fn share_of(&self, messages: u64, index: u32) -> u64 {
        let publishers = u64::from(self.publishers);
        messages / publishers + u64::from(u64::from(index) < messages % publishers)
    }

    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.stall)
    }
}
