//! Where messages wait for an actor, and messages that a mailbox's bound must not refuse because losing them would
//! stop something for good.
//!
//! Everything a client can cause goes by [`Mailbox::offer`]. What goes by [`Mailbox::always`] is bounded otherwise,
//! which each caller says. Whoever sends knows no actor: a simulation puts queues of its own in their place.

use std::fmt::Debug;
use std::sync::Arc;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::prelude::*;

/// The way to one mailbox. Clones are the same mailbox.
pub type Post<M> = Arc<dyn Mailbox<M>>;

/// Why a mailbox did not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It holds as many as it may.
    #[error("the mailbox is full")]
    Full,
    /// Its owner has ended.
    #[error("the mailbox is closed")]
    Closed,
}

/// Takes messages in the order in which they are put in.
pub trait Mailbox<M>: Debug + Send + Sync {
    /// Puts `message` in unless the mailbox is full.
    fn offer(&self, message: M) -> Result<(), Refused>;

    /// Puts `message` in, full or not; gone with an owner that has ended.
    fn always(&self, message: M);
}

impl<M> Mailbox<M> for Recipient<M>
where
    M: Message + Send,
    M::Result: Send,
{
    fn offer(&self, message: M) -> Result<(), Refused> {
        self.try_send(message).map_err(|error| match error {
            SendError::Full(_) => Refused::Full,
            SendError::Closed(_) => Refused::Closed,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the callers bound what they send, each says by what"
    )]
    fn always(&self, message: M) {
        self.do_send(message);
    }
}

impl<M> Mailbox<M> for Post<M> {
    fn offer(&self, message: M) -> Result<(), Refused> {
        self.as_ref().offer(message)
    }

    fn always(&self, message: M) {
        self.as_ref().always(message);
    }
}

/// [`Mailbox::always`] for an actor's address.
#[expect(
    clippy::disallowed_methods,
    reason = "the callers bound what they send, each says by what"
)]
pub(crate) fn always_to<A, M>(actor: &Addr<A>, message: M)
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send + MessageResponse<A, M>,
{
    actor.do_send(message);
}
