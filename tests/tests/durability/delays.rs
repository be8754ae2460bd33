//! Delayed messages while the node is killed that holds them: each comes once, and not before its time.

use std::time::{Duration, Instant};

use warren_tests::amqp::method::{ExchangeDeclare, QueueBind};
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, PATIENCE, name};

use crate::load::take_each_once;

const TARGET: &str = "delays.target";
const ROUNDS: usize = 3;
/// Messages of each round.
const EACH: u64 = 600;
/// They are due from here on, a few in each millisecond: while the leader is away and after it has come back.
const DELAY_MS: u64 = 300;

/// Declares a delayed exchange through a node, which then leads what holds its messages, and binds the target.
fn declare(cluster: &Cluster, node: usize, exchange: &str) {
    let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a whole cluster serves");
    let declare = ExchangeDeclare {
        exchange: exchange.into(),
        kind: "x-delayed-message".into(),
        durable: true,
        arguments: Table::from([("x-delayed-type", "direct")]),
        ..Default::default()
    };
    session.call(&declare, PATIENCE).expect("a whole cluster declares");
    let bind = QueueBind {
        queue: TARGET.into(),
        exchange: exchange.into(),
        routing_key: "k".into(),
        ..Default::default()
    };
    session.call(&bind, PATIENCE).expect("a whole cluster binds");
    session.close(PATIENCE).expect("a whole cluster closes");
}

/// Waits until everything published is confirmed.
fn confirmed(session: &mut Session, open: &mut Vec<u64>) {
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        match session.next(PATIENCE).expect("its node is not killed") {
            Some(Event::Confirmed(Tags { tag, multiple })) => {
                open.retain(|number| if multiple { *number > tag } else { *number != tag });
            }
            other => panic!("{other:?} instead of a confirm"),
        }
        assert!(Instant::now() < deadline, "not confirmed: {} messages", open.len());
    }
}

#[test]
fn each_comes_once_and_in_time_whoever_leads() {
    let mut cluster = Cluster::start();
    let began = Instant::now();
    let mut session = Session::open(&cluster.address(0), PATIENCE).expect("a whole cluster serves");
    session
        .declare(TARGET, "quorum", PATIENCE)
        .expect("a whole cluster declares");
    session.confirm(PATIENCE).expect("confirms");
    let mut open = Vec::new();
    for round in 0..ROUNDS {
        // Clients keep to the first node; the others lead in turn, and are killed with what they hold.
        let victim = 1 + round % 2;
        let exchange = format!("delays.{round}");
        declare(&cluster, victim, &exchange);
        for number in 0..EACH {
            let delay = DELAY_MS + 2 * number;
            let properties = Properties {
                headers: Some(Table::from([(
                    "x-delay",
                    Value::I64(i64::try_from(delay).expect("small")),
                )])),
                ..Properties::persistent()
            };
            let due_ms = u64::try_from(began.elapsed().as_millis()).expect("a short test") + delay;
            let body = format!("{} {due_ms}", session.published() + 1);
            let tag = session.publish_to(&exchange, "k", &properties, body.as_bytes());
            open.push(tag.expect("its node is not killed"));
        }
        confirmed(&mut session, &mut open);
        cluster.kill(victim);
        println!("round {round}: {} killed with all confirmed", name(victim));
        if round + 1 == ROUNDS {
            // All of these are due while it is away.
            break;
        }
        cluster.start_node(victim);
        cluster.await_whole();
    }
    let total = session.published();
    take_each_once(&mut session, TARGET, total, |delivery| {
        let text = String::from_utf8_lossy(&delivery.body).into_owned();
        let mut numbers = text
            .split(' ')
            .map(|word| word.parse::<u64>().expect("numbers were published"));
        let (number, due_ms) = (numbers.next().expect("two"), numbers.next().expect("two"));
        assert!(
            began.elapsed() >= Duration::from_millis(due_ms),
            "{number} came before its time"
        );
        number
    });
    println!("{total} delayed messages in {:.1} s", began.elapsed().as_secs_f32());
    session.close(PATIENCE).expect("a whole cluster closes");
    cluster.finish();
}
