//! One transient queue: the queue machine without a log, in the memory of its home node.
//!
//! Each mailbox message is an entry of its own. It is kept while the machine has a live message in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use warren_cluster::machine::Meta;
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{SessionCheck, node_message::Kind};
use warren_proto::record::{self, Command, SessionId, batches, system};

use super::alarm::{Alarm, Due, Rings};
use super::dead_letters::{DeadLetters, Source};
use super::machine::{Effect, Place, QueueMachine};
use super::outbox::Outbox;
use crate::clock::now_ms;
use crate::directory::{Description, Directory, Inbound, SessionEvent};
use crate::mailbox::Post;
use crate::metadata::Queue;
use crate::metadata::client::MetadataClient;

/// Messages that may wait in the mailbox.
const MAILBOX: usize = 1_024;
/// There is nobody to elect.
const TERM: u64 = 1;

/// See the module.
pub struct TransientActor {
    queue: Arc<Queue>,
    directory: Arc<Directory>,
    metadata: MetadataClient,
    machine: QueueMachine,
    index: u64,
    time_ms: u64,
    bodies: BTreeMap<u64, Bytes>,
    effects: Vec<Effect>,
    freed: Vec<u64>,
    outbox: Outbox,
    dead_letters: DeadLetters,
    /// Where the session of its dead letters hears from their targets.
    letters: Post<SessionEvent>,
    alarm: Alarm,
}

impl TransientActor {
    /// Starts an empty queue on `arbiter`.
    pub fn start(arbiter: &ArbiterHandle, queue: Arc<Queue>, directory: Arc<Directory>, metadata: MetadataClient) {
        TransientActor::start_in_arbiter(arbiter, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let machine = QueueMachine::new(super::declared(&queue));
            let outbox = Outbox::new(queue.group, directory.clone());
            let dead_letters = DeadLetters::new(queue.clone(), directory.clone(), metadata.view().clone());
            Self {
                queue,
                directory,
                metadata,
                machine,
                index: 0,
                time_ms: 0,
                bodies: BTreeMap::new(),
                effects: Vec::new(),
                freed: Vec::new(),
                outbox,
                dead_letters,
                letters: Arc::new(ctx.address().recipient()),
                alarm: Alarm::default(),
            }
        });
    }

    fn group(&self) -> GroupId {
        self.queue.group
    }

    fn apply(&mut self, bytes: Bytes) {
        self.index += 1;
        self.time_ms = self.time_ms.max(now_ms());
        let meta = Meta {
            index: self.index,
            term: TERM,
            time_ms: self.time_ms,
            version: warren_cluster::version::LATEST,
        };
        self.machine.apply(&meta, &bytes, &mut self.effects);
        if self.machine.is_live(self.index) {
            self.bodies.insert(self.index, bytes.clone());
        }
        self.send(Some((self.index, bytes)));
        self.freed.clear();
        self.machine.take_freed(&mut self.freed);
        for index in &self.freed {
            self.bodies.remove(index);
        }
    }

    /// Sends what the machine asked for; `current` is the entry being applied.
    fn send(&mut self, current: Option<(u64, Bytes)>) {
        for effect in self.effects.drain(..) {
            let bodies = &self.bodies;
            self.outbox.add(effect, TERM, |at| match &current {
                Some((index, bytes)) if *index == at.index => Some(part(bytes, at)),
                _ => bodies.get(&at.index).map(|bytes| part(bytes, at)),
            });
        }
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        let mut source = Memory(&self.machine, &self.bodies);
        let buried = self.dead_letters.work(&mut source, now_ms(), &self.letters);
        buried.into_iter().for_each(|command| self.apply(command));
        if self.outbox.can_pay() {
            let bodies = &self.bodies;
            self.outbox.pay(|at| bodies.get(&at.index).map(|bytes| part(bytes, at)));
        }
        loop {
            let gone = self.outbox.flush();
            if gone.is_empty() {
                break;
            }
            for session in gone {
                self.apply(system(&Command::SessionDown(session)));
            }
        }
        if self.outbox.take_ended() {
            self.metadata.remove_queue(self.queue.group);
        }
        let due = self.machine.next_deadline().map(|deadline_ms| Due {
            deadline_ms,
            at_ms: deadline_ms,
        });
        let tick = self.dead_letters.next_tick_ms(now_ms());
        self.alarm.arm(ctx, due, tick, |actor, ctx| {
            if actor.alarm.rings(now_ms()) {
                actor.apply(system(&Command::Tick));
            }
            actor.dead_letters.tick(now_ms());
            actor.flush(ctx);
        });
    }

    /// Has the machine obey the settings that the metadata have now.
    fn obey(&mut self, queue: Arc<Queue>) {
        let version = queue.configured;
        if version < self.queue.configured {
            return;
        }
        self.queue = queue;
        self.dead_letters.obey(self.queue.clone());
        if version > self.machine.config_version() {
            let configure = super::config(&self.queue).to_proto(version);
            self.apply(system(&Command::Configure(configure)));
        }
    }

    fn check_sessions(&mut self, node: NodeId) {
        let mut asked: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for session in self.machine.sessions().filter(|session| session.node == node) {
            asked.entry(session.incarnation).or_default().push(session.id);
        }
        for (incarnation, ids) in asked {
            let check = SessionCheck {
                group: self.group(),
                incarnation,
                ids,
            };
            self.directory.tell(node, Kind::SessionCheck(check));
        }
    }

    fn describe(&self) -> Description {
        Description {
            group: self.group(),
            node: self.directory.node(),
            role: "leader",
            leader: Some(self.directory.node()),
            raft: None,
            stats: self.machine.stats(),
            consumers: self.machine.consumers().map(Into::into).collect(),
            ..Description::default()
        }
    }
}

/// Where messages' bytes are.
struct Memory<'a>(&'a QueueMachine, &'a BTreeMap<u64, Bytes>);

impl Source for Memory<'_> {
    fn machine(&self) -> &QueueMachine {
        self.0
    }

    fn read(&mut self, at: Place) -> Option<Bytes> {
        self.1.get(&at.index).map(|bytes| part(bytes, at))
    }
}

/// A message in its entry.
fn part(entry: &Bytes, at: Place) -> Bytes {
    let start = at.offset as usize;
    entry.slice(start..start + at.len as usize)
}

impl Rings for TransientActor {
    fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }
}

impl Actor for TransientActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.directory.register_queue(self.group(), ctx.address().recipient());
        if let Some(queue) = self.metadata.view().queue_by_group(self.group()) {
            self.obey(queue);
        }
        // A queue that ends unused counts from now on.
        self.flush(ctx);
    }
}

impl Handler<Inbound> for TransientActor {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Self::Context) {
        match message {
            Inbound::Batch { from, bytes, .. } => {
                if batches(&bytes).any(|batch| batch.is_err()) {
                    tracing::warn!(queue = %self.queue.name, from, "a node sent a malformed batch");
                    return;
                }
                // What arrives late of a run that has ended would begin a session that nobody ends.
                if self.directory.has_ended(record::peek(&bytes).0) {
                    return;
                }
                // A slice of a link's buffer would keep all of that buffer alive as long as one message of it.
                let own = from == self.directory.node();
                self.apply(if own { bytes } else { Bytes::copy_from_slice(&bytes) });
            }
            Inbound::Resync(request) => {
                self.outbox.asked_again(request.session());
                let mut effects = Vec::new();
                self.machine.resync(&request, &mut effects);
                for effect in effects {
                    let bodies = &self.bodies;
                    self.outbox
                        .add_again(effect, TERM, |at| bodies.get(&at.index).map(|bytes| part(bytes, at)));
                }
            }
            Inbound::RunEnded { node, incarnation } => {
                let knows = |session: SessionId| session.node == node && session.incarnation <= incarnation;
                if self.machine.sessions().any(knows) {
                    self.apply(system(&Command::NodeDown { node, incarnation }));
                }
            }
            Inbound::LinkReset(node) => {
                self.outbox.reset(node);
                self.check_sessions(node);
            }
            Inbound::LinkWritable(node) => self.outbox.writable(node),
            Inbound::Configured(queue) => self.obey(queue),
            Inbound::Describe(answer) => drop(answer.send(self.describe())),
            Inbound::Stop { .. } => {
                self.dead_letters.stop();
                ctx.stop();
                return;
            }
            // Concerns replicated queues.
            Inbound::Group(_)
            | Inbound::Raft { .. }
            | Inbound::LeaderQuery(_)
            | Inbound::Placed(_)
            | Inbound::ReplicaQuery(_)
            | Inbound::ReplicaIs { .. }
            | Inbound::Drains(_)
            | Inbound::Retire => {}
        }
        self.flush(ctx);
    }
}

impl Handler<SessionEvent> for TransientActor {
    type Result = ();

    /// To the session of its dead letters.
    fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
        self.dead_letters.on_event(event, now_ms());
        self.flush(ctx);
    }
}
