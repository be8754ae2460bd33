//! A policy that is set while the leader of its queue dies holds under the next leader, and after all have restarted.

use std::time::{Duration, Instant};

use warren_tests::client::{End, Event, Session};
use warren_tests::cluster::{Cluster, PATIENCE, await_some};

const QUEUES: [(&str, &str); 2] = [("policies.classic", "classic"), ("policies.quorum", "quorum")];
const ROUNDS: u64 = 4;

fn fill(session: &mut Session, queue: &str, messages: u64) {
    let first = session.published() + 1;
    let mut open: Vec<u64> = (0..messages)
        .map(|_| session.publish(queue, b"message").expect("its node is not killed"))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        match session.next(PATIENCE).expect("its node is not killed") {
            Some(Event::Confirmed(tags)) => open.retain(|tag| {
                if tags.multiple {
                    *tag > tags.tag
                } else {
                    *tag != tags.tag
                }
            }),
            other => panic!("{other:?} instead of a confirm of {first}"),
        }
        assert!(Instant::now() < deadline, "unconfirmed: {open:?}");
    }
}

/// Ready messages as the operator sees them.
fn ready(cluster: &Cluster, queue: &str) -> Result<u64, String> {
    let row = cluster.queue(0, queue)?;
    row.get("messages_ready")
        .and_then(serde_json::Value::as_u64)
        .ok_or_else(|| format!("{row}"))
}

#[track_caller]
fn await_ready(cluster: &Cluster, queue: &str, messages: u64) {
    await_some(
        &format!("{messages} ready messages in {queue}"),
        2 * PATIENCE,
        || match ready(cluster, queue)? {
            found if found == messages => Ok(()),
            found => Err(format!("there are {found}")),
        },
    );
}

fn set(cluster: &Cluster, limit: u64) {
    let definition = format!(r#"{{"max-length":{limit}}}"#);
    cluster
        .ctl(0, &["set_policy", "limit", "^policies", &definition])
        .expect("two nodes of three are a majority");
}

#[test]
fn a_policy_set_while_the_leader_is_killed_holds() -> Result<(), End> {
    let mut cluster = Cluster::start();
    // Clients and the operator keep to the first node; the leader is on another.
    for (queue, kind) in QUEUES {
        let mut session = Session::open(&cluster.address(1), PATIENCE)?;
        session.declare(queue, kind, PATIENCE)?;
        session.close(PATIENCE)?;
    }
    let mut session = Session::open(&cluster.address(0), PATIENCE)?;
    session.confirm(PATIENCE)?;
    let mut limit = 40;
    for (queue, _) in QUEUES {
        fill(&mut session, queue, limit);
    }
    for round in 0..ROUNDS {
        limit -= 8;
        let leader = cluster.leader(0, QUEUES[0].0);
        let victim = if leader == 0 { 1 } else { leader };
        // Now and then just before, now and then just after.
        if round % 2 == 0 {
            set(&cluster, limit);
            cluster.kill(victim);
        } else {
            cluster.kill(victim);
            set(&cluster, limit);
        }
        for (queue, _) in QUEUES {
            await_ready(&cluster, queue, limit);
            // It is no single cut: what comes is bounded too.
            fill(&mut session, queue, 3);
            await_ready(&cluster, queue, limit);
        }
        cluster.start_node(victim);
        cluster.await_whole();
    }
    session.close(PATIENCE)?;
    cluster.kill_all(&[0, 1, 2]);
    for node in 0..3 {
        cluster.spawn(node);
    }
    cluster.await_whole();
    let mut session = Session::open(&cluster.address(2), PATIENCE)?;
    session.confirm(PATIENCE)?;
    for (queue, _) in QUEUES {
        await_ready(&cluster, queue, limit);
        fill(&mut session, queue, 5);
        await_ready(&cluster, queue, limit);
    }
    // A policy that is gone while nobody leads is gone for whoever does.
    cluster.kill(1);
    cluster
        .ctl(0, &["clear_policy", "limit"])
        .expect("two nodes of three are a majority");
    cluster.start_node(1);
    cluster.await_whole();
    for (queue, _) in QUEUES {
        await_some(&format!("{queue} grows again"), 2 * PATIENCE, || {
            let before = ready(&cluster, queue)?;
            fill(&mut session, queue, 1);
            match ready(&cluster, queue)? {
                found if found > before => Ok(()),
                found => Err(format!("there are {found} after {before}")),
            }
        });
    }
    session.close(Duration::from_secs(5))?;
    cluster.finish();
    Ok(())
}
