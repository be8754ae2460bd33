//! Clients and what they use on different nodes.
//!
//! A queue is led by the node that its first declaration came to. With `WARREN_TEST_APART=1` everything that has a
//! place is declared through the next node first, and by the test's own client after that: its declaration finds what
//! is there already, and all that follows crosses the link between the two nodes.

use super::Login;
use super::method::{Call, ChannelOpen, ExchangeDeclare, Method, QueueDeclare};
use super::wire::{Reader, Writer};

/// Whether clients and leaders are kept on different nodes.
pub fn asked() -> bool {
    std::env::var_os("WARREN_TEST_APART").is_some_and(|value| value == "1")
}

/// Declares through the next node what is about to be declared, if it is a queue that several connections may share or
/// an exchange that holds messages back. What the broker says of it there does not matter: it says the same here.
pub(super) fn declare_elsewhere<C: Call>(login: &Login, method: &C) {
    if !asked() {
        return;
    }
    let (queue, exchange) = (read::<C, QueueDeclare>(method), read::<C, ExchangeDeclare>(method));
    let shared = queue.filter(|declare| !declare.passive && !declare.exclusive && !declare.queue.is_empty());
    let delayed = exchange.filter(|declare| !declare.passive && declare.kind == "x-delayed-message");
    if shared.is_none() && delayed.is_none() {
        return;
    }
    let next = Login {
        endpoint: login.endpoint + 1,
        ..login.clone()
    };
    let Ok(mut client) = next.attempt() else {
        return;
    };
    // A copy of the client that does not ask itself.
    client.login = None;
    if client.try_call(1, &ChannelOpen::default()).is_err() {
        return;
    }
    let declared = match (shared, delayed) {
        (Some(declare), _) => client
            .try_call(
                1,
                &QueueDeclare {
                    nowait: false,
                    ..declare
                },
            )
            .map(drop),
        (None, Some(declare)) => client
            .try_call(
                1,
                &ExchangeDeclare {
                    nowait: false,
                    ..declare
                },
            )
            .map(drop),
        (None, None) => Ok(()),
    };
    // Its place in every quota is free again when this is answered.
    if !declared.is_err_and(|closed| closed.hard) {
        client.close();
    }
}

/// The same method as an `M`, if it is one.
fn read<C: Method, M: Method>(method: &C) -> Option<M> {
    if C::ID != M::ID {
        return None;
    }
    let mut out = Writer::default();
    method.put(&mut out);
    let bytes = out.finish();
    M::take(&mut Reader::new(&bytes))
}
