//! Dead letters while the leaders of the queue they come from and of the queue they go to are killed: with
//! at-least-once each arrives, and no leader that takes over brings one twice.

use std::time::Instant;

use warren_tests::amqp::method::QueueDeclare;
use warren_tests::amqp::wire::{Table, Value};
use warren_tests::client::Session;
use warren_tests::cluster::{Cluster, PATIENCE, await_some, name};

use crate::load::{await_confirms, take_each_once};

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
    for round in 0..ROUNDS {
        let before = session.published();
        publish(&mut session, EACH / 2);
        let leader = cluster.leader(0, if round % 2 == 0 { SOURCE } else { TARGET });
        // One that came to the clients' own node stays.
        let node = if leader == 0 { 1 + round % 2 } else { leader };
        cluster.kill(node);
        publish(&mut session, EACH / 2);
        await_confirms(&mut session, before);
        println!(
            "round {round}: {} killed, {} confirmed",
            name(node),
            session.published()
        );
        cluster.start_node(node);
        cluster.await_whole();
    }
    let total = session.published();
    take_each_once(&mut session, TARGET, total, |delivery| {
        let text = std::str::from_utf8(&delivery.body).expect("a number was published");
        text.parse().expect("a number was published")
    });
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
