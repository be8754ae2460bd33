//! A node that is short of memory or disk: publishers are held back wherever they are, and go on when it is over.

use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, PATIENCE};

const QUEUE: &str = "alarms";

fn next(session: &mut Session) -> Event {
    session
        .next(PATIENCE)
        .expect("the session goes on")
        .expect("something is said in time")
}

fn check(limits: (&str, &str), reason: &str) {
    let mut cluster = Cluster::start_with(&[]);
    // A publisher here, the shortage there.
    let mut session = Session::open(&cluster.address(0), PATIENCE).expect("a whole cluster serves");
    session.confirm(PATIENCE).expect("a channel takes confirm.select");
    session
        .declare(QUEUE, "quorum", PATIENCE)
        .expect("a whole cluster declares");
    cluster.kill(2);
    cluster.spawn_with(2, &[limits]);
    cluster.await_ready(2);
    // Publishes are taken until the alarm is heard of here.
    loop {
        session.publish(QUEUE, b"message").expect("the session goes on");
        match next(&mut session) {
            Event::Confirmed(_) => {}
            Event::Blocked(text) => {
                assert_eq!(text, reason);
                break;
            }
            other => panic!("to a publisher: {other:?}"),
        }
    }
    // The last one was taken all the same.
    let last = session.published();
    assert_eq!(next(&mut session), confirmed(last));
    session.publish(QUEUE, b"held back").expect("the socket has room");
    cluster.kill(2);
    cluster.start_node(2);
    assert_eq!(next(&mut session), Event::Unblocked);
    assert_eq!(next(&mut session), confirmed(last + 1));
    session.close(PATIENCE).expect("a whole cluster serves");
    cluster.finish();
}

fn confirmed(tag: u64) -> Event {
    Event::Confirmed(Tags { tag, multiple: false })
}

#[test]
fn a_node_low_on_memory_holds_publishers_back() {
    check(("WARREN_LIMITS_MEMORY_HIGH_WATERMARK", "1MB"), "low on memory");
}

#[test]
fn a_node_low_on_disk_holds_publishers_back() {
    check(("WARREN_LIMITS_DISK_FREE_LIMIT", "1000000TB"), "low on disk");
}
