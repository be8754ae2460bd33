//! The shell of a [`MetadataReplica`]: its mailbox, its timer, the clock, and the actors that the metadata call for.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use warren_cluster::NodeId;
use warren_cluster::group::Options;
use warren_cluster::group::shell::Io;
use warren_cluster::transport::{Membership, Peer};

use super::client::{MetadataClient, Submit};
use super::orphans::Orphans;
use super::replica::{ExchangeStep, MetadataReplica, News, Recovery, Round, Setup, Updates};
use super::{Bootstrap, Change, Exchange, Queue, Run, View};
use crate::clock::now_ms;
use crate::directory::{Directory, Inbound};
use crate::exchange::actor::ExchangeActor;
use crate::fatal;
use crate::queue::actor::QueueActor;
use crate::queue::transient::TransientActor;

pub use super::replica::GROUP;

const MAILBOX: usize = 4_096;
const TICK: Duration = Duration::from_millis(100);
/// A minute: see [`Setup::silent_ticks`].
const SILENT_TICKS: u32 = 600;
/// How often queues are looked for that outlived their connections.
const SWEEP: Duration = Duration::from_secs(1);

/// What the actor needs of the node around it.
pub struct Environment {
    /// The published picture.
    pub view: View,
    /// Where everything is.
    pub directory: Arc<Directory>,
    /// For the group and for the queues' groups.
    pub io: Io,
    /// See [`Setup::members`].
    pub members: Vec<NodeId>,
    /// See [`Setup::peers`].
    pub peers: Vec<Peer>,
    /// See [`Setup::era`].
    pub era: u64,
    /// See [`Setup::reformed`].
    pub reformed: u64,
    /// See [`Setup::founds_alone_after_ticks`].
    pub founds_alone_after: Duration,
    /// See [`Setup::membership`].
    pub membership: Membership,
    /// See [`Setup::recovery`].
    pub recovery: Option<Recovery>,
    /// Where queues and exchanges run.
    pub arbiters: Vec<ArbiterHandle>,
    /// What the first leader ever makes of an empty cluster.
    pub bootstrap: Bootstrap,
    /// This run, its name and its address.
    pub announce: (Run, String, String),
    /// Recent log entries that one queue may keep in memory, in bytes.
    pub queue_cache_bytes_max: usize,
    /// Becomes true once this run was taken into the metadata.
    pub ready: watch::Sender<bool>,
    /// Whether clients are to be served by other nodes.
    pub drains: watch::Sender<bool>,
}

/// See the module.
pub struct MetadataActor {
    replica: MetadataReplica,
    orphans: Orphans,
    client: MetadataClient,
    directory: Arc<Directory>,
    io: Io,
    arbiters: Vec<ArbiterHandle>,
    next_arbiter: usize,
    queue_cache_bytes_max: usize,
    ready: watch::Sender<bool>,
    drains: watch::Sender<bool>,
    exchanges: FxHashMap<u64, Addr<ExchangeActor>>,
}

impl MetadataActor {
    /// Opens the replica and starts its actor on the arbiter of the caller; answers the handle on it.
    pub fn start_here(env: Environment) -> (Addr<Self>, MetadataClient) {
        let mut client = None;
        let address = Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let handle = MetadataClient::new(env.view.clone(), env.directory.clone(), ctx.address().recipient());
            client = Some(handle.clone());
            let setup = Setup {
                client: handle.clone(),
                directory: env.directory.clone(),
                io: env.io.clone(),
                members: env.members,
                peers: env.peers,
                era: env.era,
                reformed: env.reformed,
                founds_alone_after_ticks: env.founds_alone_after.as_millis().div_ceil(TICK.as_millis()) as u64,
                membership: env.membership,
                recovery: env.recovery,
                bootstrap: env.bootstrap,
                announce: env.announce.clone(),
                silent_ticks: SILENT_TICKS,
                options: Options {
                    eager_commit: true,
                    effects_everywhere: true,
                    ..Options::default()
                },
            };
            let replica = match MetadataReplica::open(setup) {
                Ok(replica) => replica,
                Err(error) => fatal::stop_group(&error),
            };
            Self {
                replica,
                orphans: Orphans::new(env.announce.0),
                client: handle,
                directory: env.directory,
                io: env.io,
                arbiters: env.arbiters,
                next_arbiter: 0,
                queue_cache_bytes_max: env.queue_cache_bytes_max,
                ready: env.ready,
                drains: env.drains,
                exchanges: FxHashMap::default(),
            }
        });
        let client = client.expect("the actor's constructor has run");
        (address, client)
    }

    fn drive(&mut self, ctx: &mut Context<Self>) {
        let round = match self.replica.drive(now_ms()) {
            Ok(round) => round,
            Err(error) => fatal::stop_group(&error),
        };
        if self.replica.has_joined() {
            self.ready.send_replace(true);
        }
        if let Some(round) = round {
            self.carry_out(round, ctx);
        }
    }

    /// Ends the node if it cannot be part of what others are part of.
    fn check(&self) {
        if let Some(conflict) = self.replica.conflict() {
            fatal::misplaced(conflict);
        }
    }

    /// Everything that follows from applied entries happens here, in order; the mailbox waits meanwhile.
    fn carry_out(&mut self, round: Round, ctx: &mut Context<Self>) {
        let Round {
            exchanges,
            updates,
            applied,
        } = round;
        for step in exchanges {
            match step {
                ExchangeStep::Reset => self.exchanges.clear(),
                ExchangeStep::Begin(exchange) => self.start_exchange(exchange),
                ExchangeStep::End(id) => drop(self.exchanges.remove(&id)),
            }
        }
        let updates = self.send(updates);
        ctx.wait(join_all(updates).into_actor(self).map(move |_, actor, ctx| {
            for queue in actor.replica.published(applied) {
                actor.start_queue(queue);
            }
            actor.check();
            if actor.replica.is_forgotten() {
                fatal::forgotten("the metadata say that the node was removed from its cluster");
            }
            let drains = actor.replica.drains();
            actor
                .drains
                .send_if_modified(|known| std::mem::replace(known, drains) != drains);
            actor.drive(ctx);
        }));
    }

    fn start_queue(&mut self, queue: Arc<Queue>) {
        let arbiter = self.arbiter();
        let directory = self.directory.clone();
        if queue.is_transient() {
            TransientActor::start(&arbiter, queue, directory, self.client.clone());
        } else {
            QueueActor::start(
                &arbiter,
                queue,
                directory,
                self.client.clone(),
                self.io.clone(),
                self.queue_cache_bytes_max,
            );
        }
    }

    fn start_exchange(&mut self, exchange: Arc<Exchange>) {
        let arbiter = self.arbiter();
        let id = exchange.id;
        let actor = ExchangeActor::start(&arbiter, exchange);
        self.exchanges.insert(id, actor);
    }

    /// Hands each exchange its changes in order; done once readers see them.
    fn send(&self, updates: Updates) -> Vec<impl Future<Output = ()> + use<>> {
        let known = updates
            .into_iter()
            .filter_map(|(id, updates)| Some((self.exchanges.get(&id)?.clone(), updates)));
        known
            .map(|(actor, updates)| async move {
                for update in updates {
                    if actor.send(update).await.is_err() {
                        return;
                    }
                }
            })
            .collect()
    }

    fn arbiter(&mut self) -> ArbiterHandle {
        self.next_arbiter += 1;
        self.arbiters[self.next_arbiter % self.arbiters.len()].clone()
    }
}

impl Actor for MetadataActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.directory.register(GROUP, ctx.address().recipient());
        ctx.run_interval(TICK, |actor, ctx| {
            actor.replica.tick();
            actor.check();
            actor.drive(ctx);
        });
        ctx.run_interval(SWEEP, |actor, _| {
            let picture = actor.client.view().picture();
            let lives = |session| actor.directory.has_session(session);
            let end = |session| actor.client.ask(Change::SessionEnded { session });
            actor.orphans.sweep(&picture, lives, end);
        });
        let round = self.replica.begin();
        self.carry_out(round, ctx);
    }
}

impl Handler<Inbound> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Self::Context) {
        if let Inbound::Stop { .. } = message {
            ctx.stop();
            return;
        }
        self.replica.handle(message);
        self.drive(ctx);
    }
}

impl Handler<Submit> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: Submit, ctx: &mut Self::Context) {
        self.replica.submit(message);
        self.drive(ctx);
    }
}

impl Handler<News> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: News, ctx: &mut Self::Context) {
        self.replica.news(message);
        self.check();
        self.drive(ctx);
    }
}
