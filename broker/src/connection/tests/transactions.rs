use bytes::{Bytes, BytesMut};

use super::harness::{Broker, declare, put_publish, short};
use crate::amqp::{Method, Properties};

/// A client with a queue `q` and a channel in tx mode.
fn begun(broker: &mut Broker) -> usize {
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    assert_eq!(broker.call(at, 1, &Method::TxSelect {}), [Method::TxSelectOk {}]);
    at
}

fn get() -> Method {
    Method::BasicGet {
        queue: short("q"),
        no_ack: false,
    }
}

fn ack(delivery_tag: u64) -> Method {
    Method::BasicAck {
        delivery_tag,
        multiple: false,
    }
}

/// The transaction of a client has acknowledged the only message of `q`.
fn settling() -> (Broker, usize) {
    let mut broker = Broker::new();
    let at = begun(&mut broker);
    broker.publish(at, 1, "", "q", b"1");
    broker.call(at, 1, &Method::TxCommit {});
    broker.call(at, 1, &get());
    broker.call(at, 1, &ack(1));
    (broker, at)
}

fn partial(method: &Method) -> bool {
    matches!(method, Method::ChannelClose { reply_text, .. } if reply_text.ends_with("partial tx completion"))
}

#[test]
fn commit_ok_waits_for_the_queue() {
    let mut broker = Broker::new();
    let at = begun(&mut broker);
    broker.publish(at, 1, "", "q", b"1");
    assert_eq!(broker.stats("q").ready, 0);
    broker.wire.is_full = true;
    assert_eq!(broker.call(at, 1, &Method::TxCommit {}), []);
    // What comes behind the commit waits for it.
    assert_eq!(broker.call(at, 1, &Method::TxSelect {}), []);
    broker.wire.is_full = false;
    broker.tick(20);
    assert_eq!(
        broker.clients[at].methods(),
        [Method::TxCommitOk {}, Method::TxSelectOk {}]
    );
    assert_eq!(broker.stats("q").ready, 1);
}

#[test]
fn commit_ok_waits_for_what_is_settled() {
    let (mut broker, at) = settling();
    assert_eq!(broker.stats("q").unacked, 1);
    broker.wire.is_full = true;
    assert_eq!(broker.call(at, 1, &Method::TxCommit {}), []);
    broker.wire.is_full = false;
    broker.tick(20);
    assert_eq!(broker.clients[at].methods(), [Method::TxCommitOk {}]);
    assert_eq!(broker.stats("q").unacked, 0);
}

#[test]
fn a_commit_survives_changes_of_leaders() {
    let mut broker = Broker::new();
    let at = begun(&mut broker);
    broker.publish(at, 1, "", "q", b"1");
    broker.wire.is_full = true;
    broker.call(at, 1, &Method::TxCommit {});
    broker.wire.is_full = false;
    let core = &mut broker.clients[at].core;
    core.begin(20);
    core.on_tick();
    assert!(broker.turn(), "the commit is on its way");
    broker.change_leaders();
    broker.run();
    assert_eq!(broker.clients[at].methods(), [Method::TxCommitOk {}]);
    assert_eq!(broker.stats("q").ready, 1);
}

#[test]
fn a_commit_that_no_queue_takes_fails_in_time() {
    let mut broker = Broker::new();
    let at = begun(&mut broker);
    broker.publish(at, 1, "", "q", b"1");
    broker.wire.is_full = true;
    broker.call(at, 1, &Method::TxCommit {});
    broker.tick(29_000);
    assert_eq!(broker.clients[at].methods(), []);
    broker.tick(1_000);
    let heard = broker.clients[at].methods();
    assert!(matches!(heard.as_slice(), [close] if partial(close)), "{heard:?}");
}

#[test]
fn a_queue_deleted_during_the_commit_does_not_hold_it_up() {
    let mut broker = Broker::new();
    let at = begun(&mut broker);
    broker.publish(at, 1, "", "q", b"1");
    broker.wire.is_full = true;
    broker.call(at, 1, &Method::TxCommit {});
    let group = broker.view.queue("/", "q").expect("it is declared").group;
    broker.change(crate::metadata::Change::DeleteQueue { group });
    broker.run();
    assert_eq!(broker.clients[at].methods(), [Method::TxCommitOk {}]);
}

#[test]
fn open_transactions_hold_so_much_and_no_more() {
    const BODY: usize = 1_000;
    let mut broker = Broker::new();
    broker.limits.transaction_bytes_max = 10 * (BODY + 300);
    let at = begun(&mut broker);
    let body = Bytes::from(vec![b'.'; BODY]);
    let mut bytes = BytesMut::new();
    for _ in 0..10 {
        put_publish(&mut bytes, 1, "", "q", false, &Properties::default(), &body);
    }
    // Both ends of a transaction make room for the next.
    for end in [Method::TxRollback {}, Method::TxCommit {}, Method::TxCommit {}] {
        broker.bytes(at, &bytes);
        let heard = broker.call(at, 1, &end);
        assert!(matches!(
            heard.as_slice(),
            [Method::TxCommitOk {} | Method::TxRollbackOk {}]
        ));
    }
    assert_eq!(broker.stats("q").ready, 20);
    broker.bytes(at, &bytes);
    broker.publish(at, 1, "", "q", &body);
    let heard = broker.clients[at].methods();
    assert!(
        matches!(heard.as_slice(), [Method::ChannelClose { reply_code: 406, .. }]),
        "{heard:?}"
    );
    // So does the end of its channel.
    broker.send(at, 1, &Method::ChannelCloseOk {});
    broker.send(at, 1, &Method::ChannelOpen {});
    broker.send(at, 1, &Method::TxSelect {});
    broker.bytes(at, &bytes);
    broker.clients[at].heard.clear();
    assert_eq!(broker.call(at, 1, &Method::TxCommit {}), [Method::TxCommitOk {}]);
    assert_eq!(broker.stats("q").ready, 30);
}

#[test]
fn an_ended_channel_gives_back_what_it_had_settled() {
    let (mut broker, at) = settling();
    broker.call(at, 1, &ack(1));
    assert_eq!((broker.stats("q").ready, broker.stats("q").unacked), (1, 0));
}
