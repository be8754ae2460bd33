//! Settings that change while the queue lives: what policies may set.
//!
//! The settings that the queue was declared with are its first ones, equal on every replica without being told; later
//! ones come through the log, each with a version. What is not later than what holds is ignored, so whoever leads may
//! say it again.
//!
//! A limit holds at once. A time to live is a message's own from the moment it comes: another one concerns those that
//! come later, and so does how long what comes back rests. The time that an unused queue has starts anew.

use warren_proto::queue::{self as proto, Configure};

use super::{Config, Overflow, QueueMachine, Retry};

/// The version from which on settings say how long what comes back rests. In entries of before they do not count, for
/// older builds pass over them there; what is agreed on with this version has every queue told its settings anew.
const RETRY_CHANGES: u16 = 2;

impl Retry {
    fn to_proto(self) -> proto::Retry {
        proto::Retry {
            failed: self.failed,
            returned: self.returned,
            min_ms: self.min_ms,
            max_ms: self.max_ms,
        }
    }

    fn from_proto(retry: &proto::Retry) -> Option<Self> {
        (*retry != proto::Retry::default()).then_some(Self {
            failed: retry.failed,
            returned: retry.returned,
            min_ms: retry.min_ms,
            max_ms: retry.max_ms,
        })
    }
}

impl Overflow {
    pub(super) fn to_proto(self) -> u32 {
        match self {
            Self::DropHead => 0,
            Self::RejectPublish => 1,
            Self::RejectPublishDlx => 2,
        }
    }

    fn from_proto(overflow: u32) -> Self {
        match overflow {
            1 => Self::RejectPublish,
            2 => Self::RejectPublishDlx,
            _ => Self::DropHead,
        }
    }
}

impl Config {
    /// What has to be said to a queue for it to obey these settings.
    pub fn to_proto(&self, version: u64) -> Configure {
        Configure {
            version,
            delivery_limit: self.delivery_limit,
            message_ttl_ms: self.message_ttl_ms,
            expires_ms: self.expires_ms,
            len_max: self.len_max,
            bytes_max: self.bytes_max,
            overflow: self.overflow.to_proto(),
            dead_letters: self.dead_letters,
            age_max_ms: self.age_max_ms,
            segment_bytes: self.segment_bytes,
            retry: Some(self.retry.map_or_else(proto::Retry::default, Retry::to_proto)),
        }
    }

    /// These settings with those that may change as `configure` has them.
    pub(super) fn changed_by(&self, configure: &Configure) -> Self {
        Self {
            delivery_limit: configure.delivery_limit,
            message_ttl_ms: configure.message_ttl_ms,
            expires_ms: configure.expires_ms,
            len_max: configure.len_max,
            bytes_max: configure.bytes_max,
            overflow: Overflow::from_proto(configure.overflow),
            dead_letters: configure.dead_letters,
            age_max_ms: configure.age_max_ms,
            segment_bytes: configure.segment_bytes,
            retry: configure.retry.as_ref().map_or(self.retry, Retry::from_proto),
            ..self.declared()
        }
    }

    /// What no policy changes.
    fn declared(&self) -> Self {
        Self {
            kind: self.kind,
            auto_delete: self.auto_delete,
            single_active_consumer: self.single_active_consumer,
            priority_max: self.priority_max,
            deduplicates: self.deduplicates,
            ..Self::default()
        }
    }
}

impl QueueMachine {
    /// The version of the settings that hold; 0: those that the queue was declared with.
    pub fn config_version(&self) -> u64 {
        self.config_version
    }

    /// Other settings hold from now on, unless they are not later than the present ones.
    pub(super) fn configure(&mut self, configure: &Configure) {
        if self.ended {
            return;
        }
        if configure.version <= self.config_version {
            // An older leader said it once more when the cluster had gone over, and its replicas heeded it.
            let again = configure.version == self.config_version && self.config_version > 0;
            if again && self.version >= RETRY_CHANGES {
                self.config.retry = self.config.changed_by(configure).retry;
            }
            return;
        }
        let mut config = self.config.changed_by(configure);
        if self.version < RETRY_CHANGES {
            config.retry = self.config.retry;
        }
        let (old, new) = (self.config.bytes_max.is_some(), config.bytes_max.is_some());
        if old != new {
            self.measure(new);
        }
        if config.expires_ms != self.config.expires_ms {
            self.used_ms = config.expires_ms.map_or(0, |_| self.now_ms.max(1));
        }
        self.config = config;
        self.config_version = configure.version;
        // What was let in under another limit goes where it has to go, however much it is.
        self.shed(usize::MAX);
    }

    /// Begins or ceases to count bytes. What bodies and properties a message has is known only when it comes; of one
    /// that came before there was a limit its whole record counts.
    fn measure(&mut self, counts: bool) {
        let messages: Vec<(u64, u32)> = {
            let ready = self.ready.messages().map(|(seq, place)| (seq, place.len));
            let held = self.held.iter().map(|(seq, held)| (seq, held.place.len));
            let resting = self.resting.iter();
            let resting = resting.map(|(seq, rest)| (seq, rest.message.place.len));
            ready.chain(held).chain(resting).collect()
        };
        for (seq, len) in messages {
            let is_ready = self.ready.contains(seq);
            self.facts.resize(seq, if counts { len } else { 0 }, is_ready);
        }
    }
}
