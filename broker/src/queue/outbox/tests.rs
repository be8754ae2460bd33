use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message as _;
use warren_cluster::transport::{OutgoingSnapshot, PeerState, Port, SendError, Transport};
use warren_proto::node::{NodeMessage, node_message::Kind};
use warren_proto::queue::{self, reply::Kind as ReplyKind};

use super::*;
use crate::metadata::View;

#[derive(Default)]
struct Link {
    full: AtomicBool,
    sent: Mutex<Vec<Envelope>>,
}

impl Transport for Link {
    fn send(&self, _: NodeId, envelope: Envelope) -> Result<(), SendError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(SendError::Full(envelope));
        }
        self.sent.lock().expect("one thread").push(envelope);
        Ok(())
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        vec![(2, PeerState::Up { incarnation: 3 })]
    }

    fn send_snapshot(&self, _: NodeId, _: OutgoingSnapshot) {}
}

fn outbox() -> (Arc<Link>, Outbox) {
    let link = Arc::new(Link::default());
    let directory = Arc::new(Directory::new(1, 1, View::new()));
    directory.set_transport(link.clone());
    (link, Outbox::new(7, directory))
}

fn session(id: u64) -> SessionId {
    SessionId {
        node: 2,
        incarnation: 3,
        id,
    }
}

#[test]
fn nothing_overtakes_what_waits_for_the_link() {
    let (link, mut outbox) = outbox();
    let session = session(4);
    let apply = |outbox: &mut Outbox, upto| {
        outbox.add(Effect::Applied { session, upto }, 1, |_| None);
        outbox.pay(|_| None);
        assert!(outbox.flush().is_empty());
    };
    link.full.store(true, Ordering::Relaxed);
    apply(&mut outbox, 1);
    // There is room again, and nobody has said so yet.
    link.full.store(false, Ordering::Relaxed);
    apply(&mut outbox, 2);
    outbox.writable(2);
    apply(&mut outbox, 3);
    let sent = link.sent.lock().expect("one thread");
    let applied = sent.iter().map(|envelope| {
        let events = Events::decode(&envelope.payload.slice(8..)).expect("it was encoded");
        events.applied
    });
    // The third takes the second, which waited by name, with it.
    assert_eq!(applied.collect::<Vec<_>>(), [1, 3]);
}

/// What was sent, as the numbers of deliveries, and 0 for whatever else.
fn sent(link: &Link) -> Vec<u64> {
    let sent = std::mem::take(&mut *link.sent.lock().expect("one thread"));
    let events = sent
        .iter()
        .map(|envelope| Events::decode(&envelope.payload.slice(8..)).expect("it was encoded"));
    let mut numbers = Vec::new();
    for events in events {
        numbers.extend(events.deliveries.iter().map(|delivery| delivery.seq));
        numbers.extend((events.applied > 0).then_some(0));
    }
    numbers
}

#[test]
fn what_a_full_link_has_no_room_for_is_read_when_it_has() {
    let (link, mut outbox) = outbox();
    let deliver = |id, consumer, seq| Effect::Deliver {
        session: session(id),
        consumer,
        delivery_id: seq,
        get_seq: 0,
        seq,
        redelivered: false,
        acquired: 0,
        failed: 0,
        at: Place {
            index: seq,
            offset: 0,
            len: 1 << 20,
        },
    };
    let body = Bytes::from(vec![0; EVENTS_BYTES_MAX + 1]);
    let read = std::cell::RefCell::new(Vec::new());
    let payload = |at: Place| {
        read.borrow_mut().push(at.index);
        (at.index != 5).then(|| body.clone())
    };
    link.full.store(true, Ordering::Relaxed);
    for effect in [
        deliver(4, 1, 1),
        deliver(4, 1, 2),
        deliver(5, 1, 3),
        // The answer to a get may be read now only.
        deliver(4, 0, 4),
        deliver(5, 1, 5),
        Effect::Applied {
            session: session(5),
            upto: 9,
        },
        deliver(4, 1, 6),
    ] {
        outbox.add(effect, 1, payload);
    }
    assert!(outbox.flush().is_empty());
    assert_eq!(read.take(), [1, 4], "the first found the link full");
    assert_eq!(outbox.stalled(), [2, 2]);
    outbox.pay(payload);
    assert!(read.take().is_empty(), "there is no room yet");

    // It will have its deliveries anew.
    outbox.asked_again(session(4));
    link.full.store(false, Ordering::Relaxed);
    outbox.writable(2);
    assert!(outbox.can_pay());
    outbox.pay(payload);
    assert!(outbox.flush().is_empty());
    assert_eq!(read.take(), [3, 5]);
    assert_eq!(sent(&link), [1, 3, 4, 0], "and without the one that is gone");
    assert!(!outbox.can_pay() && outbox.stalled().is_empty());

    // With the link goes what waits for it.
    link.full.store(true, Ordering::Relaxed);
    for seq in 10..12 {
        outbox.add(deliver(4, 1, seq), 1, payload);
    }
    outbox.reset(2);
    link.full.store(false, Ordering::Relaxed);
    outbox.writable(2);
    outbox.pay(payload);
    assert!(outbox.flush().is_empty() && sent(&link).is_empty());
}

/// The terms in which a node was told that this one leads the queue.
fn told(link: &Link) -> Vec<u64> {
    let sent = std::mem::take(&mut *link.sent.lock().expect("one thread"));
    let messages = sent.iter().filter(|envelope| envelope.port == Port::NODE);
    let kinds = messages.map(|envelope| {
        NodeMessage::decode(envelope.payload.clone())
            .expect("it was encoded")
            .kind
    });
    kinds
        .map(|kind| match kind {
            Some(Kind::LeaderIs(is)) => {
                assert_eq!((is.group, is.leader), (7, 1));
                is.term
            }
            other => panic!("told {other:?}"),
        })
        .collect()
}

#[test]
fn a_node_is_told_who_leads_once_its_link_has_room() {
    let (link, mut outbox) = outbox();
    outbox.tell(2);
    assert!(told(&link).is_empty(), "a follower has nothing to say");
    link.full.store(true, Ordering::Relaxed);
    outbox.lead((0, 5));
    link.full.store(false, Ordering::Relaxed);
    outbox.writable(3);
    assert!(told(&link).is_empty());
    outbox.writable(2);
    assert_eq!(told(&link), [5]);
    outbox.writable(2);
    assert!(told(&link).is_empty());
    // What it was told is lost with the link.
    outbox.tell(2);
    assert_eq!(told(&link), [5]);
    link.full.store(true, Ordering::Relaxed);
    outbox.tell(2);
    outbox.abdicate();
    link.full.store(false, Ordering::Relaxed);
    outbox.writable(2);
    assert!(told(&link).is_empty(), "another may lead by now");
}

#[test]
fn who_deletes_the_queue_is_answered_before_it_is_gone() {
    let (link, mut outbox) = outbox();
    let reply = || Effect::Reply {
        session: session(4),
        seq: 1,
        reply: queue::Reply {
            kind: Some(ReplyKind::Deleted(queue::Deleted { count: 5 })),
        },
    };
    outbox.add(reply(), 1, |_| None);
    outbox.add(Effect::Gone, 1, |_| None);
    assert!(!outbox.take_ended(), "the answer is not sent");
    assert!(outbox.flush().is_empty());
    assert_eq!(link.sent.lock().expect("one thread").len(), 1);
    assert!(outbox.take_ended());
    assert!(!outbox.take_ended(), "once");

    link.full.store(true, Ordering::Relaxed);
    outbox.add(reply(), 1, |_| None);
    outbox.add(Effect::Gone, 1, |_| None);
    assert!(outbox.flush().is_empty());
    assert!(!outbox.take_ended(), "the answer waits for the link");
    link.full.store(false, Ordering::Relaxed);
    outbox.writable(2);
    assert!(outbox.take_ended());
}
