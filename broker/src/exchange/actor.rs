//! The actor of one exchange on one node: it owns the matcher, changes it, and publishes what it has become.
//!
//! Messages do not come here; connections route with the published matcher.
//!
//! ```text
//! metadata actor -- Bound, Unbound --> ExchangeActor -- publishes --> Exchange::routes <-- reads -- connections
//!                <------ done --------
//! ```
//!
//! The metadata actor awaits the answer before it publishes the view that holds the new bindings, and with it a new
//! routing version: who routes by that version finds these routes or later ones.

use std::sync::Arc;

use actix::{Actor, Addr, ArbiterHandle, Context, Handler, Message, MessageResult};

use super::Matcher;
use crate::metadata::{Binding, Exchange};

/// See the module.
#[derive(Debug)]
pub struct ExchangeActor {
    exchange: Arc<Exchange>,
    matcher: Matcher,
    bindings: usize,
}

impl ExchangeActor {
    /// Starts the owner of an exchange that has no bindings yet: those it has are told to it like new ones.
    /// There must be only one.
    pub fn start(arbiter: &ArbiterHandle, exchange: Arc<Exchange>) -> Addr<Self> {
        Self::start_in_arbiter(arbiter, move |_| Self::new(exchange))
    }

    fn new(exchange: Arc<Exchange>) -> Self {
        let matcher = Matcher::new(exchange.kind, &exchange.arguments);
        Self {
            exchange,
            matcher,
            bindings: 0,
        }
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Bound(binding) => {
                self.matcher
                    .bind(&binding.routing_key, &binding.arguments, &binding.target);
                self.bindings += 1;
            }
            Update::Unbound(binding) => {
                self.matcher
                    .unbind(&binding.routing_key, &binding.arguments, &binding.target);
                self.bindings = self.bindings.saturating_sub(1);
            }
        }
        self.exchange.publish_routes(Arc::new(self.matcher.clone()));
    }
}

impl Actor for ExchangeActor {
    type Context = Context<Self>;
}

/// One change of an exchange's bindings. Answered when every reader can see it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Update {
    /// Not there yet.
    Bound(Arc<Binding>),
    /// There so far.
    Unbound(Arc<Binding>),
}

impl Handler<Update> for ExchangeActor {
    type Result = ();

    fn handle(&mut self, update: Update, _: &mut Self::Context) {
        self.update(update);
    }
}

/// Asks an exchange for its [`Description`].
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Description")]
pub struct Describe;

/// An exchange as its actor sees it.
#[derive(Clone, Debug)]
pub struct Description {
    pub exchange: Arc<Exchange>,
    /// Bindings that lead out of it.
    pub bindings: usize,
}

impl Handler<Describe> for ExchangeActor {
    type Result = MessageResult<Describe>;

    fn handle(&mut self, _: Describe, _: &mut Self::Context) -> Self::Result {
        MessageResult(Description {
            exchange: self.exchange.clone(),
            bindings: self.bindings,
        })
    }
}
