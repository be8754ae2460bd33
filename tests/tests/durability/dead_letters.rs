//! Dead letters while the leaders of the queue they come from and of the queue they go to are killed: with
//! at-least-once each arrives, and no leader that takes over brings one twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use warren_tests::amqp::method::QueueDeclare;
use warren_tests::amqp::wire::{Table, Value};
use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, PATIENCE, await_some, name};

const SOURCE: &str = "dead.source";
const TARGET: &str = "dead.target";
const ROUNDS: usize = 4;
/// Messages of each round: some before its kill, some right after it.
const EACH: u64 = 400;

fn publish(session: &mut Session, messages: u64) {
    for _ in 0..messages {
        let body = (session.published() + 1).to_string();
        session
            .publish(SOURCE, body.as_bytes())
            .expect("its node is not killed");
    }
}

/// Waits until everything published is confirmed.
fn confirmed(session: &mut Session, upto: &mut u64) {
    let deadline = Instant::now() + PATIENCE;
    let mut single = Vec::new();
    while *upto < session.published() {
        match session.next(PATIENCE).expect("its node is not killed") {
            Some(Event::Confirmed(Tags { tag, multiple: true })) => *upto = tag.max(*upto),
            Some(Event::Confirmed(Tags { tag, multiple: false })) => single.push(tag),
            other => panic!("{other:?} instead of a confirm"),
        }
        single.sort_unstable();
        for tag in std::mem::take(&mut single) {
            if tag == *upto + 1 {
                *upto = tag;
            } else if tag > *upto {
                single.push(tag);
            }
        }
        assert!(Instant::now() < deadline, "confirmed up to {upto}");
    }
}

#[test]
fn each_arrives_once_whoever_leads() {
    let mut cluster = Cluster::start();
    let began = Instant::now();
    // Clients keep to the first node; the leaders are on the others.
    for (node, queue, arguments) in [
        (1, TARGET, Vec::new()),
        (
            2,
            SOURCE,
            vec![
                ("x-message-ttl", Value::I32(1)),
                ("x-dead-letter-exchange", "".into()),
                ("x-dead-letter-routing-key", TARGET.into()),
                ("x-dead-letter-strategy", "at-least-once".into()),
                ("x-overflow", "reject-publish".into()),
            ],
        ),
    ] {
        let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a whole cluster serves");
        let mut fields = vec![("x-queue-type".to_owned(), Value::from("quorum"))];
        fields.extend(arguments.into_iter().map(|(key, value)| (key.to_owned(), value)));
        let declare = QueueDeclare {
            queue: queue.into(),
            durable: true,
            arguments: Table(fields),
            ..Default::default()
        };
        session.call(&declare, PATIENCE).expect("a whole cluster declares");
        session.close(PATIENCE).expect("a whole cluster closes");
    }
    let mut session = Session::open(&cluster.address(0), PATIENCE).expect("a whole cluster serves");
    session.confirm(PATIENCE).expect("confirms");
    let mut upto = 0;
    for round in 0..ROUNDS {
        publish(&mut session, EACH / 2);
        let leader = cluster.leader(0, if round % 2 == 0 { SOURCE } else { TARGET });
        // One that came to the clients' own node stays.
        let node = if leader == 0 { 1 + round % 2 } else { leader };
        cluster.kill(node);
        publish(&mut session, EACH / 2);
        confirmed(&mut session, &mut upto);
        println!("round {round}: {} killed, {upto} confirmed", name(node));
        cluster.start_node(node);
        cluster.await_whole();
    }
    let total = session.published();
    session.consume(TARGET, 500, PATIENCE).expect("the target is served");
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    while (seen.len() as u64) < total {
        let event = session.next(PATIENCE).expect("its node is not killed");
        let Some(Event::Delivered(delivery)) = event else {
            panic!("{} of {total} dead letters, then {event:?}", seen.len())
        };
        let number = std::str::from_utf8(&delivery.body)
            .ok()
            .and_then(|text| text.parse().ok());
        *seen.entry(number.expect("a number was published")).or_default() += 1;
        let tags = Tags {
            tag: delivery.tag,
            multiple: false,
        };
        session.ack(tags).expect("its node is not killed");
        assert!(Instant::now() < deadline, "{} of {total} dead letters", seen.len());
    }
    assert_eq!(
        session.next(Duration::from_millis(500)),
        Ok(None),
        "more than was published"
    );
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "came more than once: {twice:?}");
    for queue in [SOURCE, TARGET] {
        await_some(&format!("{queue} is empty"), PATIENCE, || {
            let row = cluster.queue(0, queue)?;
            if row["messages"] == 0 {
                Ok(())
            } else {
                Err(row.to_string())
            }
        });
    }
    println!("{total} dead letters in {:.1} s", began.elapsed().as_secs_f32());
    session.close(PATIENCE).expect("a whole cluster closes");
    cluster.finish();
}
