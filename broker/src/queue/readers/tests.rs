//! Readers with their sessions' side, over a way that loses, and through leaders that know nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use warren_cluster::machine::Meta;
use warren_proto::queue;
use warren_proto::queue::{StreamFrom, stream_from::At};
use warren_proto::record::{BatchWriter, Command, Events, Outcome, Publish};

use super::*;
use crate::amqp::{Properties, Table, Value};
use crate::queue::client::{Accepted, Asked, ChannelId, QueueClient, Share};
use crate::queue::machine::{Config, Kind};

const GROUP: u64 = 5;
const PUBLISHER: SessionId = session(1);
const READER: SessionId = session(2);

const fn session(id: u64) -> SessionId {
    SessionId {
        node: 1,
        incarnation: 1,
        id,
    }
}

/// The log of a leader.
struct Log {
    machine: QueueMachine,
    entries: BTreeMap<u64, (u64, Bytes)>,
    index: u64,
    time_ms: u64,
}

impl Entries for Log {
    fn machine(&self) -> &QueueMachine {
        &self.machine
    }

    fn entry(&mut self, index: u64) -> Option<(u64, Bytes)> {
        assert!(self.machine.is_live(index), "entry {index} may be gone");
        self.entries.get(&index).cloned()
    }
}

impl Log {
    fn new(config: Config) -> Self {
        Self {
            machine: QueueMachine::new(Config {
                kind: Kind::Stream,
                ..config
            }),
            entries: BTreeMap::new(),
            index: 0,
            time_ms: 0,
        }
    }

    fn apply(&mut self, payload: Bytes) -> Vec<Effect> {
        self.index += 1;
        self.time_ms += 10;
        let meta = Meta {
            index: self.index,
            term: 1,
            time_ms: self.time_ms,
            version: 1,
        };
        let mut effects = Vec::new();
        self.machine.apply(&meta, &payload, &mut effects);
        self.entries.insert(self.index, (self.time_ms, payload));
        effects
    }

    /// So many messages in one entry, which say the last digit of their number as filter value but for 9.
    fn publish(&mut self, messages: u64, body: usize) {
        let first = self.machine.last_seq(PUBLISHER) + 1;
        let mut batch = BatchWriter::new(PUBLISHER, first);
        for number in first..first + messages {
            let body = [Bytes::from(vec![1; body])];
            batch.publish(&Publish {
                properties: &properties(number - 1),
                body: &body,
                ..Publish::default()
            });
        }
        self.apply(batch.finish());
    }

    fn next(&self) -> u64 {
        self.machine.stream().expect("a stream").next()
    }

    fn first(&self) -> u64 {
        self.machine.stream().expect("a stream").first()
    }
}

fn properties(offset: u64) -> Bytes {
    let mut headers = Table::new();
    if offset % 10 < 9 {
        headers.insert(
            "x-stream-filter-value",
            Value::LongStr((offset % 10).to_string().into()),
        );
    }
    let properties = Properties {
        headers: Some(headers),
        ..Properties::default()
    };
    properties.to_bytes()
}

/// A leader, a session with one reader, and what is between them.
struct World {
    log: Log,
    readers: Readers,
    client: QueueClient,
    filter: Vec<u64>,
    now_ms: u64,
    term: u64,
    prefetch: u64,
    /// What the client was given, by offset.
    got: Vec<u64>,
    unsettled: u64,
    /// On its way to the client.
    events: VecDeque<Events>,
    /// On its way to the leader.
    requests: VecDeque<Resync>,
    /// The lowest offset that may have gone before it was read.
    lost_below: u64,
}

impl World {
    fn new(config: Config, from: At, filter: &[u64], prefetch: u32, messages_before: u64) -> Self {
        let mut log = Log::new(config);
        let mut left = messages_before;
        while left > 0 {
            log.publish(left.min(7), 5);
            left -= left.min(7);
        }
        let mut client = QueueClient::new(READER, GROUP);
        let attach = queue::Attach {
            consumer: 3,
            prefetch,
            from: Some(StreamFrom {
                at: Some(from),
                not_before_ms: 0,
            }),
            filter: filter.iter().map(u64::to_string).collect(),
            match_unfiltered: filter.contains(&9),
            ..queue::Attach::default()
        };
        client.ask(ChannelId::default(), Asked::Attach(3), &Command::Attach(attach), 1);
        client.seal(1);
        let batch = client.next_send().expect("an attach");
        let effects = log.apply(batch);
        let mut events = Events {
            group: GROUP,
            ..Events::default()
        };
        for effect in effects {
            effect.add_to(&mut events, Bytes::new());
        }
        client.apply(&events, 1, &mut Vec::new());
        client.finish(&events, 1, &mut Vec::new());
        Self {
            log,
            readers: Readers::default(),
            client,
            filter: filter.to_vec(),
            now_ms: 1,
            term: 1,
            prefetch: u64::from(prefetch),
            got: Vec::new(),
            unsettled: 0,
            events: VecDeque::new(),
            requests: VecDeque::new(),
            lost_below: 0,
        }
    }

    /// The session says what it has to say; it arrives unless it is lost.
    fn flush(&mut self, is_lost: bool) {
        self.client.tick(self.now_ms, 1 << 40, &mut Vec::new());
        let request = self.client.take_resync(Share::of(1), self.now_ms);
        let request = request.or_else(|| self.client.take_credit(Share::of(1), self.now_ms));
        self.requests.extend(request.filter(|_| !is_lost));
    }

    /// The leader takes in what arrived and reads one turn.
    fn lead(&mut self, is_stalled: bool) {
        let mut events = Events {
            group: GROUP,
            term: self.term,
            ..Events::default()
        };
        for request in self.requests.drain(..) {
            self.readers.ask(&request, &self.log.machine);
            let mut effects = Vec::new();
            self.log.machine.resync(&request, &mut effects);
            effects
                .into_iter()
                .for_each(|effect| effect.add_to(&mut events, Bytes::new()));
        }
        let stalls = |_| is_stalled;
        self.readers
            .work(&mut self.log, self.now_ms, stalls, |effect, payload| {
                effect.add_to(&mut events, payload);
            });
        assert!(!is_stalled || events.deliveries.is_empty());
        self.events.push_back(events);
    }

    /// One message from the leader arrives.
    fn arrive(&mut self) {
        let Some(events) = self.events.pop_front() else { return };
        self.client.apply(&events, self.now_ms, &mut Vec::new());
        for delivery in &events.deliveries {
            match self.client.accept(&events, delivery, self.now_ms) {
                Accepted::Deliver => {
                    assert!(self.got.last().is_none_or(|last| *last < delivery.seq), "out of order");
                    assert!(self.matches(delivery.seq));
                    self.got.push(delivery.seq);
                    self.unsettled += 1;
                    self.client.wrote(3);
                    assert!(self.unsettled <= self.prefetch, "over its prefetch limit");
                }
                Accepted::Drop => {}
                other => panic!("a stream's delivery is {other:?}"),
            }
        }
        self.client.finish(&events, self.now_ms, &mut Vec::new());
    }

    /// What is on its way is lost, and the session told so.
    fn link_breaks(&mut self, arriving: usize) {
        (0..arriving).for_each(|_| self.arrive());
        self.events.clear();
        self.requests.clear();
        self.client.rewind(self.now_ms);
    }

    fn settle(&mut self, messages: u64) {
        for _ in 0..messages.min(self.unsettled) {
            assert!(!self.client.settle(Outcome::Reject, 0, 3, self.now_ms));
            self.unsettled -= 1;
        }
    }

    /// Another replica leads: it knows what the log says. The session may not have heard of it but by what it says itself.
    fn new_leader(&mut self, is_announced: bool) {
        self.readers = Readers::default();
        self.requests.clear();
        self.term += 1;
        let mut events = Events {
            group: GROUP,
            term: self.term,
            ..Events::default()
        };
        let mut effects = Vec::new();
        self.log.machine.entered_leader(&mut effects);
        effects
            .into_iter()
            .for_each(|effect| effect.add_to(&mut events, Bytes::new()));
        self.events.push_back(events);
        if is_announced {
            self.client.rewind(self.now_ms);
        }
    }

    fn matches(&self, offset: u64) -> bool {
        self.filter.is_empty() || self.filter.contains(&(offset % 10))
    }

    /// Without further faults it gets all that it has not got, and nothing else.
    fn settle_down(&mut self, start: u64) {
        for _ in 0..2_000 {
            self.now_ms += 300;
            self.flush(false);
            self.lead(false);
            while !self.events.is_empty() {
                self.arrive();
            }
            self.settle(u64::MAX);
            if self.got.last().copied() >= self.wanted(start).last().copied() {
                break;
            }
        }
        let got: Vec<u64> = self.got.iter().copied().filter(|at| *at >= self.lost_below).collect();
        let wanted: Vec<u64> = self
            .wanted(start)
            .into_iter()
            .filter(|at| *at >= self.lost_below)
            .collect();
        assert_eq!(got, wanted);
    }

    fn wanted(&self, start: u64) -> Vec<u64> {
        (start..self.log.next())
            .filter(|offset| self.matches(*offset))
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish {
        messages: u64,
        body: usize,
    },
    Flush {
        is_lost: bool,
    },
    Lead {
        is_stalled: bool,
    },
    Arrive,
    /// So much of what is on its way to the client still arrives.
    Break {
        arriving: usize,
    },
    Settle(u64),
    Wait(u64),
    NewLeader {
        is_announced: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let lost = || proptest::bool::weighted(0.15);
    prop_oneof![
        4 => (1..40u64, 0..200usize).prop_map(|(messages, body)| Step::Publish { messages, body }),
        6 => lost().prop_map(|is_lost| Step::Flush { is_lost }),
        8 => lost().prop_map(|is_stalled| Step::Lead { is_stalled }),
        8 => Just(Step::Arrive),
        1 => (0..4usize).prop_map(|arriving| Step::Break { arriving }),
        5 => (1..20u64).prop_map(Step::Settle),
        3 => (0..1_500u64).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(|is_announced| Step::NewLeader { is_announced }),
    ]
}

proptest! {
    #[test]
    fn a_reader_gets_every_message_once_and_in_order(
        from in prop_oneof![Just(At::First(true)), Just(At::Next(true)), Just(At::Last(true)), (0..60u64).prop_map(At::Offset)],
        before in 0..50u64, prefetch in 1..30u32,
        filter in prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(0..10u64, 1..3)],
        bounded in proptest::bool::weighted(0.3),
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let config = Config {
            bytes_max: bounded.then_some(3_000),
            segment_bytes: Some(1_000),
            ..Config::default()
        };
        // What 9 stands for has no filter value, and comes only beside others.
        let filter = if filter.iter().all(|value| *value == 9) { Vec::new() } else { filter };
        let mut world = World::new(config, from, &filter, prefetch, before);
        let first = world.log.first();
        let start = match from {
            At::First(_) => first,
            At::Last(_) => before.saturating_sub(1),
            At::Offset(offset) => offset.max(first),
            _ => before,
        };
        for step in steps {
            match step {
                Step::Publish { messages, body } => {
                    world.log.publish(messages, body);
                    let behind = world.got.last().map_or(start, |last| last + 1);
                    if behind < world.log.first() {
                        world.lost_below = world.log.first();
                    }
                }
                Step::Flush { is_lost } => world.flush(is_lost),
                Step::Lead { is_stalled } => world.lead(is_stalled),
                Step::Arrive => world.arrive(),
                Step::Break { arriving } => world.link_breaks(arriving),
                Step::Settle(messages) => world.settle(messages),
                Step::Wait(ms) => world.now_ms += ms,
                Step::NewLeader { is_announced } => world.new_leader(is_announced),
            }
        }
        world.settle_down(start);
    }
}

#[test]
fn a_turn_reads_a_bounded_amount_for_each() {
    let mut world = World::new(Config::default(), At::First(true), &[], 10_000, 0);
    for _ in 0..8 {
        world.log.publish(10, 100 << 10);
    }
    world.flush(false);
    let mut turns = 0;
    let mut bytes = Vec::new();
    while world.got.len() < 80 {
        world.lead(false);
        let events = world.events.back().expect("of this turn");
        bytes.push(
            events
                .deliveries
                .iter()
                .map(|delivery| delivery.payload.len())
                .sum::<usize>(),
        );
        world.arrive();
        world.flush(false);
        world.now_ms += 1;
        turns += 1;
        assert!(turns < 200, "it does not get on");
    }
    assert!(bytes.iter().all(|bytes| *bytes <= BYTES_PER_MS + (101 << 10)));
    assert!(turns > 10);
}

#[test]
fn messages_before_a_time_are_passed_over_entry_by_entry() {
    let mut world = World::new(Config::default(), At::Next(true), &[], 100, 0);
    for _ in 0..20 {
        world.log.publish(2, 10);
    }
    let (time_ms, _) = world.log.entries[&15];
    let mut client = QueueClient::new(session(9), GROUP);
    let attach = queue::Attach {
        consumer: 1,
        prefetch: 100,
        from: Some(StreamFrom {
            at: Some(At::TimeMs(time_ms)),
            not_before_ms: 0,
        }),
        ..queue::Attach::default()
    };
    client.ask(ChannelId::default(), Asked::Attach(1), &Command::Attach(attach), 1);
    client.seal(1);
    let effects = world.log.apply(client.next_send().expect("an attach"));
    let mut events = Events::default();
    effects
        .into_iter()
        .for_each(|effect| effect.add_to(&mut events, Bytes::new()));
    client.apply(&events, 1, &mut Vec::new());
    client.finish(&events, 1, &mut Vec::new());
    let request = client.take_credit(Share::of(1), 1).expect("it has credit to give");
    world.readers.ask(&request, &world.log.machine);
    let mut offsets = Vec::new();
    world.readers.work(
        &mut world.log,
        1_000,
        |_| false,
        |effect, _| {
            if let Effect::Deliver { seq, .. } = effect {
                offsets.push(seq);
            }
        },
    );
    // Entry 1 is the first reader's start.
    assert_eq!(offsets, (26..40).collect::<Vec<_>>());
}

#[test]
fn readers_whose_consumers_have_gone_are_forgotten() {
    let mut world = World::new(Config::default(), At::First(true), &[], 5, 20);
    world.flush(false);
    world.lead(false);
    world.arrive();
    assert_eq!(world.got, [0, 1, 2, 3, 4]);
    let down = warren_proto::record::system(&Command::SessionDown(READER));
    world.log.apply(down);
    world.settle(5);
    world.flush(false);
    world.lead(false);
    world.arrive();
    assert_eq!(world.got.len(), 5);
    assert!(world.readers.all.is_empty());
}

/// A reader of its own place in the stream, which may be sent one message at a time.
fn asks(session: SessionId, offset: u64, next: u64) -> Resync {
    Resync {
        node: session.node,
        incarnation: session.incarnation,
        id: session.id,
        number: next,
        consumers: vec![queue::ResyncConsumer {
            consumer: 1,
            next,
            offset: Some(offset),
            upto: next,
            goes_on: next > 1,
            bytes: 0,
            bytes_upto: u64::MAX,
        }],
    }
}

#[test]
fn many_readers_at_many_places_read_no_more_than_time_allows() {
    const READERS: u64 = 60;
    const MESSAGES: u64 = 4_000;
    let mut world = World::new(Config::default(), At::Next(true), &[], 1, 0);
    for _ in 0..READERS {
        world.log.publish(MESSAGES, 1);
    }
    for id in 0..READERS {
        let mut batch = BatchWriter::new(session(100 + id), 1);
        batch.push(&Command::Attach(queue::Attach {
            consumer: 1,
            prefetch: 1,
            from: Some(StreamFrom {
                at: Some(At::First(true)),
                not_before_ms: 0,
            }),
            ..queue::Attach::default()
        }));
        world.log.apply(batch.finish());
    }
    let entry = world.log.entries.values().map(|(_, payload)| payload.len()).max();
    let cost = entry.expect("an entry") + MESSAGES as usize * PLACE_COST;
    let mut served = BTreeMap::new();
    let work = |world: &mut World, now_ms: u64, served: &mut BTreeMap<SessionId, u64>| {
        world.readers.work(
            &mut world.log,
            now_ms,
            |_| false,
            |effect, payload| {
                assert!(payload.len() < 100);
                // It does not keep its entry: it is the only owner of its bytes.
                assert!(payload.try_into_mut().is_ok());
                *served.entry(effect.session().expect("one")).or_default() += 1;
            },
        );
    };
    // Asked one after the other in one millisecond, each followed by a call.
    for id in 0..READERS {
        world
            .readers
            .ask(&asks(session(100 + id), id * MESSAGES, 1), &world.log.machine);
        work(&mut world, 1_000, &mut served);
        assert!(world.readers.read <= BYTES_PER_MS + cost + READER_BYTES);
    }
    assert!((1..READERS / 2).contains(&(served.len() as u64)), "{served:?}");
    assert!(world.readers.has_more());
    // Time lets all of them have their turn.
    let mut now_ms = 1_000;
    while world.readers.has_more() {
        now_ms += 1;
        work(&mut world, now_ms, &mut served);
        assert!(now_ms < 2_000);
    }
    assert_eq!(served.len() as u64, READERS);
    assert!(served.values().all(|count| *count == 1));
    assert!(world.readers.able.is_empty(), "nobody has credit");
}

#[test]
fn a_client_that_reads_nothing_is_sent_no_more_than_its_share() {
    const READERS: usize = 100;
    let share = Share::of(READERS);
    let mut world = World::new(Config::default(), At::First(true), &[], 60_000, 0);
    for _ in 0..40 {
        world.log.publish(10, 10_000);
    }
    let (mut bytes, mut messages) = (0, 0);
    for _ in 0..1_000 {
        world.now_ms += 5;
        let request = world.client.take_credit(share, world.now_ms);
        world.requests.extend(request);
        world.lead(false);
        let Some(events) = world.events.pop_front() else { break };
        world.client.apply(&events, world.now_ms, &mut Vec::new());
        for delivery in &events.deliveries {
            assert_eq!(world.client.accept(&events, delivery, world.now_ms), Accepted::Deliver);
            // It is put out, and never written.
            bytes += delivery.payload.len();
            messages += 1;
        }
        world.client.finish(&events, world.now_ms, &mut Vec::new());
    }
    let most = (8 << 20) / READERS + 11_000;
    assert!((1..most).contains(&bytes), "{bytes}");
    for _ in 0..messages {
        world.client.wrote(3);
    }
    world.requests.extend(world.client.take_credit(share, world.now_ms));
    world.lead(false);
    assert!(!world.events[0].deliveries.is_empty(), "what is written makes room");
}

#[test]
fn an_entry_that_is_not_there_ends_its_reader() {
    let mut world = World::new(Config::default(), At::First(true), &[], 100, 14);
    let second = *world.log.entries.keys().nth(1).expect("two entries");
    let lost = world.log.entries.remove(&second);
    assert!(lost.is_some());
    world.log.publish(5, 5);
    world.flush(false);
    world.lead(false);
    world.arrive();
    assert_eq!(world.got, (0..7).collect::<Vec<_>>());
    assert!(world.readers.all.is_empty() && !world.readers.has_more());
}

/// What a filter has passed over is not looked at again by the next leader.
#[test]
fn a_session_learns_what_its_filter_has_passed_over() {
    // What 8 stands for comes with offsets from 8 to 98.
    let mut world = World::new(Config::default(), At::First(true), &[8], 100, 100);
    let mut publisher = world.log.machine.last_seq(PUBLISHER) + 1;
    let properties = properties(9);
    let publish = Publish {
        properties: &properties,
        ..Publish::default()
    };
    for _ in 0..5 {
        let mut batch = BatchWriter::new(PUBLISHER, publisher);
        (0..100).for_each(|_| batch.publish(&publish));
        world.log.apply(batch.finish());
        publisher += 100;
    }
    for _ in 0..20 {
        world.flush(false);
        world.lead(false);
        while !world.events.is_empty() {
            world.arrive();
        }
        world.now_ms += 1;
    }
    assert_eq!(world.got, (8..100).step_by(10).collect::<Vec<_>>());
    world.new_leader(true);
    world.arrive();
    world.now_ms += 1_000;
    world.flush(false);
    let request = world.requests.pop_front().expect("a resync");
    assert_eq!(request.consumers[0].offset, Some(600));
    assert_eq!(request.consumers[0].next, 11);
}

#[test]
fn a_reader_ends_whose_entry_is_lost() {
    let mut world = World::new(Config::default(), At::First(true), &[], 100, 14);
    let last = *world.log.entries.keys().next_back().expect("an attach comes last");
    world.log.entries.retain(|index, _| *index >= last);
    world.flush(false);
    world.lead(false);
    let events = world.events.pop_front().expect("of this turn");
    assert_eq!(events.deliveries, []);
    let mut notices = Vec::new();
    world.client.apply(&events, 1, &mut notices);
    world.client.finish(&events, 1, &mut notices);
    assert_eq!(notices, [crate::queue::client::Notice::ReaderLost(3)]);
    // It is not tried again.
    world.lead(false);
    assert_eq!(world.events[0].replies, []);
}
