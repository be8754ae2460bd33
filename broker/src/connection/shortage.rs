//! Publishers and shortages: whoever publishes while the cluster is short of memory or disk is not read until it is not.

use super::{Connection, Phase};
use crate::alarms::Shortage;
use crate::amqp::{Method, ShortStr};

/// How a connection stands to a shortage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Blocking {
    /// It has published while there was one.
    pub(super) is_blocked: bool,
    /// The client was told so.
    is_told: bool,
}

impl Connection {
    /// The cluster is short of this now. Connections that only consume do not notice.
    pub fn set_shortage(&mut self, shortage: Shortage) {
        self.session.shortage = shortage;
        if shortage.is_any() {
            return;
        }
        self.session.published_short = false;
        let before = std::mem::take(&mut self.blocking);
        if before.is_told && self.phase == Phase::Running {
            self.session.reply(0, &Method::ConnectionUnblocked {});
        }
    }

    /// The turn ends: a connection that published in it during a shortage is not read until the shortage ends.
    pub(super) fn block(&mut self) {
        if !self.session.published_short || self.blocking.is_blocked || self.phase != Phase::Running {
            return;
        }
        self.blocking.is_blocked = true;
        if self.session.client.connection_blocked {
            self.blocking.is_told = true;
            let reason = ShortStr::cut(self.session.shortage.reason());
            self.session.reply(0, &Method::ConnectionBlocked { reason });
        }
    }
}
