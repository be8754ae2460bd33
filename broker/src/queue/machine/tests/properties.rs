//! Random sessions against the model: duplicates, gaps, deaths, late and shuffled settlements, snapshots.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use proptest::prelude::*;
use warren_proto::record::{BatchWriter, Origin, Publish, batches, system};

use super::model::Model;
use super::*;
use crate::queue::machine::window::Window;

/// What one of the sessions does, or what happens to it. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        messages: u8,
        body: u8,
        facts: Facts,
    },
    Settle {
        outcome: Outcome,
        picks: Vec<u8>,
        stale: bool,
    },
    Attach {
        number: u32,
        prefetch: u32,
        priority: i64,
        no_ack: bool,
        exclusive: bool,
        timeout_ms: u64,
    },
    Cancel {
        number: u32,
        requeue: bool,
    },
    Get {
        no_ack: bool,
    },
    Purge,
    Stat,
    Delete {
        if_unused: bool,
        if_empty: bool,
    },
    Credit {
        number: u32,
        written: u64,
    },
    /// Sends what was not sent, after up to `repeat` commands that were.
    Send {
        repeat: u8,
    },
    /// Sends a few commands again that were sent before.
    SendOld {
        from: u8,
        len: u8,
    },
    /// Sends what was not sent without its first command, which stays unsent.
    SendGap,
    SessionDown,
    NodeSilent {
        incarnation: u64,
    },
    NodeDown {
        incarnation: u64,
    },
    Resync {
        next: u64,
    },
    Snapshot,
    Heard {
        less: u64,
    },
    /// An entry of its own after some time.
    Tick {
        wait_ms: u64,
    },
    /// Dead letters from the first that waits on.
    Buried {
        skip: u64,
        len: u32,
    },
    /// Settings of a version so much later than the last; 0: that one again.
    Configure {
        later: u64,
        config: Box<Config>,
    },
}

/// What a message may have beside a body.
#[derive(Clone, Copy, Debug)]
struct Facts {
    ttl_ms: Option<u64>,
    priority: Option<u8>,
    origin: Option<Origin>,
    key: Option<u8>,
}

/// With that key, if any.
fn properties(key: Option<u8>) -> Bytes {
    let headers = key.map(|key| {
        let mut headers = crate::amqp::Table::new();
        headers.insert("x-deduplication-header", crate::amqp::Value::U8(key));
        headers
    });
    let properties = crate::amqp::Properties {
        headers,
        ..crate::amqp::Properties::default()
    };
    properties.to_bytes()
}

fn facts() -> impl Strategy<Value = Facts> {
    use proptest::option::weighted;
    let origin = (7..9u64, 1..30u64).prop_map(|(group, id)| Origin {
        group,
        id,
        floor: id.saturating_sub(6),
    });
    (
        weighted(0.25, 0..6_000u64),
        weighted(0.3, prop_oneof![0..8u8, 28..40u8]),
        weighted(0.1, origin),
        weighted(0.3, 0..6u8),
    )
        .prop_map(|(ttl_ms, priority, origin, key)| Facts {
            ttl_ms,
            priority,
            origin,
            key,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Ack), 1 => Just(Outcome::Discard), 2 => Just(Outcome::Reject), 2 => Just(Outcome::Release)
    ];
    let picks = proptest::collection::vec(any::<u8>(), 1..8);
    prop_oneof![
        10 => (1..5u8, any::<u8>(), facts())
            .prop_map(|(messages, body, facts)| Step::Publish { messages, body, facts }),
        14 => (outcome, picks, proptest::bool::weighted(0.1))
            .prop_map(|(outcome, picks, stale)| Step::Settle { outcome, picks, stale }),
        4 => (0..5u32, 0..4u32, -1..2i64, any::<bool>(), proptest::bool::weighted(0.15), 0..6_000u64).prop_map(
            |(number, prefetch, priority, no_ack, exclusive, timeout_ms)| {
                let timeout_ms = timeout_ms.saturating_sub(2_000);
                Step::Attach { number, prefetch, priority, no_ack, exclusive, timeout_ms }
            }
        ),
        2 => (0..5u32, any::<bool>()).prop_map(|(number, requeue)| Step::Cancel { number, requeue }),
        3 => any::<bool>().prop_map(|no_ack| Step::Get { no_ack }),
        1 => Just(Step::Purge),
        1 => Just(Step::Stat),
        1 => any::<bool>().prop_map(|if_empty| Step::Delete { if_unused: true, if_empty }),
        2 => (0..5u32, 0..40u64).prop_map(|(number, written)| Step::Credit { number, written }),
        24 => (0..4u8).prop_map(|repeat| Step::Send { repeat }),
        2 => (any::<u8>(), 1..4u8).prop_map(|(from, len)| Step::SendOld { from, len }),
        1 => Just(Step::SendGap),
        1 => Just(Step::SessionDown),
        1 => (0..3u64).prop_map(|incarnation| Step::NodeDown { incarnation }),
        1 => (0..3u64).prop_map(|incarnation| Step::NodeSilent { incarnation }),
        2 => (0..8u64).prop_map(|next| Step::Resync { next }),
        2 => Just(Step::Snapshot),
        2 => (0..9u64).prop_map(|less| Step::Heard { less }),
        2 => (0..3_000u64).prop_map(|wait_ms| Step::Tick { wait_ms }),
        2 => (0..3u64, 1..5u32).prop_map(|(skip, len)| Step::Buried { skip, len }),
        2 => (0..3u64, config()).prop_map(|(later, config)| Step::Configure { later, config: Box::new(config) }),
    ]
}

#[derive(Clone, Debug)]
enum Sent {
    Publish(u8, Facts),
    Other(Command<'static>),
}

struct World {
    config: Config,
    version: u64,
    model: Model,
    machine: QueueMachine,
    /// The same, but restored from a snapshot now and then.
    restored: QueueMachine,
    /// Commands of each session that is or was there; those before the second are sent.
    sessions: BTreeMap<SessionId, (Vec<Sent>, usize)>,
    /// Sessions by the number that steps use; an ended one is replaced.
    current: Vec<SessionId>,
    next_id: u64,
    index: u64,
    time_ms: u64,
    entry: Vec<u8>,
    live: BTreeSet<u64>,
    /// The highest number of a first delivery, by level.
    first_delivered: BTreeMap<u64, u64>,
    gets_answered: BTreeSet<(SessionId, u64)>,
}

impl World {
    fn new(config: Config) -> Self {
        let current: Vec<_> = (1..=4)
            .map(|id| SessionId {
                node: 1 + id % 2,
                incarnation: 1,
                id,
            })
            .collect();
        Self {
            model: Model::new(config.clone()),
            machine: QueueMachine::new(config.clone()),
            restored: QueueMachine::new(config.clone()),
            config,
            version: 0,
            sessions: BTreeMap::new(),
            next_id: current.len() as u64 + 1,
            current,
            index: 0,
            time_ms: 0,
            entry: Vec::new(),
            live: BTreeSet::new(),
            first_delivered: BTreeMap::new(),
            gets_answered: BTreeSet::new(),
        }
    }

    fn step(&mut self, who: usize, step: &Step) {
        let session = self.current[who % self.current.len()];
        match step {
            Step::Publish { messages, body, facts } => {
                (0..*messages).for_each(|_| self.queue(session, Sent::Publish(*body, *facts)));
            }
            Step::Settle { outcome, picks, stale } => {
                // Whoever holds something, from this session on.
                let holds = |session: &SessionId| !self.model.held_by(*session).is_empty();
                let mut others = self.current.iter().copied().cycle().skip(who).take(self.current.len());
                let session = others.find(holds).unwrap_or(session);
                let held = self.model.held_by(session);
                let mut runs = Vec::new();
                for pick in picks {
                    if *stale {
                        runs.push(Run {
                            first: u64::from(*pick) / 8,
                            len: 1 + u32::from(*pick) % 4,
                        });
                    } else if !held.is_empty() {
                        Run::push(&mut runs, held[usize::from(*pick) % held.len()]);
                    }
                }
                if !runs.is_empty() {
                    self.queue(
                        session,
                        Sent::Other(Command::Settle {
                            outcome: *outcome,
                            runs,
                        }),
                    );
                }
            }
            &Step::Attach {
                number,
                prefetch,
                priority,
                no_ack,
                exclusive,
                timeout_ms,
            } => {
                let attach = queue::Attach {
                    consumer: number,
                    channel: 1,
                    tag: format!("tag {number}"),
                    no_ack,
                    exclusive,
                    prefetch,
                    priority,
                    timeout_ms,
                    arguments: vec![1; number as usize].into(),
                    ..queue::Attach::default()
                };
                self.queue(session, Sent::Other(Command::Attach(attach)));
            }
            &Step::Cancel { number, requeue } => {
                let cancel = queue::Cancel {
                    consumer: number,
                    requeue,
                };
                self.queue(session, Sent::Other(Command::Cancel(cancel)));
            }
            &Step::Get { no_ack } => self.queue(session, Sent::Other(Command::Get(queue::Get { no_ack }))),
            Step::Purge => self.queue(session, Sent::Other(Command::Purge)),
            Step::Stat => self.queue(session, Sent::Other(Command::Stat)),
            &Step::Delete { if_unused, if_empty } => {
                let delete = queue::Delete { if_unused, if_empty };
                self.queue(session, Sent::Other(Command::Delete(delete)));
            }
            &Step::Credit { number, written } => {
                let credit = queue::Credit {
                    consumer: number,
                    written,
                };
                self.queue(session, Sent::Other(Command::Credit(credit)));
            }
            Step::Send { repeat } => {
                let Some((commands, sent)) = self.sessions.get_mut(&session) else {
                    return;
                };
                let from = sent.saturating_sub(usize::from(*repeat));
                *sent = commands.len();
                let sent = *sent;
                self.send(session, from..sent);
                // Every other entry holds one batch, the rest two or more.
                if self.index.is_multiple_of(2) || self.entry.len() > 200 {
                    self.apply();
                }
            }
            &Step::SendOld { from, len } => {
                let sent = self.sessions.get(&session).map_or(0, |(_, sent)| *sent);
                if sent > 0 {
                    let from = usize::from(from) % sent;
                    self.send(session, from..sent.min(from + usize::from(len)));
                    self.apply();
                }
            }
            Step::SendGap => {
                let Some((commands, sent)) = self.sessions.get(&session) else {
                    return;
                };
                let beyond = sent + 1..commands.len();
                if !beyond.is_empty() {
                    self.send(session, beyond);
                }
            }
            Step::SessionDown => {
                self.start_entry();
                self.model.session_down(session);
                self.entry.extend_from_slice(&system(&Command::SessionDown(session)));
                self.apply();
                // What it had sent arrives once more, too late.
                let sent = self.sessions.get(&session).map_or(0, |(_, sent)| *sent);
                self.send(session, 0..sent);
                self.apply();
                self.replace(session);
            }
            &Step::NodeDown { incarnation } => {
                self.start_entry();
                self.model.node_down(session.node, incarnation);
                let down = Command::NodeDown {
                    node: session.node,
                    incarnation,
                };
                self.entry.extend_from_slice(&system(&down));
                self.apply();
                for other in self.current.clone() {
                    if other.node == session.node && other.incarnation <= incarnation {
                        self.replace(other);
                    }
                }
            }
            &Step::NodeSilent { incarnation } => {
                self.start_entry();
                self.model.node_silent(session.node, incarnation);
                let node = session.node;
                self.entry
                    .extend_from_slice(&system(&Command::NodeSilent { node, incarnation }));
                self.apply();
            }
            Step::Resync { next } => {
                self.apply();
                let mut consumers = self.model.consumers_of(session);
                consumers.iter_mut().for_each(|(_, id)| *id = id.saturating_sub(*next));
                consumers.push((77, 0));
                let request = queue::Resync {
                    node: session.node,
                    incarnation: session.incarnation,
                    id: session.id,
                    consumers: consumers
                        .iter()
                        .map(|(consumer, next)| queue::ResyncConsumer {
                            consumer: *consumer,
                            next: *next,
                            ..queue::ResyncConsumer::default()
                        })
                        .collect(),
                    number: 0,
                };
                let mut effects = Vec::new();
                self.machine.resync(&request, &mut effects);
                assert_eq!(effects, self.model.resync(session, &consumers));
            }
            &Step::Heard { less } => {
                let upto = self.model.last_seq(session).saturating_sub(less);
                self.queue(session, Sent::Other(Command::Heard(queue::Heard { upto })));
            }
            &Step::Tick { wait_ms } => {
                self.apply();
                self.time_ms += wait_ms;
                self.start_entry();
                self.entry.extend_from_slice(&system(&Command::Tick));
                self.apply();
            }
            &Step::Buried { skip, len } => {
                let first = self.model.first_dead() + skip;
                let runs = vec![Run { first, len }];
                self.start_entry();
                self.model.bury(&runs);
                self.entry.extend_from_slice(&system(&Command::Buried(runs)));
            }
            Step::Configure { later, config } => {
                self.version += later;
                // A policy changes nothing of this.
                let config = Config {
                    kind: self.config.kind,
                    auto_delete: self.config.auto_delete,
                    single_active_consumer: self.config.single_active_consumer,
                    priority_max: self.config.priority_max,
                    deduplicates: self.config.deduplicates,
                    ..Config::clone(config)
                };
                self.start_entry();
                self.model.configure(self.version, &config);
                let configure = config.to_proto(self.version);
                self.entry.extend_from_slice(&system(&Command::Configure(configure)));
            }
            Step::Snapshot => {
                self.apply();
                let chunks = self.restored.snapshot();
                self.restored = QueueMachine::restore(self.config.clone(), &chunks).expect("its own snapshot");
            }
        }
    }

    fn queue(&mut self, session: SessionId, command: Sent) {
        self.sessions.entry(session).or_default().0.push(command);
    }

    fn replace(&mut self, ended: SessionId) {
        for session in self.current.iter_mut().filter(|session| **session == ended) {
            session.id = self.next_id;
            session.incarnation = 1 + self.next_id % 2;
            self.next_id += 1;
        }
    }

    fn start_entry(&mut self) {
        if self.entry.is_empty() {
            self.index += 1;
            self.time_ms += 300;
            self.model.pass_time(self.time_ms);
        }
    }

    fn meta(&self) -> Meta {
        Meta {
            time_ms: self.time_ms,
            ..meta(self.index)
        }
    }

    /// Adds a batch of some of the session's commands to the entry.
    fn send(&mut self, session: SessionId, range: Range<usize>) {
        let Some((commands, _)) = self.sessions.get(&session) else {
            return;
        };
        if range.is_empty() {
            return;
        }
        let first_seq = range.start as u64 + 1;
        let commands = commands[range].to_vec();
        self.start_entry();
        let mut batch = BatchWriter::new(session, first_seq);
        for command in commands {
            match command {
                Sent::Publish(body, facts) => {
                    let body = [Bytes::from(vec![body; usize::from(body % 64)])];
                    batch.publish(&Publish {
                        persistent: true,
                        priority: facts.priority,
                        ttl_ms: facts.ttl_ms,
                        origin: facts.origin,
                        bcc: &[],
                        exchange: b"x",
                        routing_key: b"key",
                        properties: &properties(facts.key),
                        body: &body,
                    });
                }
                Sent::Other(Command::Settle { outcome, runs }) => batch.settle(outcome, &runs),
                Sent::Other(command) => batch.push(&command),
            }
        }
        let bytes = batch.finish();
        let batch = batches(&bytes).next().expect("one batch").expect("as written");
        let expected: Vec<_> = batch
            .commands()
            .map(|command| {
                let command = command.expect("as written");
                let place = match &command {
                    Command::Publish { offset, payload } => Place {
                        index: self.index,
                        offset: self.entry.len() as u32 + offset,
                        len: payload.len() as u32,
                    },
                    _ => Place::default(),
                };
                (command, place)
            })
            .collect();
        self.model.batch(session, first_seq, &expected);
        self.entry.extend_from_slice(&bytes);
    }

    /// Applies the entry and compares everything with the model.
    fn apply(&mut self) {
        if self.entry.is_empty() {
            return;
        }
        let entry = std::mem::take(&mut self.entry);
        let (mut effects, mut again) = (Vec::new(), Vec::new());
        self.machine.apply(&self.meta(), &entry, &mut effects);
        self.restored.apply(&self.meta(), &entry, &mut again);
        assert_eq!(effects, self.model.take_effects());
        assert_eq!(effects, again, "a restored machine does something else");
        assert_eq!(self.machine.snapshot(), self.restored.snapshot());
        check(&self.machine);
        check(&self.restored);
        let stats = self.machine.stats();
        assert_eq!((stats.ready, stats.unacked, stats.consumers), self.model.counts());
        let dead: Vec<_> = self.machine.dead_letters(0).map(|(id, dead)| (id, *dead)).collect();
        assert_eq!(dead, self.model.dead());
        self.check_deadline();
        for session in self.machine.sessions() {
            assert_eq!(self.machine.last_seq(session), self.model.last_seq(session));
        }
        self.check_entries();
        self.check_order(&effects);
    }

    /// An entry is wanted no later than when something is due, and not for nothing for ever.
    fn check_deadline(&self) {
        let (deadline, due) = (self.machine.next_deadline(), self.model.next_due());
        assert_eq!(deadline, self.restored.next_deadline());
        if let Some(due) = due {
            assert!(
                deadline.is_some_and(|deadline| deadline <= due),
                "{deadline:?} is after {due}"
            );
        }
        assert!(deadline.is_none_or(|deadline| deadline == 0 || deadline > self.time_ms));
    }

    fn check_entries(&mut self) {
        let live = self.model.live();
        assert!(self.machine.live().into_iter().flatten().eq(live.iter().copied()));
        assert!((0..=self.index + 1).all(|index| self.machine.is_live(index) == live.contains(&index)));
        let (mut freed, mut again) = (Vec::new(), Vec::new());
        self.machine.take_freed(&mut freed);
        self.restored.take_freed(&mut again);
        assert_eq!(freed, again);
        let mut distinct = freed.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), freed.len(), "an entry was freed twice");
        assert!(freed.iter().all(|index| !live.contains(index)));
        let gone: BTreeSet<u64> = self.live.difference(&live).copied().collect();
        let newly: BTreeSet<u64> = freed.into_iter().filter(|index| *index != self.index).collect();
        assert_eq!(newly, gone);
        self.live = live;
    }

    /// Messages leave for the first time in the order of their numbers.
    fn check_order(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Deliver {
                session,
                get_seq,
                seq,
                redelivered: false,
                ..
            } = effect
            {
                if *get_seq > 0 && !self.gets_answered.insert((*session, *get_seq)) {
                    continue;
                }
                let last = self.first_delivered.entry(seq >> 56).or_insert(0);
                assert!(seq > last, "message {seq} after {last}");
                *last = *seq;
            }
        }
    }
}

fn config() -> impl Strategy<Value = Config> {
    use proptest::option::weighted;
    let overflow = prop_oneof![
        Just(Overflow::DropHead),
        Just(Overflow::RejectPublish),
        Just(Overflow::RejectPublishDlx)
    ];
    let kind = prop_oneof![Just(Kind::Classic), Just(Kind::Quorum)];
    let first = (
        kind,
        proptest::option::of(0..3u32),
        proptest::bool::weighted(0.2),
        weighted(0.3, 0..6_000u64),
        weighted(0.2, 2_000..9_000u64),
        weighted(0.3, 0..8u64),
    );
    let second = (
        weighted(0.3, 0..200u64),
        overflow,
        any::<bool>(),
        proptest::bool::weighted(0.3),
        weighted(0.5, 0..9u8),
        weighted(0.4, (any::<bool>(), any::<bool>(), 1..4_000u64, 1..8_000u64)),
        any::<bool>(),
    );
    (first, second).prop_map(|(first, second)| {
        let (kind, delivery_limit, auto_delete, message_ttl_ms, expires_ms, len_max) = first;
        let (bytes_max, overflow, dead_letters, single_active_consumer, priority_max, retry, deduplicates) = second;
        Config {
            kind,
            delivery_limit,
            auto_delete,
            message_ttl_ms,
            expires_ms,
            len_max,
            bytes_max,
            overflow,
            dead_letters,
            single_active_consumer,
            priority_max,
            deduplicates,
            age_max_ms: None,
            segment_bytes: None,
            retry: retry.map(|(failed, returned, min_ms, max_ms)| Retry {
                failed,
                returned,
                min_ms,
                max_ms,
            }),
        }
    })
}

/// Nothing that a queue need not have.
fn plain() -> impl Strategy<Value = Config> {
    (proptest::option::of(0..3u32), proptest::bool::weighted(0.2)).prop_map(|(delivery_limit, auto_delete)| Config {
        kind: Kind::Quorum,
        delivery_limit,
        auto_delete,
        ..Config::default()
    })
}

fn steps(len: usize) -> impl Strategy<Value = Vec<(usize, Step)>> {
    proptest::collection::vec((0..4usize, step()), 1..len)
}

/// The entries of a run, as the machine saw them.
fn machine_after(config: Config, steps: &[(usize, Step)]) -> World {
    let mut world = World::new(config);
    for (who, step) in steps {
        world.step(*who, step);
    }
    world.apply();
    world
}

proptest! {
    #[test]
    fn the_machine_does_what_the_model_does(config in config(), steps in steps(250)) {
        machine_after(config, &steps);
    }

    #[test]
    fn a_plain_queue_does_what_the_model_does(config in plain(), steps in steps(250)) {
        machine_after(config, &steps);
    }

    #[test]
    fn no_entry_breaks_it(
        config in config(), steps in steps(40), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)
    ) {
        let mut world = machine_after(config, &steps);
        let session = world.current[0];
        let facts = Facts { ttl_ms: Some(900), priority: Some(6), origin: None, key: Some(1) };
        world.queue(session, Sent::Publish(3, facts));
        world.queue(session, Sent::Other(Command::Settle { outcome: Outcome::Reject, runs: vec![Run { first: 1, len: 9 }] }));
        world.queue(session, Sent::Other(Command::Get(queue::Get { no_ack: false })));
        world.queue(session, Sent::Publish(1, facts));
        let (commands, sent) = &world.sessions[&session];
        let unsent = *sent..commands.len();
        world.send(session, unsent);
        let mut entry = world.entry.clone();
        for (at, with) in flips {
            let at = at % entry.len();
            entry[at] ^= with;
        }
        let (mut effects, mut again) = (Vec::new(), Vec::new());
        world.machine.apply(&world.meta(), &entry, &mut effects);
        world.restored.apply(&world.meta(), &entry, &mut again);
        check(&world.machine);
        prop_assert_eq!(effects, again);
        prop_assert_eq!(world.machine.snapshot(), world.restored.snapshot());
    }

    #[test]
    fn no_snapshot_breaks_it(
        config in config(), steps in steps(60), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>()
    ) {
        let mut world = machine_after(config.clone(), &steps);
        let whole = world.machine.snapshot().concat();
        let cut = cut % whole.len();
        // Between two sections it ends as if there were no more of them: whoever stores it knows how long it is.
        if let Ok(shorter) = QueueMachine::restore(config.clone(), &[Bytes::copy_from_slice(&whole[..cut])]) {
            prop_assert_eq!(shorter.snapshot().concat(), &whole[..cut]);
        }
        let longer = [Bytes::from(whole.clone()), Bytes::from_static(&[0])];
        prop_assert!(QueueMachine::restore(config.clone(), &longer).is_err());
        let pieces: Vec<Bytes> = whole.chunks(1 + cut % 7).map(Bytes::copy_from_slice).collect();
        prop_assert!(QueueMachine::restore(config.clone(), &pieces).is_ok());
        let mut damaged = whole;
        for (at, with) in flips {
            let at = at % damaged.len();
            damaged[at] ^= with;
        }
        if let Ok(mut machine) = QueueMachine::restore(config, &[Bytes::from(damaged)]) {
            // Damage that makes another possible state: that one has to work.
            let mut effects = Vec::new();
            for session in world.current.clone() {
                machine.apply(&meta(world.index + 1), &system(&Command::SessionDown(session)), &mut effects);
                world.index += 1;
            }
        }
    }

    #[test]
    fn a_window_is_a_map(
        operations in proptest::collection::vec((0..4u8, prop_oneof![0..200u64, Just(u64::MAX)], 0..90u64), 1..200)
    ) {
        let mut window = Window::new();
        let mut map = BTreeMap::new();
        for (operation, number, other) in operations {
            match operation {
                0 | 1 => {
                    window.insert(number, other);
                    map.insert(number, other);
                }
                2 => {
                    let last = number.saturating_add(other);
                    let mut taken = Vec::new();
                    window.extract(number, last, |value| value % 3 != 0, |number, value| taken.push((number, value)));
                    let expected: Vec<_> =
                        map.range(number..=last).filter(|(_, value)| *value % 3 != 0).map(|(n, v)| (*n, *v)).collect();
                    map.retain(|n, v| !(number..=last).contains(n) || *v % 3 == 0);
                    prop_assert_eq!(taken, expected);
                }
                _ if other % 2 == 0 => prop_assert_eq!(window.pop_first(), map.pop_first()),
                _ => prop_assert_eq!(window.remove(number), map.remove(&number)),
            }
            prop_assert_eq!(window.get(number), map.get(&number));
            prop_assert_eq!(window.len(), map.len());
            prop_assert!(window.iter().map(|(n, v)| (n, *v)).eq(map.iter().map(|(n, v)| (*n, *v))));
        }
    }
}

#[test]
fn a_snapshot_of_another_format_is_refused() {
    let mut chunk = QueueMachine::new(Config::default()).snapshot().concat();
    chunk[0] = 200;
    let result = QueueMachine::restore(Config::default(), &[Bytes::from(chunk)]);
    assert_eq!(result.err(), Some(RestoreError::Format(200)));
    assert_eq!(
        QueueMachine::restore(Config::default(), &[]).err(),
        Some(RestoreError::Truncated)
    );
}

#[test]
fn a_large_snapshot_comes_in_chunks() {
    let mut machine = QueueMachine::new(Config::default());
    let session = SessionId {
        node: 1,
        incarnation: 1,
        id: 1,
    };
    for index in 1..=300 {
        let mut batch = BatchWriter::new(session, (index - 1) * 500 + 1);
        for _ in 0..500 {
            batch.publish(&Publish {
                persistent: false,
                priority: None,
                ttl_ms: None,
                origin: None,
                bcc: &[],
                exchange: b"",
                routing_key: b"",
                properties: &[0, 0],
                body: &[],
            });
        }
        machine.apply(&meta(index), &batch.finish(), &mut Vec::new());
    }
    let chunks = machine.snapshot();
    assert_eq!(chunks.iter().map(|chunk| chunk.len() >> 20).collect::<Vec<_>>(), [1, 0]);
    let restored = QueueMachine::restore(Config::default(), &chunks).expect("its own snapshot");
    check(&restored);
    assert_eq!(restored.snapshot(), chunks);
    assert_eq!(restored.stats(), machine.stats());
}

#[test]
fn a_queue_thinned_out_in_the_middle_keeps_its_order() {
    const MESSAGES: u64 = 20_000;
    let config = Config::default();
    let mut machine = QueueMachine::new(config.clone());
    let session = SessionId {
        node: 1,
        incarnation: 1,
        id: 1,
    };
    // One in 97 stays; the others go at three different times, and among them the first.
    let stays = |number: u64| number.is_multiple_of(97);
    let mut expected = Vec::new();
    let mut batch = BatchWriter::new(session, 1);
    for number in 1..=MESSAGES {
        let ttl_ms = (!stays(number)).then_some(1_000 * (1 + number % 3));
        batch.publish(&Publish {
            ttl_ms,
            properties: &[0, 0],
            ..Publish::default()
        });
        expected.extend(stays(number).then_some(number));
    }
    machine.apply(&meta(1), &batch.finish(), &mut Vec::new());
    for index in 2..=5 {
        machine.apply(&meta(index), &system(&Command::Tick), &mut Vec::new());
        check(&machine);
        let chunks = machine.snapshot();
        let restored = QueueMachine::restore(config.clone(), &chunks).expect("its own snapshot");
        check(&restored);
        assert_eq!(restored.snapshot(), chunks);
        machine = restored;
    }
    assert_eq!(machine.ready_len(), expected.len() as u64);
    let mut batch = BatchWriter::new(session, MESSAGES + 1);
    for _ in &expected {
        batch.push(&Command::Get(queue::Get { no_ack: true }));
    }
    let mut effects = Vec::new();
    machine.apply(&meta(6), &batch.finish(), &mut effects);
    let got = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver { seq, .. } => Some(*seq),
        _ => None,
    });
    assert_eq!(got.collect::<Vec<_>>(), expected);
    check(&machine);
}
