use super::inbound::WAITING_BYTES_MAX;
use super::*;

/// Keeps what it is given, and has room for so many messages.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<Inbound>>>);

impl std::fmt::Debug for Inbound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a message")
    }
}

impl Mailbox<Inbound> for Kept {
    fn offer(&self, message: Inbound) -> Result<(), Refused> {
        self.always(message);
        Ok(())
    }

    fn always(&self, message: Inbound) {
        self.0.lock().expect("one thread").push(message);
    }
}

fn session(node: NodeId, incarnation: u64) -> SessionId {
    SessionId {
        node,
        incarnation,
        id: 1,
    }
}

#[test]
fn bytes_that_wait_for_an_actor_are_bounded() {
    let directory = Directory::new(1, 1, View::new());
    let kept = Kept::default();
    directory.register(7, kept.clone());
    let mailbox = directory.mailbox(7).expect("it was registered");
    let large = Bytes::from(vec![0; WAITING_BYTES_MAX / 4 + 1]);
    for _ in 0..3 {
        assert_eq!(mailbox.offer(Inbound::batch(2, large.clone())), Ok(()));
    }
    assert_eq!(mailbox.offer(Inbound::batch(2, large.clone())), Err(Refused::Full));
    let sent = directory.send(7, &Leader::Local(mailbox.clone()), large.clone());
    assert_eq!(sent, Err(NotSent::Full), "its session sends it again");
    // The other kind has room of its own, and what must not be lost always comes in.
    assert_eq!(mailbox.offer(Inbound::raft(large.clone())), Ok(()));
    assert_eq!(mailbox.offer(Inbound::LinkReset(2)), Ok(()));
    kept.0.lock().expect("one thread").remove(0);
    assert_eq!(mailbox.offer(Inbound::batch(2, large)), Ok(()), "one was taken out");
    kept.0.lock().expect("one thread").clear();
    let huge = Bytes::from(vec![0; WAITING_BYTES_MAX + 1]);
    assert_eq!(mailbox.offer(Inbound::batch(2, huge)), Ok(()), "it would never fit");
}

#[test]
fn an_actor_of_a_queue_that_is_gone_ends() {
    let directory = Directory::new(1, 1, View::new());
    let kept = Kept::default();
    directory.register_queue(7, kept.clone());
    assert!(directory.mailbox(7).is_none());
    let kept = kept.0.lock().expect("one thread");
    assert!(matches!(kept[..], [Inbound::Stop { delete: true }]));
}

#[test]
fn runs_end_for_good_or_until_they_are_back() {
    let directory = Directory::new(1, 1, View::new());
    assert!(!directory.has_ended(session(2, 5)));
    directory.run_concluded(2, 5);
    assert!(directory.has_ended(session(2, 5)) && directory.has_ended(session(2, 4)));
    assert!(!directory.has_ended(session(2, 6)) && !directory.has_ended(session(3, 5)));
    directory.run_returned(2, 5, 0);
    assert!(!directory.has_ended(session(2, 5)) && directory.has_ended(session(2, 4)));
    directory.run_ended(2, 5);
    directory.run_returned(2, 5, 0);
    assert!(directory.has_ended(session(2, 5)), "the word of its return was late");
}

#[test]
fn whoever_was_given_up_leads_no_more_whatever_its_term() {
    let directory = Directory::new(1, 1, View::new());
    directory.watch(7, session(1, 1));
    let led_by = |directory: &Directory| match directory.watch(7, session(1, 1)) {
        Leader::Remote(node) => Some(node),
        Leader::Local(_) | Leader::Unknown => None,
    };
    directory.leader_is(7, (0, 9), Some(2));
    assert_eq!(led_by(&directory), Some(2));
    directory.leader_is(7, (0, 8), Some(3));
    assert_eq!(led_by(&directory), Some(2), "it leads in an earlier term");
    directory.leader_is(7, (4, 6), Some(3));
    directory.leader_is(7, (0, 10), Some(2));
    assert_eq!(led_by(&directory), Some(3));
    // A build that does not say which decision is obeyed.
    directory.hear_leader(7, None, 5, Some(2));
    assert_eq!(led_by(&directory), Some(3));
    directory.hear_leader(7, None, 7, Some(2));
    assert_eq!(led_by(&directory), Some(2));
}

#[test]
fn sessions_of_a_run_that_was_counted_as_ended_do_not_come_back_with_it() {
    let directory = Directory::new(1, 1, View::new());
    let numbered = |incarnation, id| SessionId {
        id,
        ..session(2, incarnation)
    };
    directory.run_returned(2, 5, 0);
    assert!(!directory.has_ended(numbered(5, 1)));
    directory.run_concluded(2, 5);
    directory.run_returned(2, 5, 4);
    assert!(directory.has_ended(numbered(5, 3)) && !directory.has_ended(numbered(5, 4)));
    directory.run_returned(2, 5, 0);
    assert!(directory.has_ended(numbered(5, 3)), "an earlier word of it was late");
    directory.run_returned(2, 6, 0);
    directory.run_concluded(2, 5);
    assert!(directory.has_ended(numbered(5, 4)) && !directory.has_ended(numbered(6, 1)));
}
