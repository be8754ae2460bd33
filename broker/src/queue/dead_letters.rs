//! The way of a queue's dead letters to where its dead-letter exchange routes them. Work of the leader.
//!
//! ```text
//!   machine: dead ──letter──▶ route ──▶ QueueClient of each target ──▶ its leader
//!              ▲                                   │
//!              └───────── Buried in the log ◀──────┘  once handed over, or once all targets have it
//! ```
//!
//! What a delayed exchange has held back goes the same way when it is due: it is a dead letter of the queue that held it,
//! without a history, and always travels at least once.
//!
//! Targets see an ordinary session. It ends with the leadership; the next leader sends everything again that is not
//! buried, and targets know a letter by its [`Origin`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use warren_cluster::GroupId;
use warren_proto::record::{Command, Origin, Publish, Run, SessionId, put_short_string, system};

use self::letter::Letter;
use super::client::{ChannelId, Notice};
use super::machine::{Dead, Place, QueueMachine};
use crate::connection::Queues;
use crate::connection::way::Way;
use crate::directory::{Directory, SessionEvent};
use crate::exchange::Arrival;
use crate::mailbox::Post;
use crate::metadata::arguments::{DeadLetterStrategy, Overflow};
use crate::metadata::{Queue, View};

mod letter;

/// Letters that may be on their way at once, or are looked at in one go, and bytes of them.
const LETTERS_MAX: u64 = 256;
const BYTES_MAX: usize = 4 << 20;
/// When a letter that some target did not take, or that had none, is sent again.
const AGAIN_MS: u64 = 1_000;
/// How often time passes for targets that have not answered.
const TICK_MS: u64 = 300;
/// How soon a batch is offered again to a full mailbox or link.
const RETRY_MS: u64 = 10;
/// When a target that does not answer counts as one that does not take a letter.
const TIMEOUT_MS: u64 = 30_000;
/// There are no channels here.
const CHANNEL: ChannelId = ChannelId { number: 0, opening: 0 };

/// Where dead letters come from.
pub(super) trait Source {
    fn machine(&self) -> &QueueMachine;

    /// A message's bytes.
    fn read(&mut self, at: Place) -> Option<Bytes>;
}

/// See the module.
pub(super) struct DeadLetters {
    queue: Arc<Queue>,
    directory: Arc<Directory>,
    view: View,
    sending: Option<Box<Sending>>,
}

/// While the queue is led from here and has, or had, dead letters.
struct Sending {
    session: SessionId,
    clients: Queues,
    way: Way,
    /// Every queue that was a target.
    targets: BTreeSet<GroupId>,
    /// Letters below this were looked at.
    next: u64,
    /// Targets that do not have a letter yet.
    open: BTreeMap<u64, BTreeSet<GroupId>>,
    /// There were more letters to look at than one call does.
    is_behind: bool,
    /// Letters to be sent again, not before a time.
    again: BTreeSet<u64>,
    again_ms: u64,
    /// Letters to be buried.
    done: Vec<u64>,
    notices: Vec<Notice>,
    /// A target takes nothing more from this session.
    is_forgotten: bool,
}

impl DeadLetters {
    pub(super) fn new(queue: Arc<Queue>, directory: Arc<Directory>, view: View) -> Self {
        let letters = Self {
            queue,
            directory,
            view,
            sending: None,
        };
        letters.warn();
        letters
    }

    /// The queue's settings are others now. They hold for letters that are not on their way yet.
    pub(super) fn obey(&mut self, queue: Arc<Queue>) {
        let is_other = self.queue.settings != queue.settings;
        self.queue = queue;
        if is_other {
            self.warn();
        }
    }

    fn warn(&self) {
        let strategy = self.queue.settings.dead_letter_strategy;
        if strategy == DeadLetterStrategy::AtLeastOnce && !self.is_at_least_once() {
            tracing::warn!(
                queue = %self.queue.name,
                "at-least-once dead-lettering needs overflow reject-publish: dead letters go at most once"
            );
        }
    }

    /// Whether every target must have a letter before it is buried. Without a queue that refuses instead of dropping
    /// it would promise what it cannot keep.
    fn is_at_least_once(&self) -> bool {
        let settings = &self.queue.settings;
        settings.dead_letter_strategy == DeadLetterStrategy::AtLeastOnce && settings.overflow == Overflow::RejectPublish
    }

    /// Sends what may be sent; the command that buries what is done with.
    pub(super) fn work(
        &mut self,
        source: &mut impl Source,
        now_ms: u64,
        mailbox: &Post<SessionEvent>,
    ) -> Option<Bytes> {
        if self.sending.is_none() {
            if !source.machine().has_dead_letters() {
                return None;
            }
            let session = self.directory.open_session(Arc::clone(mailbox));
            self.sending = Some(Box::new(Sending {
                session,
                clients: Queues::new(session),
                way: Way::new(Arc::clone(&self.directory), self.view.clone(), session),
                targets: BTreeSet::new(),
                next: 0,
                open: BTreeMap::new(),
                is_behind: false,
                again: BTreeSet::new(),
                again_ms: 0,
                done: Vec::new(),
                notices: Vec::new(),
                is_forgotten: false,
            }));
        }
        let first = |source: &dyn Source, id| source.machine().dead_letters(id).next().map(|(id, dead)| (id, *dead));
        let floor = first(source, 0).map_or(0, |(id, _)| id);
        if self.sending.as_ref().is_some_and(|sending| now_ms >= sending.again_ms) {
            let again = self.sending.as_mut().map(|sending| std::mem::take(&mut sending.again));
            for id in again.unwrap_or_default() {
                if let Some((_, dead)) = first(source, id).filter(|(other, _)| *other == id) {
                    self.send(id, &dead, floor, source, now_ms);
                }
            }
        }
        let mut looked_at = 0;
        loop {
            let sending = self.sending.as_mut()?;
            sending.is_behind = looked_at == LETTERS_MAX;
            let waiting = (sending.open.len() + sending.again.len()) as u64;
            if sending.is_behind
                || waiting.max(sending.clients.unapplied_commands()) >= LETTERS_MAX
                || sending.clients.unapplied_bytes() >= BYTES_MAX
            {
                break;
            }
            let Some((id, dead)) = first(source, sending.next) else {
                break;
            };
            self.send(id, &dead, floor, source, now_ms);
            self.sending.as_mut()?.next = id + 1;
            looked_at += 1;
        }
        self.flush(now_ms);
        let sending = self.sending.as_mut()?;
        if sending.done.is_empty() {
            return None;
        }
        let mut runs = Vec::new();
        sending.done.sort_unstable();
        sending.done.dedup();
        sending.done.drain(..).for_each(|id| Run::push(&mut runs, id));
        Some(system(&Command::Buried(runs)))
    }

    /// Hands a letter to its targets' clients.
    fn send(&mut self, id: u64, dead: &Dead, floor: u64, source: &mut impl Source, now_ms: u64) {
        let at_least_once = self.is_at_least_once();
        let queue = Arc::clone(&self.queue);
        let Some(sending) = &mut self.sending else { return };
        // A policy named it when the message died, and no longer does.
        let Some(exchange) = &queue.settings.dead_letter_exchange else {
            return sending.done.push(id);
        };
        let payload = source.read(dead.at);
        let letter = payload.as_ref().and_then(|payload| match queue.is_delay {
            true => Letter::of_due(payload),
            false => Letter::of(&queue, dead, payload),
        });
        let (Some(payload), Some(letter)) = (&payload, letter) else {
            tracing::error!(queue = %queue.name, id, "a dead letter cannot be read");
            return sending.done.push(id);
        };
        let keys: Vec<&str> = letter.routing_keys.iter().map(String::as_str).collect();
        let picture = self.view.picture();
        let arrival = Arrival {
            routing_keys: &keys,
            headers: Some(&letter.headers),
            properties: &letter.properties,
            draw: chance(queue.group, id),
        };
        let mut targets = picture.route(&queue.vhost, exchange, &arrival).unwrap_or_default();
        let routed = targets.len();
        let turns = |target: &Queue| !queue.is_delay && letter.turns_in_circles(&target.name, dead.reason);
        targets.retain(|target| !turns(target));
        if targets.len() < routed {
            tracing::warn!(queue = %queue.name, "a dead letter that would turn in circles was dropped");
        } else if targets.is_empty() && at_least_once && !queue.is_delay {
            sending.again.insert(id);
            sending.again_ms = now_ms + AGAIN_MS;
            return;
        }
        let mut further = Vec::new();
        for key in &keys[1..] {
            put_short_string(&mut further, key.as_bytes());
        }
        let body = payload.slice_ref(letter.stored.body);
        let mut publish = Publish {
            persistent: letter.stored.persistent,
            priority: letter.stored.priority,
            ttl_ms: letter.ttl_ms,
            origin: Some(Origin {
                group: queue.group,
                id,
                floor,
            }),
            bcc: &further,
            // What was only held back comes from where it was published to.
            exchange: if queue.is_delay {
                letter.stored.exchange
            } else {
                exchange.as_bytes()
            },
            routing_key: keys[0].as_bytes(),
            properties: &letter.properties,
            body: &[body],
        };
        for target in &targets {
            let confirm = at_least_once.then_some((CHANNEL, id));
            publish.ttl_ms = arrival.delay_ms().filter(|_| target.is_delay).or(letter.ttl_ms);
            sending.targets.insert(target.group);
            sending.clients.client(target.group).publish(&publish, confirm, now_ms);
        }
        if at_least_once && !targets.is_empty() {
            let targets = targets.iter().map(|target| target.group).collect();
            sending.open.insert(id, targets);
        } else {
            sending.done.push(id);
        }
    }

    fn flush(&mut self, now_ms: u64) {
        let Some(sending) = &mut self.sending else { return };
        sending.clients.flush(0, now_ms, &mut sending.way);
        for group in sending.way.end_turn() {
            sending.gone(group);
        }
    }

    /// What a target's leader, or the directory, has to say.
    pub(super) fn on_event(&mut self, event: SessionEvent, now_ms: u64) {
        let Some(sending) = &mut self.sending else { return };
        match event {
            SessionEvent::Events(events) => {
                let mut notices = std::mem::take(&mut sending.notices);
                if let Some(client) = sending.clients.known(events.group) {
                    client.apply(&events, now_ms, &mut notices);
                    client.finish(&events, now_ms, &mut notices);
                }
                sending.take(&mut notices, Some(events.group), now_ms);
                sending.notices = notices;
            }
            SessionEvent::Leader { group, leader } => {
                sending.way.moved(group, leader);
                if let Some(client) = sending.clients.known(group) {
                    client.rewind(now_ms);
                }
            }
            SessionEvent::QueueGone { group } => sending.gone(group),
            // It is nobody's.
            SessionEvent::Deleted(_) => {}
            // The others have given this node up, and its sessions with it.
            SessionEvent::Close { .. } => sending.is_forgotten = true,
            // It has no channels.
            SessionEvent::Reply(_) | SessionEvent::ReplyQueueIs { .. } => {}
        }
        self.start_anew();
    }

    /// Another session takes over from one that was forgotten, and sends again what is not buried.
    fn start_anew(&mut self) {
        if self.sending.as_ref().is_some_and(|sending| sending.is_forgotten) {
            tracing::warn!(queue = %self.queue.name, "a target took this node for dead: dead letters are sent again");
            self.stop();
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let Some(sending) = &mut self.sending else { return };
        sending.way.on_tick(now_ms);
        let mut notices = std::mem::take(&mut sending.notices);
        sending.clients.tick(now_ms, TIMEOUT_MS, &mut notices);
        sending.take(&mut notices, None, now_ms);
        sending.notices = notices;
        self.start_anew();
    }

    /// When [`DeadLetters::tick`] is due.
    pub(super) fn next_tick_ms(&self, now_ms: u64) -> Option<u64> {
        let sending = self.sending.as_ref()?;
        let again = (!sending.again.is_empty()).then_some(sending.again_ms);
        let clients = if sending.clients.has_unsent() {
            Some(now_ms + RETRY_MS)
        } else {
            sending.clients.needs_tick().then_some(now_ms + TICK_MS)
        };
        let behind = sending.is_behind.then_some(now_ms);
        again.into_iter().chain(clients).chain(behind).min()
    }

    /// The queue is no longer led from here.
    pub(super) fn stop(&mut self) {
        let Some(sending) = self.sending.take() else { return };
        self.directory.close_session(sending.session);
        for group in sending.targets {
            self.directory.end_session_in(group, sending.session);
        }
    }
}

/// As good as drawn, and the same whenever and wherever the letter is sent again: it goes to the same target then,
/// which takes it once.
fn chance(group: GroupId, id: u64) -> u64 {
    let mixed = (id ^ group.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 16
}

impl Sending {
    fn take(&mut self, notices: &mut Vec<Notice>, group: Option<GroupId>, now_ms: u64) {
        for notice in notices.drain(..) {
            match notice {
                Notice::Confirmed(_, run) => run.numbers().for_each(|id| self.confirmed(id, group)),
                Notice::Refused(_, run) => {
                    for id in run.numbers() {
                        if self.open.remove(&id).is_some() {
                            self.again.insert(id);
                            self.again_ms = now_ms + AGAIN_MS;
                        }
                    }
                }
                // The target was told that this node's run had ended, and takes nothing more from this session.
                Notice::Forgotten => self.is_forgotten = true,
                Notice::Answer(..)
                | Notice::Ended(..)
                | Notice::TimedOut(..)
                | Notice::ConsumerTimedOut(_)
                | Notice::ReaderLost(_) => {}
            }
        }
    }

    fn confirmed(&mut self, id: u64, group: Option<GroupId>) {
        let Some(targets) = self.open.get_mut(&id) else { return };
        if let Some(group) = group {
            targets.remove(&group);
        }
        if targets.is_empty() {
            self.open.remove(&id);
            self.done.push(id);
        }
    }

    /// A target was deleted: what it was sent counts as done.
    fn gone(&mut self, group: GroupId) {
        self.way.forget(group);
        self.targets.remove(&group);
        let mut notices = std::mem::take(&mut self.notices);
        self.clients.remove(group, &mut notices);
        self.take(&mut notices, Some(group), 0);
        self.notices = notices;
    }
}
