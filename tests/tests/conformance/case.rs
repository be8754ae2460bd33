//! What every case needs: names of its own, removed afterwards, and short ways to say the usual things.

use std::cell::RefCell;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};
use warren_tests::amqp::{Client, End, Login, plain};

use crate::differences;

/// Whether the broker under test is a RabbitMQ that answers otherwise here, as that row of `differences.md` says.
#[track_caller]
pub(crate) fn differs(row: &str) -> bool {
    assert!(differences::rows().contains(&row), "no row {row} in differences.md");
    std::env::var("WARREN_TEST_PEER").is_ok_and(|peer| peer == "rabbitmq")
}

/// `ours`, or the stock answer from a RabbitMQ, as that row of `differences.md` says.
#[track_caller]
pub(crate) fn ours_or_stock<T>(row: &str, ours: T, stock_answer: T) -> T {
    if differs(row) { stock_answer } else { ours }
}

/// What a command of the operator's tool writes; it must succeed.
#[track_caller]
pub(crate) fn ctl(arguments: &str) -> String {
    match attempt_ctl(arguments) {
        (0, text) => text,
        (status, text) => panic!("{arguments}: status {status}: {text}"),
    }
}

/// What a command of the operator's tool writes when it fails.
#[track_caller]
pub(crate) fn ctl_refused(arguments: &str) -> String {
    match attempt_ctl(arguments) {
        (0, text) => panic!("{arguments}: succeeded: {text}"),
        (_, text) => text,
    }
}

/// Its status, and what it writes.
#[track_caller]
fn attempt_ctl(arguments: &str) -> (i32, String) {
    let ctl = std::env::var("WARREN_TEST_CTL").expect("WARREN_TEST_CTL names the operator's command line");
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{ctl} {arguments}"))
        .output()
        .expect("sh runs");
    let status = output.status.code().expect("it ends by itself");
    let text = [output.stdout, output.stderr].concat();
    (status, String::from_utf8_lossy(&text).into_owned())
}

/// Names that no other case and no other run uses; what bears them is deleted when the case ends.
pub(crate) struct Case {
    prefix: String,
    queues: RefCell<Vec<String>>,
    exchanges: RefCell<Vec<String>>,
}

impl Case {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("the clock is past 1970");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("conf.{:x}.{count}", now.as_millis());
        Self {
            prefix,
            queues: RefCell::default(),
            exchanges: RefCell::default(),
        }
    }

    /// A name for a queue.
    pub(crate) fn queue(&self, label: &str) -> String {
        let name = format!("{}.{label}", self.prefix);
        self.queues.borrow_mut().push(name.clone());
        name
    }

    /// What all names of this case start with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A name for an exchange.
    pub(crate) fn exchange(&self, label: &str) -> String {
        let name = format!("{}.{label}", self.prefix);
        self.exchanges.borrow_mut().push(name.clone());
        name
    }

    /// A durable queue, declared.
    #[track_caller]
    pub(crate) fn declared(&self, client: &mut Client, channel: u16, label: &str) -> String {
        let name = self.queue(label);
        client.call(channel, &durable(&name));
        name
    }

    /// A queue bound to an exchange with a key.
    #[track_caller]
    pub(crate) fn bound(
        &self,
        client: &mut Client,
        channel: u16,
        label: &str,
        exchange: &str,
        routing_key: &str,
    ) -> String {
        let name = self.declared(client, channel, label);
        client.call(channel, &bind(&name, exchange, routing_key));
        name
    }

    /// A durable exchange, declared.
    #[track_caller]
    pub(crate) fn declared_exchange(&self, client: &mut Client, channel: u16, label: &str, kind: &str) -> String {
        let name = self.exchange(label);
        client.call(channel, &exchange(&name, kind));
        name
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let (queues, exchanges) = (self.queues.take(), self.exchanges.take());
        // In a thread of its own: the case may be unwinding already.
        let cleaner = std::thread::spawn(move || {
            let Ok(mut client) = Login::default().attempt() else {
                return;
            };
            let mut channel = client.channel();
            for queue in queues {
                if client
                    .try_call(
                        channel,
                        &QueueDelete {
                            queue,
                            ..Default::default()
                        },
                    )
                    .is_err()
                {
                    channel = client.channel();
                }
            }
            for exchange in exchanges {
                if client
                    .try_call(
                        channel,
                        &ExchangeDelete {
                            exchange,
                            ..Default::default()
                        },
                    )
                    .is_err()
                {
                    channel = client.channel();
                }
            }
        });
        if cleaner.join().is_err() && !std::thread::panicking() {
            panic!("the case's queues and exchanges could not be deleted");
        }
    }
}

pub(crate) fn durable(queue: &str) -> QueueDeclare {
    QueueDeclare {
        queue: queue.into(),
        durable: true,
        ..Default::default()
    }
}

/// A durable queue of a type, with arguments.
pub(crate) fn with(queue: &str, kind: &str, arguments: Table) -> QueueDeclare {
    let mut all = Table::from([("x-queue-type", kind)]);
    all.0.extend(arguments.0);
    QueueDeclare {
        arguments: all,
        ..durable(queue)
    }
}

pub(crate) fn exclusive(queue: &str) -> QueueDeclare {
    QueueDeclare {
        queue: queue.into(),
        exclusive: true,
        ..Default::default()
    }
}

pub(crate) fn passive(queue: &str) -> QueueDeclare {
    QueueDeclare {
        queue: queue.into(),
        passive: true,
        ..Default::default()
    }
}

pub(crate) fn quorum(queue: &str) -> QueueDeclare {
    QueueDeclare {
        arguments: Table::from([("x-queue-type", "quorum")]),
        ..durable(queue)
    }
}

pub(crate) fn exchange(name: &str, kind: &str) -> ExchangeDeclare {
    ExchangeDeclare {
        exchange: name.into(),
        kind: kind.into(),
        durable: true,
        ..Default::default()
    }
}

pub(crate) fn bind(queue: &str, exchange: &str, routing_key: &str) -> QueueBind {
    QueueBind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        ..Default::default()
    }
}

pub(crate) fn unbind(queue: &str, exchange: &str, routing_key: &str) -> QueueUnbind {
    QueueUnbind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        ..Default::default()
    }
}

pub(crate) fn delete(queue: &str) -> QueueDelete {
    QueueDelete {
        queue: queue.into(),
        ..Default::default()
    }
}

pub(crate) fn consume(queue: &str, tag: &str) -> BasicConsume {
    BasicConsume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        ..Default::default()
    }
}

pub(crate) fn prefetch(count: u16) -> BasicQos {
    BasicQos {
        prefetch_count: count,
        ..Default::default()
    }
}

/// Publishes persistent messages straight to a queue and waits until the broker has them all.
#[track_caller]
pub(crate) fn fill(client: &mut Client, queue: &str, bodies: &[&str]) {
    let channel = client.channel();
    client.confirm(channel);
    for body in bodies {
        client.publish(channel, "", queue, &Properties::persistent(), body.as_bytes());
    }
    client.confirmed(channel);
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
}

/// Ready messages and consumers of a queue.
#[track_caller]
pub(crate) fn counts(client: &mut Client, channel: u16, queue: &str) -> (u32, u32) {
    let answer = client.call(channel, &passive(queue));
    (answer.messages, answer.consumers)
}

/// Waits until a queue has so many ready messages.
#[track_caller]
pub(crate) fn until_ready(client: &mut Client, channel: u16, queue: &str, messages: u32) {
    let mut last = 0;
    client.until(&format!("{messages} ready messages in {queue}"), |client| {
        last = counts(client, channel, queue).0;
        (last == messages).then_some(())
    });
}

/// Takes every ready message, in order, acknowledging all.
#[track_caller]
pub(crate) fn drain(client: &mut Client, channel: u16, queue: &str) -> Vec<String> {
    std::iter::from_fn(|| client.get(channel, queue, true))
        .map(|(delivery, _)| delivery.text())
        .collect()
}

pub(crate) fn ack(delivery_tag: u64) -> BasicAck {
    BasicAck {
        delivery_tag,
        multiple: false,
    }
}

/// A connection ended because its virtual host was deleted.
#[track_caller]
pub(crate) fn vhost_deleted(end: End, vhost: &str) {
    let End::Closed(closed) = end else {
        panic!("dropped without a close")
    };
    assert_eq!(closed.code, 320);
    let text = |what: &str| format!("CONNECTION_FORCED - vhost '{vhost}' is {what}");
    let is_down = differs("vhost-deleted") && closed.text == text("down");
    assert!(is_down || closed.text == text("deleted"), "{}", closed.text);
}

/// How long ago that was, at most: brokers' times are whole milliseconds, of which the first is not whole.
pub(crate) fn since(began: Instant) -> Duration {
    began.elapsed() + Duration::from_millis(1)
}

pub(crate) fn in_queue(queue: &str) -> String {
    format!("queue '{queue}' in vhost '/'")
}

pub(crate) fn in_exchange(exchange: &str) -> String {
    format!("exchange '{exchange}' in vhost '/'")
}

/// A user with all rights in a vhost of its own.
pub(crate) struct Account {
    pub(crate) name: String,
}

impl Account {
    pub(crate) fn new(case: &Case) -> Self {
        let name = format!("{}.account", case.prefix());
        ctl(&format!("add_vhost {name}"));
        ctl(&format!("add_user {name} secret"));
        ctl(&format!("set_permissions -p {name} {name} '.*' '.*' '.*'"));
        Self { name }
    }

    pub(crate) fn login(&self, endpoint: usize) -> Login {
        Login {
            endpoint,
            response: plain(&self.name, "secret"),
            vhost: self.name.clone(),
            ..Login::default()
        }
    }
}
