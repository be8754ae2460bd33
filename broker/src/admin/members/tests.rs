use super::*;
use crate::amqp::Table;
use crate::metadata::{Arguments, Placement};

fn led(group: u64, leader: NodeId, replicas: &[NodeId], len: u64) -> Led {
    let arguments = Table::new();
    let queue = Queue {
        group,
        vhost: "/".into(),
        name: format!("q{group}").into(),
        kind: Kind::Quorum,
        durable: true,
        auto_delete: false,
        exclusive_owner: None,
        settings: Arguments::read(Kind::Quorum, &arguments),
        arguments,
        policies: crate::metadata::Applied::default(),
        configured: 0,
        is_delay: false,
        placement: Placement::on(replicas.to_vec(), leader),
    };
    Led {
        queue: Arc::new(queue),
        leader,
        len,
    }
}

fn leaders(led: &[Led]) -> Vec<(u64, NodeId)> {
    let mut leaders: Vec<_> = led.iter().map(|led| (led.queue.group, led.leader)).collect();
    leaders.sort_unstable();
    leaders
}

#[test]
fn leaders_are_spread_and_the_shortest_queues_go() {
    let mut queues: Vec<Led> = (1..=6).map(|group| led(group, 1, &[1, 2, 3], 100 - group)).collect();
    balance(&mut queues, &[1, 2, 3]);
    let moved = leaders(&queues);
    for node in [1, 2, 3] {
        assert_eq!(
            moved.iter().filter(|(_, leader)| *leader == node).count(),
            2,
            "{moved:?}"
        );
    }
    assert_eq!(moved[..2], [(1, 1), (2, 1)], "the longest stay where they are");
}

#[test]
fn only_replicas_on_nodes_that_may_lead_come_into_question() {
    let mut queues = vec![led(1, 1, &[1], 1), led(2, 1, &[1, 4], 1), led(3, 1, &[1, 2], 1)];
    balance(&mut queues, &[1, 2, 3]);
    assert_eq!(leaders(&queues), [(1, 1), (2, 1), (3, 2)]);
}

#[test]
fn a_node_that_drains_leads_nothing_that_others_can_lead() {
    let mut queues = vec![led(1, 3, &[1, 2, 3], 1), led(2, 3, &[3], 1)];
    balance(&mut queues, &[1, 2]);
    assert_eq!(leaders(&queues), [(1, 1), (2, 3)]);
}

#[test]
fn what_is_even_stays_as_it_is() {
    let mut queues: Vec<Led> = (1..=3).map(|group| led(group, group, &[1, 2, 3], 1)).collect();
    balance(&mut queues, &[1, 2, 3]);
    assert_eq!(leaders(&queues), [(1, 1), (2, 2), (3, 3)]);
}
