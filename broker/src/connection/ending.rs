//! The end of a session: its queues apply what they were sent, then hear of the end, then its exclusive queues go.

use super::{CLOSE_OK_MS, Connection, Effect, Ending, LINGER_MS, Phase};
use crate::amqp::Method;

impl Connection {
    /// The socket is gone.
    pub fn on_lost(&mut self) {
        if self.phase == Phase::Running {
            let (user, vhost) = (&self.session.user, &self.session.vhost);
            tracing::warn!(peer = %self.ends.peer, %user, %vhost, "connection lost: its client went without closing it");
        }
        self.hang_up();
    }

    /// The socket is to be dropped.
    pub(super) fn hang_up(&mut self) {
        self.phase = Phase::Lost;
        self.session.output.clear();
        self.begin_end();
    }

    pub(super) fn begin_end(&mut self) {
        // Their messages and consumers end with the session.
        self.channels.clear();
        self.session.consumers.clear();
        self.session.unfinished_bytes = 0;
        self.session.seat = None;
        self.held_bytes = 0;
        if self.ending == Ending::No {
            self.ending = Ending::Draining {
                until_ms: self.session.now_ms + LINGER_MS,
            };
        }
    }

    /// The exclusive queues are deleted, or could not be.
    pub fn on_session_ended(&mut self) {
        if let Ending::Deleting { .. } = self.ending {
            self.finish_end();
        }
    }

    pub(super) fn finish_draining(&mut self) {
        let Ending::Draining { .. } = self.ending else { return };
        let mut groups: Vec<u64> = self.session.queues.groups().collect();
        groups.sort_unstable();
        if !groups.is_empty() {
            self.session.effects.push(Effect::EndSession(groups));
        }
        if self.session.owns_exclusive {
            self.session.effects.push(Effect::EndExclusive);
            self.ending = Ending::Deleting {
                until_ms: self.session.now_ms + LINGER_MS,
            };
        } else {
            self.finish_end();
        }
    }

    pub(super) fn finish_end(&mut self) {
        self.ending = Ending::Done;
        if self.phase == Phase::Answering {
            self.session.reply(0, &Method::ConnectionCloseOk {});
            self.phase = Phase::Closed {
                until_ms: self.session.now_ms + CLOSE_OK_MS,
            };
        }
    }

    /// Whether the shell may stop.
    pub fn is_over(&self) -> bool {
        let is_silent = match self.phase {
            Phase::Lost => true,
            Phase::Closed { .. } => self.session.output.is_empty(),
            _ => false,
        };
        is_silent && self.ending == Ending::Done
    }

    /// Whether the socket is to be dropped even though the session still ends.
    pub fn has_hung_up(&self) -> bool {
        self.phase == Phase::Lost
    }
}
