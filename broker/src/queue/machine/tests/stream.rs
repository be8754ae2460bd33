//! Streams: random publishers, readers' positions and retention against a list of all messages.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use warren_proto::queue::{StreamFrom, stream_from::At};
use warren_proto::record::{BATCH_HEADER_LEN, BatchWriter, Origin, Publish, publishes, system};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// One session's batch of so many messages of a size, which repeats the last `again` and leaves `gap` out.
    Publish {
        who: usize,
        sizes: Vec<u16>,
        again: usize,
        gap: u64,
        letter: Option<u64>,
        /// The byte after so many of the batch is another.
        damage: Option<usize>,
    },
    /// The entry ends here; so many log indexes hold nothing.
    Entry {
        skip: u64,
    },
    Wait(u64),
    Attach(At),
    SessionDown(usize),
    Configure(Config),
    Snapshot,
}

/// A message that was taken.
#[derive(Clone, Debug)]
struct Message {
    index: u64,
    offset: u32,
    len: u32,
    time_ms: u64,
    /// The offset at which its segment begins.
    segment: u64,
}

/// The size of a message's body, and its number as a dead letter.
type Sent = (u16, Option<u64>);

struct World {
    config: Config,
    version: u64,
    machine: QueueMachine,
    /// The same, but restored from a snapshot now and then.
    restored: QueueMachine,
    /// By offset.
    messages: Vec<Message>,
    /// Offset of the first that is there.
    first: u64,
    segment: (u64, u64),
    /// What every session has sent.
    sent: Vec<(SessionId, Vec<Sent>)>,
    letters: BTreeSet<u64>,
    consumers: u32,
    asked: Vec<(SessionId, u64, At)>,
    entry: Vec<u8>,
    payloads: BTreeMap<u64, Bytes>,
    index: u64,
    time_ms: u64,
    next_id: u64,
}

fn session(id: u64) -> SessionId {
    SessionId {
        node: 1,
        incarnation: 1,
        id,
    }
}

impl World {
    fn new(config: Config) -> Self {
        Self {
            machine: QueueMachine::new(config.clone()),
            restored: QueueMachine::new(config.clone()),
            config,
            version: 0,
            messages: Vec::new(),
            first: 0,
            segment: (0, 0),
            sent: (1..=3).map(|id| (session(id), Vec::new())).collect(),
            letters: BTreeSet::new(),
            consumers: 0,
            asked: Vec::new(),
            entry: Vec::new(),
            payloads: BTreeMap::new(),
            index: 1,
            time_ms: 1_000,
            next_id: 4,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish {
                who,
                sizes,
                again,
                gap,
                letter,
                damage,
            } => {
                let (id, sent) = &mut self.sent[*who];
                let from = sent.len() - again.min(&sent.len());
                // Of these the machine alone knows which letters it took.
                let letter = letter.filter(|_| damage.is_none() && *gap == 0);
                let new = sizes.iter().map(|size| (*size, letter));
                let batch_of: Vec<_> = sent[from..].iter().copied().chain(new).collect();
                let mut batch = BatchWriter::new(*id, from as u64 + 1 + gap);
                for (size, letter) in &batch_of {
                    let body = [Bytes::from(vec![7; usize::from(*size)])];
                    let origin = letter.map(|id| Origin { group: 9, id, floor: 0 });
                    batch.publish(&Publish {
                        origin,
                        properties: &[0, 0],
                        body: &body,
                        ..Publish::default()
                    });
                }
                let mut bytes = batch.finish().to_vec();
                if let Some(at) = damage {
                    let at = BATCH_HEADER_LEN + at % (bytes.len() - BATCH_HEADER_LEN);
                    bytes[at] ^= 0x55;
                }
                // What is damaged is judged by the machine alone.
                if damage.is_none() && *gap == 0 {
                    let sent = std::mem::take(sent);
                    let known = sent.len();
                    let start = self.entry.len() as u32;
                    for (nth, ((offset, len), (_, letter))) in publishes(&bytes).zip(&batch_of).enumerate() {
                        let is_new = from + nth >= known && letter.is_none_or(|letter| self.letters.insert(letter));
                        if is_new {
                            self.take(start + offset, len);
                        }
                    }
                    self.sent[*who].1 = sent.into_iter().take(from).chain(batch_of).collect();
                } else {
                    self.finish();
                    let before = self.machine.stream().expect("a stream").next();
                    self.entry = bytes;
                    self.judge(before);
                    let last_seq = self.machine.last_seq(self.sent[*who].0) as usize;
                    let (_, sent) = &mut self.sent[*who];
                    if last_seq > sent.len() {
                        // Damaged ones count as seen: the session goes on after them, as another.
                        self.replace(*who);
                    }
                    return;
                }
                self.entry.extend_from_slice(&bytes);
            }
            Step::Entry { skip } => {
                self.finish();
                self.index += skip;
            }
            Step::Wait(ms) => {
                self.finish();
                self.time_ms += ms;
                self.entry.extend_from_slice(&system(&Command::Tick));
                self.finish();
            }
            Step::Attach(from) => {
                self.consumers += 1;
                let reader = session(1_000 + u64::from(self.consumers));
                let mut batch = BatchWriter::new(reader, 1);
                batch.push(&Command::Attach(queue::Attach {
                    consumer: 1,
                    prefetch: 1,
                    from: Some(StreamFrom {
                        at: Some(*from),
                        not_before_ms: 0,
                    }),
                    ..queue::Attach::default()
                }));
                self.entry.extend_from_slice(&batch.finish());
                self.asked.push((reader, self.messages.len() as u64, *from));
            }
            Step::SessionDown(who) => {
                self.finish();
                let id = self.sent[*who].0;
                self.entry.extend_from_slice(&system(&Command::SessionDown(id)));
                self.replace(*who);
            }
            Step::Configure(config) => {
                self.finish();
                self.version += 1;
                self.config = config.clone();
                let configure = config.to_proto(self.version);
                self.entry.extend_from_slice(&system(&Command::Configure(configure)));
                self.finish();
            }
            Step::Snapshot => {
                self.finish();
                let chunks = self.restored.snapshot();
                let declared = self.restored.declared().clone();
                self.restored = QueueMachine::restore(declared, &chunks).expect("its own snapshot");
            }
        }
    }

    fn replace(&mut self, who: usize) {
        self.sent[who] = (session(self.next_id), Vec::new());
        self.next_id += 1;
    }

    fn take(&mut self, offset: u32, len: u32) {
        let begins = self.messages.last().is_none_or(|last| last.index != self.index);
        let limit = self.config.segment_bytes.unwrap_or(500_000_000);
        if begins && self.segment.1 >= limit {
            self.segment = (self.messages.len() as u64, 0);
        }
        self.segment.1 += u64::from(len);
        self.messages.push(Message {
            index: self.index,
            offset,
            len,
            time_ms: self.time_ms,
            segment: self.segment.0,
        });
    }

    /// Applies an entry whose messages only the machine can tell; they are noted as it took them.
    fn judge(&mut self, before: u64) {
        let payload = Bytes::from(std::mem::take(&mut self.entry));
        self.apply(&payload);
        let stream = self.machine.stream().expect("a stream");
        let count = stream.next() - before;
        if count > 0 {
            let places = stream.places(self.index, &payload);
            assert_eq!(places.len() as u64, count);
            for (offset, len) in places {
                self.take(offset, len);
            }
        }
        self.check();
        self.payloads.insert(self.index, payload);
        self.index += 1;
        self.time_ms += 100;
    }

    fn finish(&mut self) {
        let payload = Bytes::from(std::mem::take(&mut self.entry));
        if payload.is_empty() {
            return;
        }
        self.payloads.insert(self.index, payload.clone());
        let effects = self.apply(&payload);
        for (reader, next, from) in std::mem::take(&mut self.asked) {
            self.check_start(&effects, reader, next, from);
        }
        self.check();
        self.index += 1;
        self.time_ms += 100;
    }

    fn apply(&mut self, payload: &[u8]) -> Vec<Effect> {
        let meta = Meta {
            time_ms: self.time_ms,
            ..meta(self.index)
        };
        let (mut effects, mut again) = (Vec::new(), Vec::new());
        self.machine.apply(&meta, payload, &mut effects);
        self.restored.apply(&meta, payload, &mut again);
        assert_eq!(effects, again);
        assert_eq!(self.machine.snapshot(), self.restored.snapshot());
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Deliver { .. })));
        effects
    }

    /// A reader that started when `next` messages were there begins where it asked to.
    fn check_start(&self, effects: &[Effect], reader: SessionId, next: u64, from: At) {
        let offset = effects.iter().find_map(|effect| match effect {
            Effect::Reply { session, reply, .. } if *session == reader => match reply.kind {
                Some(ReplyKind::Attached(attached)) => attached.offset,
                _ => None,
            },
            _ => None,
        });
        let offset = offset.expect("an answer with a position");
        let first = self.first;
        let since = |time_ms: u64| {
            // Of the entry at hand nothing is looked into yet.
            let known = self.messages.iter().zip(0..next);
            let mut known = known.filter(|(message, at)| *at >= first && message.index < self.index);
            known.find(|(message, _)| message.time_ms >= time_ms).map(|(_, at)| at)
        };
        match from {
            At::Next(_) => assert_eq!(offset, next),
            At::First(_) => assert_eq!(offset, first.min(next)),
            At::Last(_) => assert_eq!(offset, next.saturating_sub(1).max(first.min(next))),
            At::Offset(wanted) => assert_eq!(offset, wanted.max(first)),
            At::TimeMs(_) | At::AgeMs(_) => {
                let time_ms = match from {
                    At::TimeMs(time_ms) => time_ms,
                    At::AgeMs(age_ms) => self.time_ms.saturating_sub(age_ms),
                    _ => unreachable!("one of the two"),
                };
                let attached = self.machine.attached(reader, 1).expect("attached");
                let not_before_ms = attached.from.map_or(0, |from| from.not_before_ms);
                match since(time_ms) {
                    None => {
                        let of_entry = |message: &&Message| message.index == self.index && time_ms <= self.time_ms;
                        let known = &self.messages[..next as usize];
                        let open = known.iter().rev().take_while(of_entry).count() as u64;
                        assert_eq!((offset, not_before_ms), (next - open, 0));
                    }
                    Some(at) => {
                        assert!(offset <= at, "{offset} is behind the first message in time, {at}");
                        assert_eq!(not_before_ms, time_ms);
                    }
                }
            }
        }
    }

    /// What must be there is there, found at its place, and nothing that must be gone.
    fn check(&mut self) {
        let stream = self.machine.stream().expect("a stream");
        assert_eq!(stream.next(), self.messages.len() as u64);
        let first = stream.first();
        assert!(first >= self.first, "what went does not come back");
        let segment = self.segment.0;
        let is_late = |message: &Message| {
            let age_ms = self.config.age_max_ms;
            age_ms.is_some_and(|age_ms| message.time_ms + age_ms <= self.time_ms)
        };
        let mut behind: u64 = self.messages[first as usize..]
            .iter()
            .map(|message| u64::from(message.len))
            .sum();
        assert_eq!(stream.bytes(), behind);
        // Nothing goes but what is over a limit, and never of the segment being written.
        if first > self.first {
            let last = &self.messages[first as usize - 1];
            assert!(first <= segment, "a message of the segment being written is gone");
            assert!(last.segment < segment);
            let is_too_much = self.config.bytes_max.is_some_and(|max| behind >= max);
            assert!(
                is_late(last) || is_too_much,
                "message {} is gone without a reason",
                first - 1
            );
        }
        self.first = first;
        // What is over a limit goes, but for what shares a chunk with what is not.
        let mut expected = BTreeMap::<u64, Vec<(u32, u32)>>::new();
        for (offset, message) in (first..).zip(&self.messages[first as usize..]) {
            expected
                .entry(message.index)
                .or_default()
                .push((message.offset, message.len));
            behind -= u64::from(message.len);
            let is_over = is_late(message) || self.config.bytes_max.is_some_and(|max| behind >= max);
            if message.segment < segment && is_over {
                let first = &self.messages[first as usize];
                assert!(
                    message.index - first.index < 64 && first.segment == message.segment,
                    "message {offset} should have gone"
                );
            }
        }
        let live: Vec<u64> = self.machine.live().into_iter().flatten().collect();
        assert!(live.iter().eq(expected.keys()));
        assert!((0..self.index + 2).all(|index| self.machine.is_live(index) == expected.contains_key(&index)));
        // By way of the index, as readers go.
        let mut at = stream.entry_before(first);
        let mut offset = first;
        while let Some((index, start)) = at {
            assert_eq!(start, offset);
            if let Some(payload) = self.payloads.get(&index) {
                assert_eq!(stream.places(index, payload), expected[&index], "entry {index}");
            }
            for nth in 0..expected[&index].len() as u64 {
                let (before, start) = stream.entry_before(offset + nth).expect("it is there");
                assert!(before <= index && start <= offset + nth);
            }
            offset += expected[&index].len() as u64;
            at = stream.entry_after(index).map(|index| (index, offset));
        }
        assert_eq!(offset, stream.next());
        assert_eq!(stream.entry_before(stream.next()), None);
        let due = self.machine.next_deadline();
        assert!(due.is_none_or(|due_ms| due_ms > self.time_ms));
        if let Some(age_ms) = self.config.age_max_ms
            && first < segment
        {
            assert!(due.is_some_and(|due_ms| due_ms <= self.messages[segment as usize - 1].time_ms + age_ms));
        }
        let (mut freed, mut again) = (Vec::new(), Vec::new());
        self.machine.take_freed(&mut freed);
        self.restored.take_freed(&mut again);
        assert_eq!(freed, again);
        let is_gone = |index: &u64| !expected.contains_key(index) && *index <= self.index;
        assert!(freed.iter().all(is_gone));
    }
}

fn config() -> impl Strategy<Value = Config> {
    use proptest::option::weighted;
    (
        weighted(0.6, 0..2_000u64),
        weighted(0.5, 1..4_000u64),
        weighted(0.9, 0..600u64),
    )
        .prop_map(|(bytes_max, age_max_ms, segment_bytes)| Config {
            kind: Kind::Stream,
            bytes_max,
            age_max_ms,
            segment_bytes,
            ..Config::default()
        })
}

fn step() -> impl Strategy<Value = Step> {
    use proptest::option::weighted;
    let sizes = proptest::collection::vec(0..90u16, 1..6);
    let publish = (
        0..3usize,
        sizes,
        prop_oneof![3 => Just(0usize), 1 => 1..5usize],
        prop_oneof![12 => Just(0u64), 1 => 1..3u64],
        weighted(0.1, 1..9u64),
        weighted(0.05, any::<usize>()),
    );
    let from = prop_oneof![
        Just(At::Next(true)),
        Just(At::First(true)),
        Just(At::Last(true)),
        (0..60u64).prop_map(At::Offset),
        (0..20_000u64).prop_map(At::TimeMs),
        (0..5_000u64).prop_map(At::AgeMs),
    ];
    prop_oneof![
        20 => publish.prop_map(|(who, sizes, again, gap, letter, damage)|
            Step::Publish { who, sizes, again, gap, letter, damage }),
        12 => prop_oneof![4 => Just(0u64), 2 => 1..5u64, 1 => 60..70u64].prop_map(|skip| Step::Entry { skip }),
        2 => (0..3_000u64).prop_map(Step::Wait),
        3 => from.prop_map(Step::Attach),
        1 => (0..3usize).prop_map(Step::SessionDown),
        1 => config().prop_map(Step::Configure),
        2 => Just(Step::Snapshot),
    ]
}

proptest! {
    #[test]
    fn a_stream_keeps_and_finds_what_it_must(config in config(), steps in proptest::collection::vec(step(), 1..150)) {
        let mut world = World::new(config);
        for step in &steps {
            world.step(step);
        }
        world.finish();
        check_ended(&mut world);
    }

    #[test]
    fn no_snapshot_of_a_stream_breaks_it(
        config in config(), steps in proptest::collection::vec(step(), 1..60),
        flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>()
    ) {
        let mut world = World::new(config);
        for step in &steps {
            world.step(step);
        }
        world.finish();
        let declared = world.machine.declared().clone();
        let whole = world.machine.snapshot().concat();
        let cut = cut % whole.len();
        if let Ok(shorter) = QueueMachine::restore(declared.clone(), &[Bytes::copy_from_slice(&whole[..cut])]) {
            // Between two sections it ends as if there were no more of them.
            prop_assert!(shorter.stream().is_some_and(Stream::is_empty));
        }
        let mut damaged = whole;
        for (at, with) in flips {
            let at = at % damaged.len();
            damaged[at] ^= with;
        }
        if let Ok(mut machine) = QueueMachine::restore(declared, &[Bytes::from(damaged)]) {
            // Damage that makes another possible state: that one has to work.
            for size in [1_u16, 5, 900] {
                let mut batch = BatchWriter::new(session(77), 1 + u64::from(size == 5) + 2 * u64::from(size > 5));
                let body = [Bytes::from(vec![1; usize::from(size)])];
                batch.publish(&Publish { properties: &[0, 0], body: &body, ..Publish::default() });
                world.index += 1;
                machine.apply(&meta(world.index), &batch.finish(), &mut Vec::new());
            }
            machine.live();
        }
    }
}

/// Its end gives all entries back, and nothing more is taken in.
fn check_ended(world: &mut World) {
    let mut batch = BatchWriter::new(session(500), 1);
    batch.push(&Command::Delete(queue::Delete::default()));
    batch.publish(&Publish {
        properties: &[0, 0],
        ..Publish::default()
    });
    let live: Vec<u64> = world.machine.live().into_iter().flatten().collect();
    let effects = world.apply(&batch.finish());
    assert!(effects.contains(&Effect::Gone));
    let mut freed = Vec::new();
    world.machine.take_freed(&mut freed);
    assert_eq!(freed, live);
    assert!(world.machine.live().is_empty());
    assert_eq!(world.machine.stats().ready, 0);
}

/// What the index of a deep stream costs, and that its snapshot is as small.
#[test]
fn a_deep_stream_is_remembered_by_few_records() {
    let config = Config {
        kind: Kind::Stream,
        ..Config::default()
    };
    let mut machine = QueueMachine::new(config.clone());
    let body = [Bytes::from(vec![1; 100])];
    const ENTRIES: u64 = 20_000;
    for index in 1..=ENTRIES {
        let mut batch = BatchWriter::new(session(1), index);
        batch.publish(&Publish {
            properties: &[0, 0],
            body: &body,
            ..Publish::default()
        });
        machine.apply(&meta(index), &batch.finish(), &mut Vec::new());
    }
    assert_eq!(machine.stats().ready, ENTRIES);
    let snapshot = machine.snapshot();
    let bytes: usize = snapshot.iter().map(Bytes::len).sum();
    assert!(bytes < ENTRIES as usize, "{bytes} bytes for {ENTRIES} messages");
    assert_eq!(machine.live().len(), 1, "one range of entries");
    let restored = QueueMachine::restore(config, &snapshot).expect("its own snapshot");
    assert_eq!(restored.stats(), machine.stats());
}

/// A stamp that is lower than the one before does not make a chunk older than what is behind it.
#[test]
fn a_clock_that_goes_back_spoils_no_snapshot() {
    let config = Config {
        kind: Kind::Stream,
        age_max_ms: Some(10_000),
        segment_bytes: Some(1),
        ..Config::default()
    };
    let mut machine = QueueMachine::new(config.clone());
    for (index, time_ms) in (1..).zip([5_000, 90_000, 6_000, 7_000]) {
        let first = (index - 1) * 2 + 1;
        let mut batch = BatchWriter::new(session(1), first);
        for _ in 0..2 {
            batch.publish(&Publish {
                properties: &[0, 0],
                body: &[Bytes::from_static(b"more than a segment")],
                ..Publish::default()
            });
        }
        let meta = Meta { time_ms, ..meta(index) };
        machine.apply(&meta, &batch.finish(), &mut Vec::new());
    }
    let times: Vec<u64> = machine
        .stream()
        .expect("a stream")
        .parts()
        .2
        .iter()
        .map(|chunk| chunk.last_ms)
        .collect();
    assert_eq!(times, [90_000, 90_000, 90_000]);
    let restored = QueueMachine::restore(config, &machine.snapshot()).expect("its own snapshot");
    assert_eq!(restored.snapshot(), machine.snapshot());
}

/// An age without end is no deadline.
#[test]
fn messages_that_may_stay_for_ever_are_never_due() {
    let config = Config {
        kind: Kind::Stream,
        age_max_ms: Some(u64::MAX),
        segment_bytes: Some(1),
        ..Config::default()
    };
    let mut machine = QueueMachine::new(config);
    for index in 1..=2 {
        let mut batch = BatchWriter::new(session(1), index);
        batch.publish(&Publish {
            properties: &[0, 0],
            ..Publish::default()
        });
        machine.apply(&meta(index), &batch.finish(), &mut Vec::new());
    }
    assert_eq!(machine.stream().expect("a stream").len(), 2);
    assert_eq!(machine.next_deadline(), None);
}
