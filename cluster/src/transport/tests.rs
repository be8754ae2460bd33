//! Whole nodes' transports on the loopback, in one process or, where one must die or freeze, in a child.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::*;

mod breaks;
mod edges;
mod snapshots;
mod tls;

const DEADLINE: Duration = Duration::from_secs(20);
/// So long that no test sees it pass.
const NEVER_MS: u64 = 600_000;

/// What an inbox saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Envelope(NodeId, Envelope),
    Peer(NodeId, PeerState),
    Reset(NodeId),
    Writable(NodeId),
    Forgotten(String),
    Sunk(Sunk),
}

/// What a sink saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sunk {
    Begun(NodeId, GroupId),
    State(usize),
    Entries(Vec<u64>),
    Finished,
    Aborted,
}

/// Keeps all that it is told. Also answers calls.
#[derive(Default)]
struct Recorder {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    /// Deliveries wait while somebody holds this.
    gate: Mutex<()>,
    /// Sinks refuse a state chunk of this length.
    poison_len: usize,
}

impl Recorder {
    fn note(&self, seen: Seen) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        self.changed.notify_all();
    }

    /// Waits until the condition holds of all that was seen, and returns that.
    fn wait(&self, what: &str, holds: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let seen = self.seen.lock().expect("no panic");
        let (seen, timeout) = self
            .changed
            .wait_timeout_while(seen, DEADLINE, |seen| !holds(seen))
            .expect("no panic");
        assert!(!timeout.timed_out(), "waited in vain for {what}; seen: {seen:?}");
        seen.clone()
    }

    fn wait_for(&self, due: &Seen) -> Vec<Seen> {
        self.wait(&format!("{due:?}"), |seen| seen.contains(due))
    }

    fn envelopes(&self) -> usize {
        let seen = self.seen.lock().expect("no panic");
        seen.iter().filter(|seen| matches!(seen, Seen::Envelope(..))).count()
    }
}

struct RecorderInbox(Arc<Recorder>);

impl Inbox for RecorderInbox {
    fn deliver(&self, from: NodeId, envelope: Envelope) {
        drop(self.0.gate.lock());
        self.0.note(Seen::Envelope(from, envelope));
    }

    fn peer_changed(&self, node: NodeId, state: PeerState) {
        self.0.note(Seen::Peer(node, state));
    }

    fn link_reset(&self, node: NodeId) {
        self.0.note(Seen::Reset(node));
    }

    fn link_writable(&self, node: NodeId) {
        self.0.note(Seen::Writable(node));
    }

    fn forgotten(&self, reason: String) {
        self.0.note(Seen::Forgotten(reason));
    }

    fn snapshot_begin(&self, from: NodeId, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, Refused> {
        if offer.message == "unwanted" {
            return Err(Refused("not wanted here".to_owned()));
        }
        self.0.note(Seen::Sunk(Sunk::Begun(from, offer.group)));
        Ok(Box::new(snapshots::RecorderSink::new(Arc::clone(&self.0))))
    }
}

struct Clerk;

impl AdminHandler for Clerk {
    fn call(&self, call: String, answer: AdminAnswer) {
        std::thread::spawn(move || match call.as_str() {
            "count" => {
                for row in 0..1_000 {
                    answer.blocking_row(row.to_string()).expect("the tool reads");
                }
                answer.finish();
            }
            "fail" => {
                answer.blocking_row("one".to_owned()).expect("the tool reads");
                answer.fail(64, "no such verb");
            }
            _ => drop(answer),
        });
    }
}

fn identity(node: NodeId, incarnation: u64, secret: &str) -> Identity {
    Identity {
        address: String::new(),
        membership: Membership::default(),
        cluster: "burrow".to_owned(),
        name: format!("n{node}"),
        node,
        incarnation,
        directory: 1,
        versions: Versions::default(),
        secret: Secret::new(secret.as_bytes().to_vec()),
    }
}

fn peer(node: NodeId, address: SocketAddr) -> Peer {
    Peer {
        node,
        name: format!("n{node}"),
        address: address.to_string(),
    }
}

/// An address where nobody listens yet: of a port that the system gives to nobody who does not ask for it, and that
/// another process of these tests hardly asks for.
fn free() -> SocketAddr {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let process = u16::try_from(std::process::id() % 100).expect("below 100");
        AtomicU16::new(14_000 + 100 * process)
    });
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 28_000, "no free ports");
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr().expect("bound");
        }
    }
}

fn start(identity: Identity, listen: SocketAddr, peers: Vec<Peer>, options: Options) -> (Handle, Arc<Recorder>) {
    let recorder = Arc::new(Recorder {
        poison_len: 13,
        ..Recorder::default()
    });
    let inbox = Arc::new(RecorderInbox(Arc::clone(&recorder)));
    let handle = GrpcTransport::start(identity, listen, peers, options, inbox, Arc::new(Clerk)).expect("started");
    (handle, recorder)
}

fn patient() -> Options {
    Options {
        silence_ms: NEVER_MS,
        ..Options::default()
    }
}

/// Two nodes that know each other, n1 and n2, both of run 1.
fn pair(options: Options) -> [(Handle, Arc<Recorder>, SocketAddr); 2] {
    let (at1, at2) = (free(), free());
    let (h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], options.clone());
    let (h2, r2) = start(identity(2, 1, "s"), at2, vec![peer(1, at1)], options);
    r1.wait_for(&Seen::Writable(2));
    r2.wait_for(&Seen::Writable(1));
    [(h1, r1, at1), (h2, r2, at2)]
}

fn envelope(to: u64, len: usize) -> Envelope {
    let payload: Vec<u8> = (0..len)
        .map(|at| u8::try_from((at as u64 * 31 + to) % 251).unwrap_or(0))
        .collect();
    Envelope {
        port: Port::QUEUE,
        to,
        payload: Bytes::from(payload),
    }
}

fn up(node: NodeId, incarnation: u64) -> Seen {
    Seen::Peer(node, PeerState::Up { incarnation })
}

fn silent(node: NodeId, incarnation: u64) -> Seen {
    Seen::Peer(node, PeerState::Silent { incarnation })
}

fn dead(node: NodeId, incarnation: u64) -> Seen {
    Seen::Peer(node, PeerState::Dead { incarnation })
}

#[test]
fn envelopes_arrive_in_order_both_ways() {
    let [(h1, r1, _), (h2, r2, _)] = pair(patient());
    let lens = [0, 1, 100, 70_000, 3 << 20, 5, 1 << 20, 1_000];
    let sent: Vec<Envelope> = (0..2_000)
        .map(|to| envelope(to, lens[to as usize % 500 % lens.len()] / 50))
        .collect();
    let sent: Vec<Envelope> = sent
        .into_iter()
        .chain((0..8).map(|at| envelope(at, lens[at as usize])))
        .collect();
    for envelope in &sent {
        h1.transport().send(2, envelope.clone()).expect("room");
        h2.transport().send(1, envelope.clone()).expect("room");
    }
    for (recorder, from) in [(&r1, 2), (&r2, 1)] {
        let is_envelope = |seen: &&Seen| matches!(seen, Seen::Envelope(..));
        let seen = recorder.wait("all envelopes", |seen| {
            seen.iter().filter(is_envelope).count() == sent.len()
        });
        let arrived: Vec<Seen> = seen
            .into_iter()
            .filter(|seen| matches!(seen, Seen::Envelope(..)))
            .collect();
        let due: Vec<Seen> = sent
            .iter()
            .map(|envelope| Seen::Envelope(from, envelope.clone()))
            .collect();
        assert!(arrived == due, "envelopes were changed or shuffled on the way");
    }
    assert_eq!(h1.transport().peers(), [(2, PeerState::Up { incarnation: 1 })]);
    let stats = h1.transport().stats();
    assert_eq!((stats[0].sent, stats[0].received, stats[0].resets), (2_008, 2_008, 0));
}

#[test]
fn what_is_sent_before_the_link_opens_arrives() {
    let (at1, at2) = (free(), free());
    let (h1, _r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], patient());
    for to in 0..100 {
        h1.transport().send(2, envelope(to, 10)).expect("little");
    }
    let (_h2, r2) = start(identity(2, 1, "s"), at2, vec![peer(1, at1)], patient());
    let seen = r2.wait("100 envelopes", |seen| {
        seen.contains(&Seen::Envelope(1, envelope(99, 10)))
    });
    assert!(seen.contains(&Seen::Envelope(1, envelope(0, 10))));
}

#[test]
fn a_restarted_peer_is_a_new_run() {
    let [(h1, r1, at1), (h2, _r2, at2)] = pair(patient());
    h2.shutdown();
    r1.wait_for(&dead(2, 1));
    h1.transport().send(2, envelope(1, 10)).expect("little"); // For a run that has ended: never delivered.
    let (h2, r2) = start(identity(2, 5, "s"), at2, vec![peer(1, at1)], patient());
    let seen = r1.wait_for(&up(2, 5));
    r1.wait("a link to the new run", |seen| {
        seen.iter().filter(|seen| **seen == Seen::Writable(2)).count() == 2
    });
    let peers: Vec<&Seen> = seen.iter().filter(|seen| matches!(seen, Seen::Peer(..))).collect();
    assert_eq!(peers, [&up(2, 1), &dead(2, 1), &up(2, 5)]);
    let position = |due: &Seen| seen.iter().rposition(|seen| seen == due).expect("seen");
    assert!(position(&dead(2, 1)) < position(&Seen::Reset(2)) && position(&Seen::Reset(2)) < position(&up(2, 5)));
    h1.transport().send(2, envelope(2, 10)).expect("room");
    h2.transport().send(1, envelope(3, 10)).expect("room");
    r2.wait_for(&Seen::Envelope(1, envelope(2, 10)));
    r1.wait_for(&Seen::Envelope(2, envelope(3, 10)));
    assert_eq!(r2.envelopes(), 1);
}

#[test]
fn a_run_that_is_over_is_refused() {
    let (at1, at2, at3) = (free(), free(), free());
    let (h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], patient());
    let (_new, _) = start(identity(2, 9, "s"), at2, vec![peer(1, at1)], patient());
    r1.wait_for(&up(2, 9));
    let (old, r_old) = start(identity(2, 8, "s"), at3, vec![peer(1, at1)], patient());
    let text = "\"n2\": run 8 of that node has ended: run 9 was seen";
    wait_refusal(&h1, text);
    wait_refusal(&old, text);
    old.transport().send(1, envelope(1, 1)).expect("little");
    assert_eq!((r1.envelopes(), r_old.envelopes()), (0, 0));
    assert_eq!(h1.transport().peers(), [(2, PeerState::Up { incarnation: 9 })]);
}

/// Waits until the node tells of a refusal.
fn wait_refusal(handle: &Handle, text: &str) {
    let start = Instant::now();
    while !handle
        .transport()
        .refusals()
        .iter()
        .any(|refusal| refusal.contains(text))
    {
        assert!(
            start.elapsed() < DEADLINE,
            "waited in vain for {text}: {:?}",
            handle.transport().refusals()
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_full_queue_hands_back_and_tells_when_there_is_room() {
    let options = Options {
        queue_bytes_max: 8 << 20,
        ..patient()
    };
    let [(h1, r1, _), (_h2, r2, _)] = pair(options);
    let held = r2.gate.lock().expect("no panic");
    let mut sent = 0;
    let back = loop {
        match h1.transport().send(2, envelope(sent, 100_000)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 2_000, "what waits is bounded");
    };
    assert!(matches!(back, SendError::Full(_)));
    assert_eq!(back.into_envelope(), envelope(sent, 100_000));
    let before = r1
        .seen
        .lock()
        .expect("no panic")
        .iter()
        .filter(|seen| **seen == Seen::Writable(2))
        .count();
    drop(held);
    r1.wait("room", |seen| {
        seen.iter().filter(|seen| **seen == Seen::Writable(2)).count() > before
    });
    h1.transport().send(2, envelope(sent, 100_000)).expect("room again");
    r2.wait("all of them", |seen| {
        seen.last() == Some(&Seen::Envelope(1, envelope(sent, 100_000)))
    });
    assert_eq!(r2.envelopes() as u64, sent + 1);
}

#[test]
fn unknown_peers_and_payloads_too_long_are_handed_back() {
    let (handle, _) = start(identity(1, 1, "s"), free(), Vec::new(), patient());
    let error = handle.transport().send(9, envelope(1, 10)).expect_err("no such peer");
    assert!(matches!(error, SendError::NoPeer(_)));
    let [(h1, ..), _other] = pair(patient());
    let long = Envelope {
        port: Port::RAFT,
        to: 1,
        payload: Bytes::from(vec![0; PAYLOAD_LEN_MAX + 1]),
    };
    assert!(matches!(h1.transport().send(2, long), Err(SendError::TooLong(_))));
}

/// A node in a process of its own, n2 of run 1, whose peer is n1.
struct Process(Child);

impl Process {
    fn start(listen: SocketAddr, peer: SocketAddr) -> Self {
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "transport::tests::the_process_of_a_node", "--nocapture"])
            .env("WARREN_TEST_NODE", format!("{listen} {peer}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("a child"))
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Not a test of its own: what [`Process`] runs.
#[test]
fn the_process_of_a_node() {
    let Ok(addresses) = std::env::var("WARREN_TEST_NODE") else {
        return;
    };
    let (listen, at1) = addresses.split_once(' ').expect("two addresses");
    let peers = vec![peer(1, at1.parse().expect("an address"))];
    let (_handle, _recorder) = start(
        identity(2, 1, "s"),
        listen.parse().expect("an address"),
        peers,
        patient(),
    );
    // Ends with the test that started it.
    let _end = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_killed_process_is_dead_long_before_it_would_be_silent() {
    let (at1, at2) = (free(), free());
    let (_h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], patient());
    let mut process = Process::start(at2, at1);
    r1.wait_for(&Seen::Writable(2));
    process.0.kill().expect("SIGKILL");
    let start = Instant::now();
    r1.wait_for(&dead(2, 1));
    let took = start.elapsed();
    // On an idle machine it takes about 2 ms.
    assert!(took < Duration::from_millis(1_000), "{took:?}");
    eprintln!("dead {took:?} after SIGKILL");
}

#[test]
fn a_frozen_process_is_silent_until_it_goes_on() {
    let (at1, at2) = (free(), free());
    let options = Options {
        silence_ms: 400,
        ..Options::default()
    };
    let (_h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], options);
    let process = Process::start(at2, at1);
    r1.wait_for(&Seen::Writable(2));
    process.signal("-STOP");
    let seen = r1.wait_for(&silent(2, 1));
    let frozen_at = seen.len();
    // It does not answer on the link either, which is given up.
    r1.wait("both streams to break", |seen| {
        seen[frozen_at..].iter().filter(|seen| **seen == Seen::Reset(2)).count() == 2
    });
    process.signal("-CONT");
    r1.wait("the peer to be up again", |seen| {
        seen[frozen_at..].contains(&up(2, 1)) && seen[frozen_at..].contains(&Seen::Writable(2))
    });
    assert!(!r1.seen.lock().expect("no panic").contains(&dead(2, 1)));
}

#[test]
fn peers_come_and_go_while_others_are_talked_to() {
    let [(h1, r1, at1), (_h2, r2, at2)] = pair(patient());
    let at3 = free();
    let (_h3, r3) = start(identity(3, 1, "s"), at3, vec![peer(1, at1)], patient());
    h1.transport().set_peers(vec![peer(2, at2), peer(3, at3)]);
    r1.wait_for(&Seen::Writable(3));
    r3.wait_for(&Seen::Writable(1));
    h1.transport().send(3, envelope(7, 10)).expect("room");
    r3.wait_for(&Seen::Envelope(1, envelope(7, 10)));
    // It is removed for good, and told so; the others' links are as they were.
    h1.transport().set_forgotten(BTreeMap::from([(3, 1)]));
    h1.transport().set_peers(vec![peer(2, at2)]);
    r1.wait_for(&silent(3, 1));
    r3.wait("it is told", |seen| {
        seen.iter().any(|seen| matches!(seen, Seen::Forgotten(_)))
    });
    assert!(matches!(
        h1.transport().send(3, envelope(8, 10)),
        Err(SendError::NoPeer(_))
    ));
    h1.transport().send(2, envelope(9, 10)).expect("room");
    let seen = r2.wait_for(&Seen::Envelope(1, envelope(9, 10)));
    assert_eq!(seen.iter().filter(|seen| **seen == Seen::Writable(1)).count(), 1);
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::Forgotten(_))));
    // With another data directory it is another node.
    let at3 = free();
    let anew = Identity {
        directory: 2,
        ..identity(3, 2, "s")
    };
    h1.transport().set_peers(vec![peer(2, at2), peer(3, at3)]);
    let (_h3, r3) = start(anew, at3, vec![peer(1, at1)], patient());
    r3.wait_for(&Seen::Writable(1));
    r1.wait_for(&up(3, 2));
}

#[test]
fn whoever_did_not_prove_itself_tells_nobody_that_it_was_forgotten() {
    let (at1, at2) = (free(), free());
    let (h1, _r1) = start(identity(1, 1, "other"), at1, vec![peer(2, at2)], patient());
    h1.transport().set_forgotten(BTreeMap::from([(2, 1)]));
    let (h2, r2) = start(identity(2, 1, "s"), at2, vec![peer(1, at1)], patient());
    let until = Instant::now() + DEADLINE;
    while h2.transport().refusals().is_empty() {
        assert!(Instant::now() < until, "nothing was refused");
        std::thread::yield_now();
    }
    r2.wait("no word of it", |seen| {
        !seen.iter().any(|seen| matches!(seen, Seen::Forgotten(_)))
    });
}
