//! Users while they are connected: in whose name they publish, secrets that change, and what ends with them.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};
use warren_tests::amqp::{Client, End, Login, endpoints, plain};

use crate::case::{Account, Case, consume, ctl, ctl_refused, durable, ours_or_stock, vhost_deleted};

#[track_caller]
fn forced(mut client: Client, reason: &str) {
    let End::Closed(closed) = client.ended() else {
        panic!("dropped without a close")
    };
    let text = format!("CONNECTION_FORCED - {reason}");
    assert_eq!((closed.hard, closed.code, closed.text), (true, 320, text));
}

fn as_user(name: &str) -> Properties {
    Properties {
        user_id: Some(name.into()),
        ..Properties::default()
    }
}

#[test]
fn a_message_names_nobody_else_as_its_user() {
    let case = Case::new();
    let account = Account::new(&case);
    let name = &account.name;
    let mut client = account.login(1).connect();
    let channel = client.channel();
    client.confirm(channel);
    client.publish(channel, "amq.fanout", "", &as_user(name), b"mine");
    client.confirmed(channel);
    client.publish(channel, "amq.fanout", "", &as_user("somebody"), b"not mine");
    let text = format!("PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was '{name}'");
    client.closed(channel).channel_error::<BasicPublish>(406, &text);
    client.close();
    ctl(&format!("set_user_tags {name} impersonator"));
    let mut client = account.login(1).connect();
    let channel = client.channel();
    client.confirm(channel);
    client.publish(channel, "amq.fanout", "", &as_user("somebody"), b"allowed");
    client.confirmed(channel);
    client.close();
    ctl(&format!("delete_vhost {name}"));
    ctl(&format!("delete_user {name}"));
}

#[test]
fn connections_end_with_their_user_and_with_their_vhost() {
    let case = Case::new();
    let account = Account::new(&case);
    let name = &account.name;
    let other = format!("{name}.other");
    ctl(&format!("add_user {other} secret"));
    ctl(&format!("set_permissions -p {name} {other} '.*' '.*' '.*'"));
    let logins = (account.login(0), account.login(2));
    let (one, two) = (logins.0.connect(), logins.1.connect());
    let theirs = Login {
        response: plain(&other, "secret"),
        ..account.login(1)
    };
    let theirs = theirs.connect();
    // Another password or another tag ends nothing.
    ctl(&format!("change_password {name} another"));
    ctl(&format!("set_user_tags {name} monitoring"));
    let mut one = one;
    one.channel();
    ctl(&format!("delete_user {name}"));
    forced(one, &format!("user '{name}' is deleted"));
    let elsewhere = "broker forced connection closure with reason 'shutdown'".to_owned();
    let deleted = format!("user '{name}' is deleted");
    let reason = if endpoints().len() > 1 {
        ours_or_stock("user-deleted-elsewhere", deleted, elsewhere)
    } else {
        deleted
    };
    forced(two, &reason);
    let mut theirs = theirs;
    theirs.channel();
    ctl(&format!("delete_vhost {name}"));
    vhost_deleted(theirs.ended(), name);
    ctl(&format!("delete_user {other}"));
}

#[test]
fn a_new_secret_is_when_rights_are_looked_at_again() {
    let case = Case::new();
    let account = Account::new(&case);
    let name = &account.name;
    let mut client = account.login(1).connect();
    let channel = client.channel();
    client.call(channel, &durable("kept"));
    client.call(channel, &durable("lost"));
    for queue in ["kept", "lost"] {
        client.call(channel, &consume(queue, queue));
    }
    ctl(&format!("set_permissions -p {name} {name} '.*' '.*' '^kept'"));
    let update = ConnectionUpdateSecret {
        secret: b"another".to_vec(),
        reason: "rotation".into(),
    };
    client.call(0, &update);
    assert_eq!(client.expect::<BasicCancel>(channel).consumer_tag, "lost");
    let filling = client.channel();
    client.publish(filling, "", "kept", &Properties::default(), b"still");
    assert_eq!(client.delivery(channel).text(), "still");
    ctl(&format!("clear_permissions -p {name} {name}"));
    client.send(0, &update);
    let End::Closed(closed) = client.ended() else {
        panic!("dropped without a close")
    };
    let text = format!("NOT_ALLOWED - access to vhost '{name}' refused for user '{name}'");
    assert_eq!((closed.hard, closed.code, closed.text), (true, 530, text));
    ctl(&format!("delete_vhost {name}"));
    ctl(&format!("delete_user {name}"));
}

#[test]
fn a_channel_tells_what_its_transaction_holds() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "queue");
    crate::case::fill(&mut client, &queue, &["one", "two"]);
    client.call(channel, &TxSelect::default());
    for _ in 0..3 {
        client.publish(channel, "", &queue, &Properties::default(), b"held");
    }
    for _ in 0..2 {
        let (taken, _) = client.get(channel, &queue, false).expect("it was filled");
        client.send(channel, &crate::case::ack(taken.tag));
    }
    // Answered after all of these.
    client.call(channel, &crate::case::prefetch(0));
    let columns = "transactional messages_uncommitted acks_uncommitted";
    let told = |expected: &str| {
        let rows = ctl(&format!("-q list_channels {columns}"));
        assert_eq!(rows.lines().filter(|row| *row == expected).count(), 1, "{rows}");
    };
    told("true\t3\t2");
    client.call(channel, &TxCommit::default());
    assert!(!ctl(&format!("-q list_channels {columns}")).contains("true\t3\t2"));
    client.close();
}

#[test]
fn a_protected_vhost_stays_until_the_protection_is_lifted() {
    let case = Case::new();
    let account = Account::new(&case);
    let name = &account.name;
    let row = |is_protected: bool| format!("{name}\t{is_protected}");
    for protect in [
        format!("enable_vhost_deletion_protection {name}"),
        format!("update_vhost_metadata {name} --protected-from-deletion=true"),
    ] {
        ctl(&protect);
        let listed = ctl("-q list_vhosts name protected_from_deletion");
        assert!(listed.lines().any(|line| line == row(true)), "{listed}");
        let text = ctl_refused(&format!("delete_vhost {name}"));
        let reason = "Cannot delete this virtual host: it is protected from deletion. To lift the protection, inspect \
                      and update its metadata";
        assert!(text.contains(reason), "{text}");
        // It goes on, and other metadata changes.
        account.login(1).connect().close();
        ctl(&format!("update_vhost_metadata {name} --description kept"));
        ctl_refused(&format!("delete_vhost {name}"));
        ctl(&format!("disable_vhost_deletion_protection {name}"));
        let listed = ctl("-q list_vhosts name protected_from_deletion");
        assert!(listed.lines().any(|line| line == row(false)), "{listed}");
    }
    ctl_refused("enable_vhost_deletion_protection nowhere.at.all");
    ctl(&format!("delete_vhost {name}"));
    ctl(&format!("delete_user {name}"));
}

#[test]
fn a_vhosts_default_type_is_that_of_durable_shared_queues() {
    let case = Case::new();
    let account = Account::new(&case);
    let name = &account.name;
    ctl(&format!("update_vhost_metadata {name} --default-queue-type quorum"));
    let mut client = account.login(1).connect();
    let channel = client.channel();
    client.call(channel, &durable("plain"));
    // The same again, and as it became.
    client.call(channel, &durable("plain"));
    client.call(channel, &crate::case::quorum("plain"));
    client
        .refused(channel, &crate::case::with("plain", "classic", Table::default()))
        .channel_error::<QueueDeclare>(
            406,
            &format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'plain' in vhost '{name}': received \
                 'classic' but current is 'quorum'"
            ),
        );
    let channel = client.channel();
    client.call(channel, &crate::case::with("named", "classic", Table::default()));
    // Neither can be a quorum queue.
    client.call(channel, &crate::case::exclusive("exclusive"));
    let auto_delete = QueueDeclare {
        auto_delete: true,
        ..durable("temporary")
    };
    client.call(channel, &auto_delete);
    let listed = ctl(&format!("-q list_queues -p {name} name arguments"));
    for queue in ["exclusive", "temporary"] {
        let row = listed
            .lines()
            .find(|line| line.starts_with(queue))
            .expect("it is listed");
        assert!(!row.contains("quorum"), "{listed}");
    }
    client.close();
    ctl(&format!("delete_vhost {name}"));
    ctl(&format!("delete_user {name}"));
}
