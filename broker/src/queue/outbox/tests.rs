use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use warren_cluster::transport::{OutgoingSnapshot, PeerState, SendError, Transport};

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
        Vec::new()
    }

    fn send_snapshot(&self, _: NodeId, _: OutgoingSnapshot) {}
}

#[test]
fn nothing_overtakes_what_waits_for_the_link() {
    let link = Arc::new(Link::default());
    let directory = Arc::new(Directory::new(1, 1, View::new()));
    directory.set_transport(link.clone());
    let mut outbox = Outbox::new(7, directory);
    let session = SessionId {
        node: 2,
        incarnation: 3,
        id: 4,
    };
    let apply = |outbox: &mut Outbox, upto| {
        outbox.add(Effect::Applied { session, upto }, 1, |_| None);
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
    assert_eq!(applied.collect::<Vec<_>>(), [1, 2, 3]);
}
