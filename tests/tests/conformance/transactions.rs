//! Transactions.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};

use crate::case::{Case, ack, consume, counts, delete, differs, drain, durable, fill, prefetch, until_ready, with};

fn transactional(client: &mut Client) -> u16 {
    let channel = client.channel();
    client.call(channel, &TxSelect::default());
    channel
}

#[test]
fn confirms_and_transactions_exclude_each_other() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.call(channel, &ConfirmSelect::default());
    client
        .refused(channel, &TxSelect::default())
        .channel_error::<TxSelect>(406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode");
    let channel = transactional(&mut client);
    client
        .refused(channel, &ConfirmSelect::default())
        .channel_error::<ConfirmSelect>(406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode");
    client.close();
}

#[test]
fn without_a_select_nothing_is_committed() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client
        .refused(channel, &TxCommit::default())
        .channel_error::<TxCommit>(406, "PRECONDITION_FAILED - channel is not transactional");
    let channel = client.channel();
    client
        .refused(channel, &TxRollback::default())
        .channel_error::<TxRollback>(406, "PRECONDITION_FAILED - channel is not transactional");
    client.close();
}

#[test]
fn what_is_published_shows_at_commit_and_not_before() {
    let case = Case::new();
    for kind in ["classic", "quorum"] {
        let mut client = Client::connect(0);
        let (channel, looking) = (transactional(&mut client), client.channel());
        let queue = case.queue(kind);
        client.call(channel, &with(&queue, kind, Table::default()));
        client.publish(channel, "", &queue, &Properties::persistent(), b"one");
        // The answer comes after the publish was handled.
        client.call(channel, &prefetch(0));
        assert_eq!(counts(&mut client, looking, &queue).0, 0);
        // A second select begins nothing anew.
        client.call(channel, &TxSelect::default());
        client.call(channel, &TxCommit::default());
        assert_eq!(counts(&mut client, looking, &queue).0, 1);
        client.publish(channel, "", &queue, &Properties::persistent(), b"two");
        client.call(channel, &TxRollback::default());
        client.call(channel, &TxCommit::default());
        client.publish(channel, "", &queue, &Properties::persistent(), b"three");
        client.publish(channel, "", &queue, &Properties::persistent(), b"");
        client.call(channel, &TxCommit::default());
        assert_eq!(drain(&mut client, looking, &queue), ["one", "three", ""]);
        client.close();
    }
}

#[test]
fn what_is_settled_is_settled_at_commit() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, looking) = (transactional(&mut client), client.channel());
    let queue = case.declared(&mut client, looking, "settled");
    fill(&mut client, &queue, &["1", "2", "3", "4"]);
    client.call(channel, &prefetch(4));
    client.call(channel, &consume(&queue, "t"));
    for number in ["1", "2", "3", "4"] {
        assert_eq!(client.delivery(channel).text(), number);
    }
    fill(&mut client, &queue, &["5"]);
    client.send(channel, &ack(1));
    client.send(
        channel,
        &BasicNack {
            delivery_tag: 2,
            multiple: false,
            requeue: false,
        },
    );
    client.call(channel, &prefetch(4));
    // None of them made room for another.
    assert_eq!(counts(&mut client, looking, &queue).0, 1);
    client.call(channel, &TxCommit::default());
    assert_eq!(client.delivery(channel).text(), "5");
    client.call(
        channel,
        &BasicCancel {
            consumer_tag: "t".into(),
            ..Default::default()
        },
    );
    client.send(
        channel,
        &BasicReject {
            delivery_tag: 4,
            requeue: true,
        },
    );
    client.call(channel, &prefetch(4));
    assert_eq!(counts(&mut client, looking, &queue).0, 0);
    client.call(channel, &TxCommit::default());
    until_ready(&mut client, looking, &queue, 1);
    assert_eq!(drain(&mut client, looking, &queue), ["4"]);
    client.close();
}

#[test]
fn a_rollback_gives_settlements_back_to_the_channel() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, looking) = (transactional(&mut client), client.channel());
    let queue = case.declared(&mut client, looking, "rolled back");
    fill(&mut client, &queue, &["1", "2", "3"]);
    for _ in 0..3 {
        client.get(channel, &queue, false).expect("there are three");
    }
    client.send(
        channel,
        &BasicAck {
            delivery_tag: 2,
            multiple: true,
        },
    );
    client.call(channel, &TxRollback::default());
    // Unsettled, not requeued: their tags hold.
    assert_eq!(counts(&mut client, looking, &queue).0, 0);
    client.send(channel, &ack(2));
    client.call(channel, &TxCommit::default());
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    until_ready(&mut client, looking, &queue, 2);
    assert_eq!(drain(&mut client, looking, &queue), ["1", "3"]);
    client.close();
}

#[test]
fn a_message_is_settled_once_in_a_transaction() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, looking) = (transactional(&mut client), client.channel());
    let queue = case.declared(&mut client, looking, "twice");
    fill(&mut client, &queue, &["1"]);
    client.get(channel, &queue, false).expect("there is one");
    client.send(channel, &ack(1));
    client.send(channel, &ack(1));
    client
        .closed(channel)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 1");
    // What was not committed did not happen.
    until_ready(&mut client, looking, &queue, 1);
    client.close();
}

#[test]
fn a_channel_that_closes_commits_nothing() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, looking) = (transactional(&mut client), client.channel());
    let queue = case.declared(&mut client, looking, "closed");
    fill(&mut client, &queue, &["old"]);
    client.get(channel, &queue, false).expect("there is one");
    client.send(channel, &ack(1));
    client.publish(channel, "", &queue, &Properties::persistent(), b"new");
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    until_ready(&mut client, looking, &queue, 1);
    assert_eq!(drain(&mut client, looking, &queue), ["old"]);
    client.close();
}

#[test]
fn messages_are_routed_when_they_come_and_returned_at_commit() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, looking) = (transactional(&mut client), client.channel());
    let queue = case.queue("late");
    let mandatory = BasicPublish {
        routing_key: queue.clone(),
        mandatory: true,
        ..Default::default()
    };
    client.publish_with(channel, &mandatory, &Properties::persistent(), b"too early");
    client.call(channel, &prefetch(0));
    client.call(looking, &durable(&queue));
    assert!(client.pending(channel).is_empty(), "a return before the commit");
    client.send(channel, &TxCommit::default());
    let (returned, content) = client.expect_content::<BasicReturn>(channel);
    assert_eq!((returned.code, returned.text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(content.text(), "too early");
    client.expect::<TxCommitOk>(channel);
    assert_eq!(counts(&mut client, looking, &queue).0, 0);
    client.publish(channel, "no such exchange", "", &Properties::persistent(), b"");
    client
        .closed(channel)
        .channel_error::<BasicPublish>(404, "NOT_FOUND - no exchange 'no such exchange' in vhost '/'");
    client.close();
}

#[test]
fn a_queue_that_is_deleted_before_the_commit_does_not_hold_it_up() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, looking) = (transactional(&mut client), client.channel());
    let queue = case.declared(&mut client, looking, "deleted");
    client.publish(channel, "", &queue, &Properties::persistent(), b"");
    client.call(channel, &prefetch(0));
    client.call(looking, &delete(&queue));
    if differs("tx-deleted-queue") {
        // Its answer is a term of its own language.
        let closed = client.refused(channel, &TxCommit::default());
        assert_eq!((closed.hard, closed.code), (true, 506));
        return;
    }
    // As with confirms: what a deleted queue would have had is done with.
    client.call(channel, &TxCommit::default());
    client.close();
}

#[test]
fn a_message_that_its_queue_refuses_fails_the_commit() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, looking) = (transactional(&mut client), client.channel());
    let (full, other) = (case.queue("full"), case.declared(&mut client, looking, "other"));
    let arguments = Table(vec![
        ("x-max-length".into(), Value::I32(1)),
        ("x-overflow".into(), "reject-publish".into()),
    ]);
    client.call(looking, &with(&full, "classic", arguments));
    fill(&mut client, &full, &["first"]);
    client.publish(channel, "", &full, &Properties::persistent(), b"refused");
    client.publish(channel, "", &other, &Properties::persistent(), b"taken");
    client
        .refused(channel, &TxCommit::default())
        .channel_error::<TxCommit>(406, "PRECONDITION_FAILED - partial tx completion");
    until_ready(&mut client, looking, &other, 1);
    assert_eq!(drain(&mut client, looking, &full), ["first"]);
    client.close();
}
