//! Publishers and consumers that go on whatever happens to the nodes, and write down what they saw.
//!
//! A publisher keeps a window of unconfirmed messages to one queue. When its connection is lost it connects to the next
//! node and sends again what was not confirmed, in order, before anything new; what is nacked it sends again as well.
//! A consumer acknowledges in batches, and when its connection is lost goes on at the next node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use warren_tests::client::{Delivery, End, Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name, pause};

use crate::history::{History, Key, Receipt, Sending, check};

/// Unconfirmed messages of one publisher.
const WINDOW: usize = 64;
const PREFETCH: u16 = 100;
const ACK_EVERY: u64 = 20;
/// How long a handshake or a call may take before the next node is tried.
const CALL: Duration = Duration::from_secs(10);
/// How long a publisher waits for a confirm of what it sent before it tries another node: longer than a publish may take
/// to be nacked.
const SILENCE: Duration = Duration::from_secs(45);
/// Between two batches of a publisher, so that a run measures the brokers' memory of messages and not the machine.
const TICK: Duration = Duration::from_millis(10);
const BATCH: usize = 8;

/// What all threads of a load share.
struct Shared {
    addresses: Vec<String>,
    publishing: AtomicBool,
    consuming: AtomicBool,
    /// Confirms of each publisher.
    confirmed: Vec<AtomicU64>,
    delivered: AtomicU64,
    notes: Mutex<Notes>,
}

/// What is worth a line in the test's output.
#[derive(Debug, Default, Clone)]
pub(crate) struct Notes {
    pub(crate) connections: u64,
    pub(crate) nacks: u64,
    /// Consumers the broker ended.
    pub(crate) cancels: u64,
    /// The longest time a publisher that had sent something waited for a confirm.
    pub(crate) longest_wait: Duration,
    /// Closes by the broker, which are not losses of a connection.
    pub(crate) closes: BTreeMap<String, u64>,
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn ended(&self, end: &End) {
        if let End::Closed { code, text } = end {
            self.note(|notes| *notes.closes.entry(format!("{code} {text}")).or_default() += 1);
        }
    }

    /// A session at the next node that takes one, from `at` on; `None` once `wanted` is off.
    fn connect(&self, at: &mut usize, wanted: &AtomicBool) -> Option<Session> {
        while wanted.load(Ordering::Relaxed) {
            match Session::open(&self.addresses[*at % self.addresses.len()], CALL) {
                Ok(session) => {
                    self.note(|notes| notes.connections += 1);
                    return Some(session);
                }
                Err(end) => {
                    self.ended(&end);
                    *at += 1;
                    pause();
                }
            }
        }
        None
    }
}

/// Publishers and consumers at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<Vec<Sending>>>,
    consumers: Vec<JoinHandle<Vec<Vec<Receipt>>>>,
}

impl Load {
    /// For each queue, `each` publishers and as many consumers, which start at different nodes.
    pub(crate) fn start(cluster: &Cluster, queues: &[&str], each: usize) -> Self {
        Self::start_at(cluster, &[0, 1, 2], queues, each)
    }

    /// The same, with clients at some of the nodes only.
    pub(crate) fn start_at(cluster: &Cluster, nodes: &[usize], queues: &[&str], each: usize) -> Self {
        let count = queues.len() * each;
        let shared = Arc::new(Shared {
            addresses: nodes.iter().map(|node| cluster.address(*node)).collect(),
            publishing: AtomicBool::new(true),
            consuming: AtomicBool::new(true),
            confirmed: (0..count).map(|_| AtomicU64::new(0)).collect(),
            delivered: AtomicU64::new(0),
            notes: Mutex::default(),
        });
        let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
        for number in 0..count {
            let queue = queues[number % queues.len()].to_owned();
            let publisher = Publisher {
                shared: shared.clone(),
                id: number as u32,
                queue: queue.clone(),
                sendings: Vec::new(),
                again: VecDeque::new(),
                messages: 0,
            };
            publishers.push(std::thread::spawn(move || publisher.run()));
            let shared = shared.clone();
            consumers.push(std::thread::spawn(move || consume(&shared, &queue, number + 1)));
        }
        Self {
            shared,
            publishers,
            consumers,
        }
    }

    /// Waits until every publisher has so many more messages confirmed than now.
    #[track_caller]
    pub(crate) fn await_confirms(&self, more: u64, within: Duration) {
        let now = || -> Vec<u64> {
            self.shared
                .confirmed
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect()
        };
        let goal: Vec<u64> = now().iter().map(|count| count + more).collect();
        await_some("every publisher goes on", within, || {
            let current = now();
            let reached = current.iter().zip(&goal).all(|(current, goal)| current >= goal);
            if reached {
                Ok(())
            } else {
                Err(format!("confirmed {current:?}, not yet {goal:?}; {:?}", self.notes()))
            }
        });
    }

    /// Waits until so many more messages were delivered than now.
    #[track_caller]
    pub(crate) fn await_deliveries(&self, more: u64, within: Duration) {
        let goal = self.shared.delivered.load(Ordering::Relaxed) + more;
        await_some("consumers go on", within, || {
            let current = self.shared.delivered.load(Ordering::Relaxed);
            if current >= goal {
                Ok(())
            } else {
                Err(format!("{current} of {goal} delivered; {:?}", self.notes()))
            }
        });
    }

    pub(crate) fn notes(&self) -> Notes {
        self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets publishers finish what they began, consumers take what is there, and answers what all of them saw.
    #[track_caller]
    pub(crate) fn finish(self, cluster: &Cluster, queues: &[&str], within: Duration) -> (History, Notes) {
        let deadline = Instant::now() + within;
        self.shared.publishing.store(false, Ordering::Relaxed);
        await_some("publishers are done", within, || {
            let busy = self.publishers.iter().filter(|thread| !thread.is_finished()).count();
            if busy == 0 {
                Ok(())
            } else {
                Err(format!("{busy} are not; {:?}", self.notes()))
            }
        });
        let mut history = History::default();
        for (id, thread) in (0..).zip(self.publishers) {
            history
                .sendings
                .insert(id, thread.join().expect("a publisher does not panic"));
        }
        for queue in queues {
            let left = deadline.saturating_duration_since(Instant::now());
            await_some(&format!("{queue} is empty"), left, || {
                let members = cluster.members().iter().copied();
                let node = members
                    .into_iter()
                    .find(|node| cluster.ctl(*node, &["ping"]).is_ok())
                    .unwrap_or(0);
                let row = cluster.queue(node, queue)?;
                let empty = row["state"] == "running" && row["messages"] == 0;
                if empty { Ok(()) } else { Err(row.to_string()) }
            });
        }
        self.shared.consuming.store(false, Ordering::Relaxed);
        for thread in self.consumers {
            history
                .receipts
                .extend(thread.join().expect("a consumer does not panic"));
        }
        let notes = self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (history, notes)
    }

    /// [`Load::finish`], which says what it saw; fails unless all of it is as was promised and no consumer was ended.
    #[track_caller]
    pub(crate) fn conclude(self, what: &str, cluster: &Cluster, queues: &[&str]) {
        let (history, notes) = self.finish(cluster, queues, 2 * PATIENCE);
        println!("{what}: {notes:?}");
        match check(&history) {
            Ok(summary) => println!("{what}: {summary}"),
            Err(violations) => panic!(
                "{what}: {} violations, such as {:?}",
                violations.len(),
                &violations[..violations.len().min(10)]
            ),
        }
        assert_eq!(notes.cancels, 0, "{what}: consumers were ended by the broker");
    }
}

/// A whole cluster with these queues and their types.
#[track_caller]
pub(crate) fn cluster_with(queues: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::start();
    declare(&cluster, queues);
    cluster
}

/// Declares queues of these types through the nodes in turn.
#[track_caller]
pub(crate) fn declare(cluster: &Cluster, queues: &[(&str, &str)]) {
    for (node, (queue, kind)) in queues.iter().enumerate() {
        let mut session = Session::open(&cluster.address(node % NODES), PATIENCE).expect("a whole cluster serves");
        session
            .declare(queue, kind, PATIENCE)
            .expect("a whole cluster declares");
    }
}

/// A client of a node that runs.
#[track_caller]
pub(crate) fn open(cluster: &Cluster, node: usize) -> Session {
    Session::open(&cluster.address(node), PATIENCE)
        .unwrap_or_else(|end| panic!("{} takes no client: {end}", name(node)))
}

/// The same, in confirm mode.
#[track_caller]
pub(crate) fn publisher(cluster: &Cluster, node: usize) -> Session {
    let mut session = open(cluster, node);
    session.confirm(PATIENCE).expect("a channel takes confirm.select");
    session
}

/// Publishes these bodies to a queue and has all confirmed, however often its leader moves.
#[track_caller]
pub(crate) fn publish(session: &mut Session, queue: &str, bodies: impl IntoIterator<Item = Vec<u8>>) {
    let before = session.published();
    for body in bodies {
        session.publish(queue, &body).expect("the publisher's node lives");
    }
    await_confirms(session, before);
}

/// Waits until everything published is confirmed, `before` of which was already.
#[track_caller]
pub(crate) fn await_confirms(session: &mut Session, before: u64) {
    let mut open: BTreeSet<u64> = (before + 1..=session.published()).collect();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        match session.next(left).expect("the publisher's node lives") {
            Some(Event::Confirmed(tags)) if tags.multiple => open = open.split_off(&(tags.tag + 1)),
            Some(Event::Confirmed(tags)) => drop(open.remove(&tags.tag)),
            other => panic!("{other:?} instead of a confirm, with {} open", open.len()),
        }
    }
}

/// Consumes a queue until `total` messages have come, each once and nothing after them; `number` tells which one it is.
#[track_caller]
pub(crate) fn take_each_once(session: &mut Session, queue: &str, total: u64, mut number: impl FnMut(&Delivery) -> u64) {
    session.consume(queue, 500, PATIENCE).expect("the queue is served");
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    while (seen.len() as u64) < total {
        let event = session.next(PATIENCE).expect("its node is not killed");
        let Some(Event::Delivered(delivery)) = event else {
            panic!("{} of {total} messages of {queue}, then {event:?}", seen.len())
        };
        *seen.entry(number(&delivery)).or_default() += 1;
        let tags = Tags {
            tag: delivery.tag,
            multiple: false,
        };
        session.ack(tags).expect("its node is not killed");
        assert!(
            Instant::now() < deadline,
            "{} of {total} messages of {queue}",
            seen.len()
        );
    }
    assert_eq!(
        session.next(Duration::from_millis(500)),
        Ok(None),
        "more than was published"
    );
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "came more than once: {twice:?}");
}

struct Publisher {
    shared: Arc<Shared>,
    id: u32,
    queue: String,
    sendings: Vec<Sending>,
    /// Messages to send again before any new one.
    again: VecDeque<u64>,
    /// How many have been made.
    messages: u64,
}

impl Publisher {
    fn run(mut self) -> Vec<Sending> {
        let mut at = self.id as usize;
        // What was sent must be confirmed, also after the last new message.
        let always = AtomicBool::new(true);
        let shared = self.shared.clone();
        let wanted = |publisher: &Self| shared.publishing.load(Ordering::Relaxed) || !publisher.again.is_empty();
        for channel in 0.. {
            if !wanted(&self) {
                break;
            }
            let Some(session) = shared.connect(&mut at, &always) else {
                break;
            };
            let mut open = BTreeMap::new();
            match self.publish(session, channel, &mut open) {
                Ok(()) => break,
                Err(end) => {
                    shared.ended(&end);
                    at += 1;
                    let mut unconfirmed: Vec<u64> = open
                        .into_values()
                        .map(|sending: usize| self.sendings[sending].message)
                        .collect();
                    unconfirmed.extend(self.again.drain(..));
                    unconfirmed.sort_unstable();
                    self.again = unconfirmed.into();
                }
            }
        }
        self.sendings
    }

    /// On one connection, until nothing is left to do or it ends. `open`: its publishes without an answer.
    fn publish(&mut self, mut session: Session, channel: u32, open: &mut BTreeMap<u64, usize>) -> Result<(), End> {
        session.confirm(CALL)?;
        let mut heard = Instant::now();
        loop {
            for _ in 0..BATCH {
                if open.len() >= WINDOW {
                    break;
                }
                let message = match self.again.pop_front() {
                    Some(message) => message,
                    None if self.shared.publishing.load(Ordering::Relaxed) => {
                        self.messages += 1;
                        self.messages
                    }
                    None => break,
                };
                if open.is_empty() {
                    heard = Instant::now();
                }
                let key = (self.id, self.sendings.len() as u64);
                self.sendings.push(Sending {
                    message,
                    channel,
                    confirmed: false,
                });
                // Before the write: half a message sent is one that may arrive.
                open.insert(session.published() + 1, self.sendings.len() - 1);
                session.publish(&self.queue, &body(&self.queue, key))?;
            }
            if open.is_empty() && self.again.is_empty() && !self.shared.publishing.load(Ordering::Relaxed) {
                return session.close(CALL);
            }
            let mut within = TICK;
            while let Some(event) = session.next(within)? {
                within = Duration::ZERO;
                let (tags, confirmed) = match event {
                    Event::Confirmed(tags) => (tags, true),
                    Event::Nacked(tags) => (tags, false),
                    other => return Err(End::Lost(format!("to a publisher: {other:?}"))),
                };
                self.shared
                    .note(|notes| notes.longest_wait = notes.longest_wait.max(heard.elapsed()));
                heard = Instant::now();
                self.answered(open, tags, confirmed);
            }
            if !open.is_empty() && heard.elapsed() > SILENCE {
                self.shared
                    .note(|notes| notes.longest_wait = notes.longest_wait.max(heard.elapsed()));
                return Err(End::Late("a confirm"));
            }
        }
    }

    fn answered(&mut self, open: &mut BTreeMap<u64, usize>, tags: Tags, confirmed: bool) {
        let rest = open.split_off(&(tags.tag + 1));
        let mut taken = std::mem::replace(open, rest);
        if !tags.multiple {
            let one = taken.remove(&tags.tag);
            open.append(&mut taken);
            taken.extend(one.map(|sending| (tags.tag, sending)));
        }
        for sending in taken.into_values() {
            if confirmed {
                self.sendings[sending].confirmed = true;
                self.shared.confirmed[self.id as usize].fetch_add(1, Ordering::Relaxed);
            } else {
                self.shared.note(|notes| notes.nacks += 1);
                self.again.push_back(self.sendings[sending].message);
            }
        }
    }
}

fn consume(shared: &Shared, queue: &str, mut at: usize) -> Vec<Vec<Receipt>> {
    let mut all = Vec::new();
    while let Some(session) = shared.connect(&mut at, &shared.consuming) {
        let mut receipts = Vec::new();
        let end = take(shared, session, queue, &mut receipts);
        all.push(receipts);
        if let Err(end) = end {
            shared.ended(&end);
            at += 1;
        }
    }
    all
}

fn take(shared: &Shared, mut session: Session, queue: &str, receipts: &mut Vec<Receipt>) -> Result<(), End> {
    session.consume(queue, PREFETCH, CALL)?;
    let (mut unacked, mut last) = (0, 0);
    while shared.consuming.load(Ordering::Relaxed) {
        match session.next(TICK)? {
            Some(Event::Delivered(delivery)) => {
                receipts.push(receipt(queue, &delivery));
                shared.delivered.fetch_add(1, Ordering::Relaxed);
                (unacked, last) = (unacked + 1, delivery.tag);
                if unacked < ACK_EVERY {
                    continue;
                }
            }
            Some(Event::Cancelled(_)) => {
                shared.note(|notes| notes.cancels += 1);
                return Ok(());
            }
            Some(other) => return Err(End::Lost(format!("to a consumer: {other:?}"))),
            None if unacked == 0 => continue,
            None => {}
        }
        session.ack(Tags {
            tag: last,
            multiple: true,
        })?;
        unacked = 0;
    }
    session.close(CALL)
}

/// What a publisher sends: who it is from, and bytes that follow from that, some bodies of several frames.
pub(crate) fn body(queue: &str, (publisher, number): Key) -> Vec<u8> {
    let length = match number % 400 {
        399 => 200_000,
        99 => 20_000,
        rest => 100 + rest as usize,
    };
    let mut body = format!("{queue} {publisher} {number} ").into_bytes();
    let fill = (b'a'..=b'z').cycle().skip(number as usize % 26);
    let missing = length.saturating_sub(body.len());
    body.extend(fill.take(missing));
    body
}

/// The record of a delivery. Panics if it is not, byte for byte, what was sent to that queue.
#[track_caller]
pub(crate) fn receipt(queue: &str, delivery: &Delivery) -> Receipt {
    let head = String::from_utf8_lossy(&delivery.body[..delivery.body.len().min(120)]).into_owned();
    let mut words = head.split(' ').skip(1);
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let key = number()
        .zip(number())
        .map(|(publisher, number)| (publisher as u32, number));
    let key = key.unwrap_or_else(|| panic!("a delivery that nobody sent: {head}"));
    assert!(
        delivery.body == body(queue, key),
        "a delivery that was changed on its way: {head}"
    );
    Receipt {
        key,
        redelivered: delivery.redelivered,
    }
}
