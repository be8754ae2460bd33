//! The shell of a [`QueueReplica`]: its mailbox, its timers, the clock.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use warren_cluster::group::shell::Io;
use warren_cluster::group::{Error, Options};

use super::alarm::{Alarm, Rings};
use super::replica::QueueReplica;
use crate::clock::now_ms;
use crate::directory::{Directory, Inbound, SessionEvent};
use crate::fatal;
use crate::metadata::Queue;
use crate::metadata::client::MetadataClient;

/// Messages that may wait in the mailbox.
const MAILBOX: usize = 1_024;
/// The unit of Raft's timers.
const TICK: Duration = Duration::from_millis(100);

/// See the module.
pub struct QueueActor {
    replica: QueueReplica,
    ticking: Option<SpawnHandle>,
    alarm: Alarm,
}

impl QueueActor {
    /// Opens the replica and starts its actor on `arbiter`.
    pub fn start(
        arbiter: &ArbiterHandle,
        queue: Arc<Queue>,
        directory: Arc<Directory>,
        metadata: MetadataClient,
        io: Io,
        cache_bytes_max: usize,
    ) {
        QueueActor::start_in_arbiter(arbiter, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let options = Options {
                cache_bytes_max,
                ..Options::default()
            };
            let letters = Arc::new(ctx.address().recipient());
            let replica = match QueueReplica::open(queue, directory, metadata, letters, io, options) {
                Ok(replica) => replica,
                Err(error) => fatal::stop_group(&error),
            };
            Self {
                replica,
                ticking: None,
                alarm: Alarm::default(),
            }
        });
    }

    fn after(&mut self, result: Result<(), Error>, ctx: &mut Context<Self>) {
        if let Err(error) = result {
            fatal::stop_group(&error);
        }
        self.keep_time(ctx);
        match self.replica.wakes(now_ms()) {
            Some((due, look_ms)) => self.alarm.arm(ctx, due, look_ms, |actor, ctx| {
                let is_due = actor.alarm.rings(now_ms());
                let result = actor.replica.wake(is_due, now_ms());
                actor.after(result, ctx);
            }),
            None => self.alarm.stop(ctx),
        }
    }

    /// Ticks only while there is something to wait for.
    fn keep_time(&mut self, ctx: &mut Context<Self>) {
        match (self.replica.needs_ticks(), self.ticking) {
            (true, None) => {
                self.ticking = Some(ctx.run_interval(TICK, |actor, ctx| {
                    let result = actor.replica.tick(now_ms());
                    actor.after(result, ctx);
                }));
            }
            (false, Some(handle)) => {
                ctx.cancel_future(handle);
                self.ticking = None;
                self.replica.rest();
            }
            _ => {}
        }
    }
}

impl Rings for QueueActor {
    fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }
}

impl Actor for QueueActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let result = self.replica.begin(ctx.address().recipient(), now_ms());
        self.after(result, ctx);
    }
}

impl Handler<Inbound> for QueueActor {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Self::Context) {
        let ends = matches!(message, Inbound::Stop { .. } | Inbound::Retire);
        let result = self.replica.handle(message, now_ms());
        if ends {
            ctx.stop();
            return;
        }
        self.after(result, ctx);
    }
}

impl Handler<SessionEvent> for QueueActor {
    type Result = ();

    /// To the session of its dead letters.
    fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
        let result = self.replica.handle_letters(event, now_ms());
        self.after(result, ctx);
    }
}
