//! One node of three alone: it promises nothing, says so in time, and keeps what it was given before.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use warren_tests::client::{End, Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, name};

use crate::history::{History, Receipt, Sending, check};
use crate::load::{body, publisher, receipt};

const PUBLISH_TIMEOUT: Duration = Duration::from_secs(4);
/// Beyond the time-out, for the answer to be made.
const SLACK: Duration = Duration::from_secs(4);
/// In which a question to a minority is answered.
const ANSWER: Duration = Duration::from_secs(45);
const QUEUE: &str = "minority";
const COUNT: u64 = 50;

/// One publisher, on one session, that knows of each sending how it was answered.
struct Book {
    publisher: u32,
    sendings: Vec<Sending>,
}

/// Answers to what was published on one session.
#[derive(Default)]
struct Answers {
    open: BTreeSet<u64>,
    first: usize,
    confirmed: usize,
    nacked: usize,
}

impl Book {
    fn publish(&mut self, session: &mut Session, count: u64) -> Result<Answers, End> {
        let mut answers = Answers {
            first: self.sendings.len(),
            ..Answers::default()
        };
        for _ in 0..count {
            let number = self.sendings.len() as u64;
            let sending = Sending {
                message: number,
                channel: 0,
                confirmed: false,
            };
            self.sendings.push(sending);
            answers
                .open
                .insert(session.publish(QUEUE, &body(QUEUE, (self.publisher, number)))?);
        }
        Ok(answers)
    }

    /// Takes answers in until each publish has one, or the time is over. `base` is the first publish's number less one.
    fn listen(&mut self, session: &mut Session, answers: &mut Answers, within: Duration) -> Result<(), End> {
        let deadline = Instant::now() + within;
        let base = answers.open.first().copied().unwrap_or(1) - (answers.confirmed + answers.nacked) as u64;
        while !answers.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(event) = session.next(left)? else {
                break;
            };
            let (Tags { tag, multiple }, confirmed) = match event {
                Event::Confirmed(tags) => (tags, true),
                Event::Nacked(tags) => (tags, false),
                other => return Err(End::Lost(format!("to a publisher: {other:?}"))),
            };
            let answered: Vec<u64> = answers
                .open
                .iter()
                .copied()
                .filter(|open| *open == tag || multiple && *open < tag)
                .collect();
            for one in answered {
                answers.open.remove(&one);
                let sending = answers.first + (one - base) as usize;
                self.sendings[sending].confirmed = confirmed;
                *(if confirmed {
                    &mut answers.confirmed
                } else {
                    &mut answers.nacked
                }) += 1;
            }
        }
        Ok(())
    }
}

fn take_all(cluster: &Cluster, node: usize) -> Vec<Receipt> {
    let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a whole cluster serves");
    session
        .consume(QUEUE, 0, PATIENCE)
        .expect("a whole cluster serves consumers");
    let mut receipts = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match session.next(Duration::from_millis(200)).expect("the consumer stays") {
            Some(Event::Delivered(delivery)) => {
                receipts.push(receipt(QUEUE, &delivery));
                let tags = Tags {
                    tag: delivery.tag,
                    multiple: false,
                };
                session.ack(tags).expect("the consumer stays");
            }
            Some(other) => panic!("to a consumer: {other:?}"),
            None => {
                let row = cluster.queue(node, QUEUE).expect("a whole cluster answers");
                if row["messages"] == 0 && row["state"] == "running" {
                    return receipts;
                }
                assert!(Instant::now() < deadline, "the queue does not become empty: {row}");
            }
        }
    }
}

/// `alone(leader)` says which node stays.
fn case(what: &str, alone: impl Fn(usize) -> usize) {
    let timeout = PUBLISH_TIMEOUT.as_millis().to_string();
    let mut cluster = Cluster::start_with(&[("WARREN_AMQP_PUBLISH_TIMEOUT_MS", &timeout)]);
    publisher(&cluster, 0)
        .declare(QUEUE, "quorum", PATIENCE)
        .expect("a whole cluster declares");
    let alone = alone(cluster.leader(0, QUEUE));
    let dead: Vec<usize> = (0..NODES).filter(|node| *node != alone).collect();
    let mut book = Book {
        publisher: 0,
        sendings: Vec::new(),
    };
    let mut other = Book {
        publisher: 1,
        sendings: Vec::new(),
    };

    let mut session = publisher(&cluster, alone);
    let mut before = book
        .publish(&mut session, COUNT)
        .expect("a whole cluster takes publishes");
    book.listen(&mut session, &mut before, PATIENCE)
        .expect("a whole cluster confirms");
    assert_eq!(
        (before.confirmed, before.open.len()),
        (COUNT as usize, 0),
        "{what}: of a whole cluster"
    );

    cluster.kill_all(&dead);
    // The channel that was there and a new one: neither may be told yes.
    let mut fresh = publisher(&cluster, alone);
    let at = Instant::now();
    let mut old = book.publish(&mut session, COUNT).expect("a lone node takes publishes");
    let mut new = other.publish(&mut fresh, COUNT).expect("a lone node takes publishes");
    book.listen(&mut session, &mut old, PUBLISH_TIMEOUT + SLACK)
        .expect("the session stays");
    other.listen(&mut fresh, &mut new, SLACK).expect("the session stays");
    println!(
        "{what}: {} alone: {} + {} of {COUNT} + {COUNT} nacked and {} + {} confirmed within {:.1} s",
        name(alone),
        old.nacked,
        new.nacked,
        old.confirmed,
        new.confirmed,
        at.elapsed().as_secs_f32()
    );
    assert_eq!(
        (old.confirmed, new.confirmed),
        (0, 0),
        "{what}: confirmed by a minority"
    );
    assert_eq!(
        (old.nacked, new.nacked),
        (COUNT as usize, COUNT as usize),
        "{what}: not nacked in time"
    );

    // What needs the majority is refused in bounded time, or waits for it; the node lives on.
    let declared = publisher(&cluster, alone).declare("minority.new", "quorum", ANSWER);
    println!("{what}: a declare meanwhile: {declared:?}");
    assert!(declared.is_err(), "{what}: a minority declared a queue");

    // These wait for the others, which come back before the time-out.
    let mut waiting = book.publish(&mut session, COUNT).expect("a lone node takes publishes");
    for node in &dead {
        cluster.spawn(*node);
    }
    cluster.await_whole();
    book.listen(&mut session, &mut waiting, PATIENCE)
        .expect("the session stays");
    assert_eq!(waiting.open.len(), 0, "{what}: without an answer");
    let mut after = book
        .publish(&mut session, COUNT)
        .expect("a whole cluster takes publishes");
    book.listen(&mut session, &mut after, PATIENCE)
        .expect("a whole cluster confirms");
    assert_eq!(after.confirmed, COUNT as usize, "{what}: of a whole cluster again");

    let receipts = take_all(&cluster, dead[0]);
    let history = History {
        sendings: [(0, book.sendings), (1, other.sendings)].into(),
        receipts: vec![receipts],
    };
    let summary = check(&history).unwrap_or_else(|violations| panic!("{what}: {violations:?}"));
    println!(
        "{what}: back again: of {COUNT} waiting {} confirmed and {} nacked; {summary}",
        waiting.confirmed, waiting.nacked
    );
    assert_eq!(summary.redelivered, 0, "{what}: nothing was delivered before");
    drop((session, fresh));
    cluster.finish();
}

#[test]
fn a_leader_alone_confirms_nothing_and_loses_nothing() {
    case("leader alone", |leader| leader);
}

#[test]
fn a_follower_alone_confirms_nothing_and_loses_nothing() {
    case("follower alone", |leader| (leader + 1) % NODES);
}
