//! How many connections, channels and queues a vhost or a user may have, over all nodes.

use std::ops::Deref;

use warren_tests::amqp::method::*;
use warren_tests::amqp::{Client, End};

use crate::case::{Account, Case, ctl, ctl_refused, durable};

/// An account that goes with its test, vhost and all.
struct Tenant(Account);

impl Deref for Tenant {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.0
    }
}

impl Tenant {
    fn new(case: &Case) -> Self {
        Self(Account::new(case))
    }

    #[track_caller]
    fn refused(&self, endpoint: usize, text: &str) {
        let End::Closed(closed) = self.login(endpoint).refused() else {
            panic!("dropped without a close")
        };
        closed.connection_error::<ConnectionOpen>(530, &format!("NOT_ALLOWED - {text}"));
    }

    /// Waits until the last connection that was closed no longer counts.
    fn connect_again(&self, endpoint: usize) -> Client {
        let mut other = Client::connect(endpoint);
        let client = other.until("a closed connection counts no longer", |_| {
            self.login(endpoint).attempt().ok()
        });
        other.close();
        client
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ctl(&format!("delete_vhost {}", self.name));
            ctl(&format!("delete_user {}", self.name));
        }
    }
}

#[test]
fn a_vhost_has_so_many_connections() {
    let case = Case::new();
    let tenant = Tenant::new(&case);
    let name = &tenant.name;
    let first = tenant.login(0).connect();
    ctl(&format!(r#"set_vhost_limits -p {name} '{{"max-connections":2}}'"#));
    let second = tenant.login(1).connect();
    let text = format!("access to vhost '{name}' refused for user '{name}': connection limit (2) is reached");
    for endpoint in 0..3 {
        tenant.refused(endpoint, &text);
    }
    first.close();
    let third = tenant.connect_again(2);
    assert!(ctl(&format!("-q list_vhost_limits -p {name}")).contains(r#"{"max-connections":2}"#));
    ctl(&format!("clear_vhost_limits -p {name}"));
    let fourth = tenant.login(2).connect();
    ctl(&format!(r#"set_vhost_limits -p {name} '{{"max-connections":0}}'"#));
    tenant.refused(0, &text.replace("(2)", "(0)"));
    ctl(&format!(r#"set_vhost_limits -p {name} '{{"max-connections":-1}}'"#));
    let fifth = tenant.login(0).connect();
    for client in [second, third, fourth, fifth] {
        client.close();
    }
}

#[test]
fn a_vhost_has_so_many_queues() {
    let case = Case::new();
    let tenant = Tenant::new(&case);
    let name = &tenant.name;
    ctl(&format!(r#"set_vhost_limits -p {name} '{{"max-queues":2}}'"#));
    let (mut one, mut two) = (tenant.login(0).connect(), tenant.login(1).connect());
    let (channel, other) = (one.channel(), two.channel());
    one.call(channel, &durable("first"));
    two.call(other, &durable("second"));
    let text = |queue: &str| {
        format!("PRECONDITION_FAILED - cannot declare queue '{queue}': queue limit in vhost '{name}' (2) is reached")
    };
    one.refused(channel, &durable("third"))
        .channel_error::<QueueDeclare>(406, &text("third"));
    // Those that are there can be declared again, and make room when they go.
    two.call(other, &durable("first"));
    let delete = QueueDelete {
        queue: "first".into(),
        ..Default::default()
    };
    two.call(other, &delete);
    let channel = one.channel();
    one.call(channel, &durable("third"));
    one.close();
    two.close();
}

#[test]
fn a_user_has_so_many_connections() {
    let case = Case::new();
    let tenant = Tenant::new(&case);
    let name = &tenant.name;
    ctl(&format!(r#"set_user_limits {name} '{{"max-connections":1}}'"#));
    let first = tenant.login(2).connect();
    let text = format!("connection refused for user '{name}': user connection limit (1) is reached");
    for endpoint in 0..3 {
        tenant.refused(endpoint, &text);
    }
    first.close();
    tenant.connect_again(1).close();
    ctl(&format!("clear_user_limits {name} max-connections"));
    let (one, two) = (tenant.login(0).connect(), tenant.login(0).connect());
    one.close();
    two.close();
}

#[test]
fn a_user_has_so_many_channels() {
    let case = Case::new();
    let tenant = Tenant::new(&case);
    let name = &tenant.name;
    ctl(&format!(r#"set_user_limits {name} '{{"max-channels":2}}'"#));
    let (mut one, mut two) = (tenant.login(0).connect(), tenant.login(1).connect());
    let (channel, _) = (one.channel(), two.channel());
    let refused = two.refused(2, &ChannelOpen::default());
    let text = format!(
        "NOT_ALLOWED - number of channels opened for user '{name}' has reached the maximum allowed user limit of 2"
    );
    assert_eq!((refused.code, refused.text), (530, text));
    one.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    // The other's channel went with its connection.
    let mut two = tenant.connect_again(2);
    two.channel();
    assert!(ctl(&format!("-q list_user_limits --user {name}")).contains(r#"{"max-channels":2}"#));
    ctl(&format!("clear_user_limits {name} all"));
    for _ in 0..3 {
        one.channel();
    }
    one.close();
    two.close();
}

#[test]
fn a_bad_limit_is_refused() {
    let case = Case::new();
    let tenant = Tenant::new(&case);
    let name = &tenant.name;
    for definition in [r#"{"max-apples":1}"#, r#"{"max-queues":"many"}"#, "{", "[]"] {
        ctl_refused(&format!("set_vhost_limits -p {name} '{definition}'"));
    }
    ctl_refused(&format!(r#"set_user_limits {name} '{{"max-queues":1}}'"#));
    ctl_refused(r#"set_user_limits nobody.at.all '{"max-channels":1}'"#);
    ctl_refused(r#"set_vhost_limits -p nowhere.at.all '{"max-queues":1}'"#);
    let mut client = tenant.login(0).connect();
    let channel = client.channel();
    client.call(channel, &durable("free"));
    client.close();
}
