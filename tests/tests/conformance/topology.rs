//! What the cases run against is what the runner says.

use warren_tests::amqp::{Client, asked_apart, endpoints};

use crate::case::{Case, ctl, quorum};

#[test]
fn queues_are_led_where_the_runner_says() {
    let case = Case::new();
    let mut clients: Vec<Client> = (0..endpoints().len()).map(Client::connect).collect();
    let leaders: Vec<String> = clients
        .iter_mut()
        .enumerate()
        .map(|(node, client)| {
            let (channel, queue) = (client.channel(), case.queue(&format!("from-{node}")));
            client.call(channel, &quorum(&queue));
            let rows = ctl("-q list_queues name leader");
            let row = rows.lines().find_map(|line| line.strip_prefix(&format!("{queue}\t")));
            let leader = row.unwrap_or_else(|| panic!("no {queue} in {rows}"));
            // A RabbitMQ's nodes have their hosts in their names.
            leader.split('@').next().unwrap_or_default().to_owned()
        })
        .collect();
    // Each node leads what was declared on it, or on the one before.
    let first = usize::from(asked_apart());
    let expected: Vec<String> = (0..leaders.len())
        .map(|node| format!("{}", (node + first) % leaders.len() + 1))
        .collect();
    for (leader, number) in leaders.iter().zip(expected) {
        assert!(leader.ends_with(&number), "{leaders:?}");
    }
}
