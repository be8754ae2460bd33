//! The queue of one link: its bounds, its lives, and what long payloads become.

use super::*;

fn envelope(to: u64, len: usize) -> Envelope {
    Envelope {
        port: Port::RAFT,
        to,
        payload: Bytes::from(vec![u8::try_from(to % 251).unwrap_or(0); len]),
    }
}

fn take(queue: &Queue, life: &Life) -> Option<Batch> {
    match queue.try_take(life) {
        Taken::Batch(batch) => Some(batch),
        Taken::Nothing | Taken::Ended => None,
    }
}

#[test]
fn full_by_count_and_by_bytes_hands_the_envelope_back() {
    let queue = Queue::new(10_000, 3);
    queue.open();
    for to in 0..3 {
        queue.push(envelope(to, 10)).expect("room for three");
    }
    let back = queue.push(envelope(3, 10)).expect_err("full by count").into_envelope();
    assert_eq!(back, envelope(3, 10));
    let queue = Queue::new(10_000, 100);
    queue.open();
    queue.push(envelope(1, 5_000)).expect("half");
    queue.push(envelope(2, 4_800)).expect("the other half");
    assert!(matches!(queue.push(envelope(3, 100)), Err(SendError::Full(_))));
    assert_eq!(queue.counters().refused, 1);
    assert_eq!(queue.counters().queued_bytes, 9_800);
}

#[test]
fn one_that_is_larger_than_the_bound_fits_into_an_empty_queue() {
    let queue = Queue::new(1_000, 10);
    queue.open();
    queue.push(envelope(1, 5_000)).expect("empty");
    assert!(matches!(queue.push(envelope(2, 1)), Err(SendError::Full(_))));
}

#[test]
fn little_is_taken_without_a_link() {
    let queue = Queue::new(64 << 20, 65_536);
    let taken = (0..).take_while(|to| queue.push(envelope(*to, 10)).is_ok()).count();
    assert_eq!(taken, CLOSED_LEN_MAX);
    queue.open();
    queue.push(envelope(0, 10)).expect("the link is open");
}

#[test]
fn room_is_told_once_after_a_refusal() {
    let queue = Queue::new(4 << 20, 100_000);
    let life = queue.open();
    let mut to = 0;
    while queue.push(envelope(to, 100_000)).is_ok() {
        to += 1;
    }
    let told: Vec<bool> = std::iter::from_fn(|| take(&queue, &life))
        .map(|batch| batch.writable)
        .collect();
    assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
    assert!(!told[0], "half must have gone first");
}

#[test]
fn a_reset_drops_what_waits_and_ends_the_life() {
    let queue = Queue::new(1_000, 10);
    let life = queue.open();
    queue.push(envelope(1, 10)).expect("room");
    queue.reset();
    assert!(matches!(queue.try_take(&life), Taken::Ended));
    queue.push(envelope(2, 10)).expect("room");
    assert!(!queue.end(&life), "it has ended already");
    let life = queue.open();
    let batch = take(&queue, &life).expect("what came after the reset");
    assert_eq!(
        batch.envelopes.iter().map(|envelope| envelope.to).collect::<Vec<_>>(),
        [2]
    );
    assert!(queue.end(&life));
    assert_eq!(queue.counters().resets, 2);
}

async fn waits<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    tokio::select! {
        biased;
        _ready = future => false,
        () = std::future::ready(()) => true,
    }
}

#[tokio::test]
async fn a_stream_left_behind_steals_no_wake_up() {
    let queue = Arc::new(Queue::new(1_000, 10));
    let old = queue.open();
    let mut left_behind = Box::pin(queue.take(&old));
    assert!(waits(&mut left_behind).await);
    queue.reset();
    let life = queue.open();
    let mut current = Box::pin(queue.take(&life));
    assert!(waits(&mut current).await);
    queue.push(envelope(1, 1)).expect("room");
    let batch = current.await.expect("the life goes on");
    assert_eq!(batch.envelopes.len(), 1);
    assert!(left_behind.await.is_none());
}

#[test]
fn payloads_of_any_length_arrive_whole_in_batches_that_are_bounded() {
    let lens = [
        0,
        1,
        100,
        BATCH_LEN - 1,
        BATCH_LEN,
        BATCH_LEN + 1,
        3,
        3 * BATCH_LEN + 17,
        0,
        BATCH_LEN / 2,
        7,
    ];
    let queue = Queue::new(64 << 20, 65_536);
    let life = queue.open();
    for (to, len) in lens.iter().enumerate() {
        queue.push(envelope(to as u64, *len)).expect("room");
    }
    let mut joiner = Joiner::default();
    let mut arrived = Vec::new();
    while let Some(batch) = take(&queue, &life) {
        let bytes: usize = batch.envelopes.iter().map(|piece| piece.payload.len()).sum();
        assert!(bytes <= BATCH_LEN, "{bytes}");
        for piece in batch.envelopes {
            arrived.extend(joiner.join(piece).expect("pieces in order"));
        }
    }
    let sent: Vec<Envelope> = lens
        .iter()
        .enumerate()
        .map(|(to, len)| envelope(to as u64, *len))
        .collect();
    assert!(arrived == sent, "something was changed on the way");
    assert_eq!(queue.counters().queued_bytes, 0);
    assert_eq!(queue.counters().sent, lens.len() as u64);
}

#[test]
fn pieces_that_do_not_fit_are_refused() {
    let piece = |to: u64, len: usize, rest: u64| wire::Envelope {
        port: 1,
        to,
        payload: Bytes::from(vec![0; len]),
        rest,
    };
    let check = |pieces: &[wire::Envelope]| {
        let mut joiner = Joiner::default();
        let (last, before) = pieces.split_last().expect("some pieces");
        for piece in before {
            assert_eq!(joiner.join(piece.clone()), Ok(None));
        }
        assert_eq!(joiner.join(last.clone()), Err(Unfitting));
    };
    check(&[piece(1, 10, PAYLOAD_LEN_MAX as u64)]);
    check(&[piece(1, 10, u64::MAX)]);
    check(&[piece(1, 0, 10)]);
    check(&[piece(1, 10, 10), piece(2, 10, 0)]);
    check(&[piece(1, 10, 10), piece(1, 11, 0)]);
    check(&[piece(1, 10, 10), piece(1, 5, 4)]);
    check(&[piece(1, 10, 10), piece(1, 0, 10)]);
}
