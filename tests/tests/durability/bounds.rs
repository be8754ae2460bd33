//! What a node is told not to exceed: channels, consumers, queues, exchanges and virtual hosts.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Table, Value};
use warren_tests::amqp::{Client, End, Login};
use warren_tests::cluster::{Cluster, PATIENCE, await_some, name};

fn login(cluster: &Cluster, node: usize) -> Login {
    Login {
        address: Some(cluster.address(node)),
        ..Login::default()
    }
}

fn queue(name: &str) -> QueueDeclare {
    QueueDeclare {
        queue: name.into(),
        durable: true,
        ..Default::default()
    }
}

fn exchange(name: &str) -> ExchangeDeclare {
    ExchangeDeclare {
        exchange: name.into(),
        kind: "direct".into(),
        durable: true,
        ..Default::default()
    }
}

/// So many channels in one connection.
fn with_channels(cluster: &Cluster, node: usize, channels: usize) -> Client {
    let mut client = login(cluster, node).connect();
    for _ in 0..channels {
        client.channel();
    }
    client
}

#[test]
fn a_node_keeps_to_the_limits_that_it_was_given() {
    let cluster = Cluster::start_with(&[
        ("WARREN_AMQP_CHANNELS_MAX", "3"),
        ("WARREN_AMQP_CONSUMERS_MAX", "1"),
        ("WARREN_AMQP_DEFAULT_QUEUE_TYPE", "quorum"),
        ("WARREN_CLUSTER_QUEUES_MAX", "2"),
        ("WARREN_CLUSTER_EXCHANGES_MAX", "8"),
        ("WARREN_CLUSTER_VHOSTS_MAX", "1"),
    ]);
    // Over all connections of the node, and for each node.
    let one = with_channels(&cluster, 0, 2);
    let mut two = with_channels(&cluster, 0, 1);
    let node = name(0);
    let text =
        format!("NOT_ALLOWED - number of channels opened on node '{node}' has reached the maximum allowed limit of 3");
    two.refused(2, &ChannelOpen::default())
        .connection_error_like(530, &[&text]);
    let mut far = with_channels(&cluster, 1, 3);
    one.close();
    await_some("room for channels again", PATIENCE, || {
        let mut client = login(&cluster, 0).connect();
        match client.try_call(1, &ChannelOpen::default()) {
            Ok(_) => {
                client.call(1, &queue("first"));
                client.close();
                Ok(())
            }
            Err(closed) => Err(closed.text),
        }
    });

    // Named by nobody, the type is the node's; named, it is another one.
    far.call(1, &queue("first"));
    let classic = QueueDeclare {
        arguments: Table::from([("x-queue-type", Value::from("classic"))]),
        ..queue("first")
    };
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'first' in vhost '/': received 'classic' \
                but current is 'quorum'";
    far.refused(1, &classic).channel_error::<QueueDeclare>(406, text);
    far.call(
        2,
        &QueueDeclare {
            arguments: Table::from([("x-queue-type", Value::from("classic"))]),
            ..queue("second")
        },
    );
    let text = "PRECONDITION_FAILED - cannot declare queue 'third': queue limit in cluster (2) is reached";
    far.refused(3, &queue("third")).channel_error::<QueueDeclare>(406, text);
    // What is there can be declared again.
    far.call(2, &queue("first"));

    // Seven are there from the first.
    far.call(2, &exchange("eighth"));
    let channel = far.channel();
    let text = "PRECONDITION_FAILED - cannot declare exchange 'ninth' in vhost '/': exchange limit of 8 is reached";
    far.refused(channel, &exchange("ninth"))
        .channel_error::<ExchangeDeclare>(406, text);
    far.call(2, &exchange("eighth"));

    let refused = cluster.ctl(0, &["add_vhost", "more"]).expect_err("one is enough");
    assert!(
        refused.contains("cannot create vhost 'more': vhost limit of 1 is reached"),
        "{refused}"
    );

    let consume = |tag: &str| BasicConsume {
        queue: "first".into(),
        consumer_tag: tag.into(),
        ..Default::default()
    };
    far.call(2, &consume("one"));
    far.refused(2, &consume("two"))
        .connection_error::<BasicConsume>(530, "NOT_ALLOWED - reached maximum (1) of consumers per channel");
    assert_eq!(login(&cluster, 1).attempt().map(Client::close), Ok::<(), End>(()));
    cluster.finish();
}
