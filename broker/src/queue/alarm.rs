//! The timer of a queue: wakes its actor when the machine has something due, or something that it sent is to be looked
//! after. A queue with neither has no timer.

use std::time::Duration;

use actix::prelude::*;

use crate::clock::now_ms;

/// A deadline for which an entry was asked is not asked for again within this time: the entry is on its way.
const AGAIN_MS: u64 = 1_000;
/// A timer this much too late is not armed anew.
const SLACK_MS: u64 = 1;

/// Something that a queue's machine waits for. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When it is due, as the machine's entries are stamped.
    pub deadline_ms: u64,
    /// When that is by this node's clock.
    pub at_ms: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Alarm {
    timer: Option<(SpawnHandle, u64)>,
    /// What the machine waits for.
    due: Option<Due>,
    /// The last deadline for which an entry was asked, and when.
    asked: Option<(u64, u64)>,
}

impl Alarm {
    /// Sees to it that `ring` is called when what the machine waits for is `due`, or `tick` has come. It may come too early.
    pub(super) fn arm<A>(
        &mut self,
        ctx: &mut Context<A>,
        due: Option<Due>,
        tick: Option<u64>,
        ring: impl FnOnce(&mut A, &mut Context<A>) + 'static,
    ) where
        A: Actor<Context = Context<A>> + Rings,
    {
        self.due = due;
        let entry = due.map(|due| match self.asked {
            Some((asked, at_ms)) if asked == due.deadline_ms => (at_ms + AGAIN_MS).max(due.at_ms),
            _ => due.at_ms,
        });
        let Some(due_ms) = entry.into_iter().chain(tick).min() else {
            return;
        };
        if let Some((timer, armed_ms)) = self.timer {
            if armed_ms <= due_ms.saturating_add(SLACK_MS) {
                return;
            }
            ctx.cancel_future(timer);
        }
        let delay = Duration::from_millis(due_ms.saturating_sub(now_ms()).max(1));
        let timer = ctx.run_later(delay, |actor: &mut A, ctx| {
            actor.alarm().timer = None;
            ring(actor, ctx);
        });
        self.timer = Some((timer, due_ms));
    }

    /// Whether an entry is to be asked for.
    pub(super) fn rings(&mut self, now_ms: u64) -> bool {
        let Some(due) = self.due.filter(|due| due.at_ms <= now_ms) else {
            return false;
        };
        let deadline = due.deadline_ms;
        let asked = self
            .asked
            .is_some_and(|(asked, at_ms)| asked == deadline && now_ms < at_ms + AGAIN_MS);
        if !asked {
            self.asked = Some((deadline, now_ms));
        }
        !asked
    }

    /// Ends the timer.
    pub(super) fn stop<A: Actor<Context = Context<A>>>(&mut self, ctx: &mut Context<A>) {
        if let Some((timer, _)) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        *self = Self::default();
    }
}

/// An actor with an alarm.
pub(super) trait Rings {
    fn alarm(&mut self) -> &mut Alarm;
}
