//! Messages that a mailbox's bound must not refuse, because losing them would stop something for good.
//!
//! Everything a client can cause goes by `try_send`. These are bounded otherwise, which each caller says.

use actix::dev::{MessageResponse, ToEnvelope};
use actix::prelude::*;

/// Puts `message` into the mailbox, full or not; gone with an actor that has ended.
#[expect(
    clippy::disallowed_methods,
    reason = "the callers bound what they send, each says by what"
)]
pub(crate) fn always<M>(mailbox: &Recipient<M>, message: M)
where
    M: Message + Send,
    M::Result: Send,
{
    mailbox.do_send(message);
}

/// The same for an actor's address.
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
