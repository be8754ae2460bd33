//! Transactions while their queue's leader is killed: what was committed is there once, what was rolled back is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use warren_tests::amqp::method::{TxCommit, TxRollback, TxSelect};
use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

const QUEUE: &str = "transactions";
/// Messages of one transaction.
const EACH: u64 = 20;
/// Every so many transactions one is rolled back.
const ROLLED_BACK: u64 = 5;
/// Commits that must be made in each state of the cluster.
const PROGRESS: u64 = 10;
const ROUNDS: usize = 4;

/// Commits one transaction after the other; answers how many were begun.
fn publish(mut session: Session, wanted: &AtomicBool, commits: &AtomicU64) -> u64 {
    let mut begun = 0;
    while wanted.load(Ordering::Relaxed) {
        for number in 0..EACH {
            let body = format!("{begun} {number}");
            session.publish(QUEUE, body.as_bytes()).expect("its node is not killed");
        }
        if begun % ROLLED_BACK == ROLLED_BACK - 1 {
            session
                .call(&TxRollback::default(), PATIENCE)
                .expect("a rollback asks nobody");
        } else {
            session
                .call(&TxCommit::default(), PATIENCE)
                .expect("a majority is there");
            commits.fetch_add(1, Ordering::Relaxed);
        }
        begun += 1;
    }
    session.close(PATIENCE).expect("its node is not killed");
    begun
}

fn transactional(cluster: &Cluster, node: usize) -> Session {
    let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a whole cluster serves");
    session
        .call(&TxSelect::default(), PATIENCE)
        .expect("a channel takes tx.select");
    session
}

#[test]
fn a_commit_is_whole_and_happens_once_whoever_leads() {
    let mut cluster = Cluster::start();
    let mut session = transactional(&cluster, 0);
    session
        .declare(QUEUE, "quorum", PATIENCE)
        .expect("a whole cluster declares");
    session.close(PATIENCE).expect("a whole cluster closes");
    // Clients keep to one node, which is not killed, and which does not lead at first.
    let home = (cluster.leader(0, QUEUE) + 1) % NODES;
    let session = transactional(&cluster, home);
    let wanted = Arc::new(AtomicBool::new(true));
    let commits = Arc::new(AtomicU64::new(0));
    let publisher = {
        let (wanted, commits) = (wanted.clone(), commits.clone());
        std::thread::spawn(move || publish(session, &wanted, &commits))
    };
    let progress = || {
        let goal = commits.load(Ordering::Relaxed) + PROGRESS;
        await_some("commits are made", PATIENCE, || {
            let now = commits.load(Ordering::Relaxed);
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}"))
            }
        });
    };
    for round in 0..ROUNDS {
        progress();
        let leader = cluster.leader(home, QUEUE);
        assert!(round > 0 || leader != home, "the leader moved by itself");
        let other = (home + 1 + round % (NODES - 1)) % NODES;
        let node = if leader == home { other } else { leader };
        cluster.kill(node);
        progress();
        cluster.start_node(node);
        cluster.await_whole();
        println!("round {round}: {} killed, the leader was {}", name(node), name(leader));
    }
    wanted.store(false, Ordering::Relaxed);
    let begun = publisher.join().expect("the publisher does not panic");
    let expected: Vec<String> = (0..begun)
        .filter(|transaction| transaction % ROLLED_BACK != ROLLED_BACK - 1)
        .flat_map(|transaction| (0..EACH).map(move |number| format!("{transaction} {number}")))
        .collect();
    println!("{begun} transactions, {} messages committed", expected.len());
    let row = cluster.queue(home, QUEUE).expect("a whole cluster answers");
    assert_eq!(row["messages"], expected.len() as u64);

    let mut session = transactional(&cluster, home);
    session.consume(QUEUE, 0, PATIENCE).expect("a whole cluster serves");
    let mut last = 0;
    for body in &expected {
        match session.next(PATIENCE).expect("its node is not killed") {
            Some(Event::Delivered(delivery)) => {
                assert_eq!(String::from_utf8_lossy(&delivery.body), *body);
                last = delivery.tag;
            }
            other => panic!("{other:?} instead of {body}"),
        }
    }
    session
        .ack(Tags {
            tag: last,
            multiple: true,
        })
        .expect("its node is not killed");
    let leader = cluster.leader(home, QUEUE);
    let node = if leader == home { (home + 1) % NODES } else { leader };
    cluster.kill(node);
    session
        .call(&TxCommit::default(), PATIENCE)
        .expect("a majority is there");
    let row = cluster.queue(home, QUEUE).expect("a majority answers");
    assert_eq!(row["messages"], 0, "commit-ok came before what was settled was gone");
    cluster.start_node(node);
    cluster.await_whole();
    cluster.finish();
}
