//! What a user may do: topics, rights that change, and passwords that come as hashes.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, End, Login, plain};

use crate::case::{Case, bind, ctl, ctl_refused, differs, durable, exchange, ours_or_stock, unbind};

/// A user with all rights in `/`.
struct User {
    name: String,
}

impl User {
    fn new(case: &Case) -> Self {
        let name = format!("{}.user", case.prefix());
        ctl(&format!("add_user {name} secret"));
        ctl(&format!("set_permissions {name} '.*' '.*' '.*'"));
        Self { name }
    }

    fn login(&self, endpoint: usize, password: &str) -> Login {
        Login {
            endpoint,
            response: plain(&self.name, password),
            ..Login::default()
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ctl(&format!("delete_user {}", self.name));
        }
    }
}

fn refusal(access: &str, key: &str, exchange: &str, user: &str) -> String {
    format!(
        "ACCESS_REFUSED - {access} access to topic '{key}' in exchange '{exchange}' in vhost '/' refused for user '{user}'"
    )
}

#[test]
fn topic_permissions_bound_the_keys_of_topic_exchanges() {
    let case = Case::new();
    let user = User::new(&case);
    let mut client = user.login(1, "secret").connect();
    let channel = client.channel();
    let topic = case.declared_exchange(&mut client, channel, "topic", "topic");
    let direct = case.declared_exchange(&mut client, channel, "direct", "direct");
    let queue = case.declared(&mut client, channel, "queue");
    // None defined: everything is allowed.
    client.call(channel, &bind(&queue, &topic, "free"));
    client.call(channel, &unbind(&queue, &topic, "free"));
    let name = &user.name;
    ctl(&format!(
        "set_topic_permissions {name} {topic} '^{{username}}\\.w' '^{{vhost}}\\.r'"
    ));
    ctl(&format!("set_topic_permissions {name} {direct} '^never$' '^never$'"));

    client.call(channel, &bind(&queue, &topic, "/.read"));
    client
        .refused(channel, &bind(&queue, &topic, "other"))
        .channel_error::<QueueBind>(403, &refusal("read", "other", &topic, name));
    let channel = client.channel();
    client
        .refused(channel, &unbind(&queue, &topic, "other"))
        .channel_error::<QueueUnbind>(403, &refusal("read", "other", &topic, name));
    let channel = client.channel();
    let bind_exchange = ExchangeBind {
        destination: direct.clone(),
        source: topic.clone(),
        routing_key: "other".into(),
        ..Default::default()
    };
    client
        .refused(channel, &bind_exchange)
        .channel_error::<ExchangeBind>(403, &refusal("read", "other", &topic, name));

    let channel = client.channel();
    client.confirm(channel);
    client.publish(channel, &topic, &format!("{name}.w"), &Properties::default(), b"mine");
    // Other types of exchanges have no topics.
    client.publish(channel, &direct, "anything", &Properties::default(), b"direct");
    client.confirmed(channel);
    client.publish(channel, &topic, "theirs", &Properties::default(), b"not mine");
    client
        .closed(channel)
        .channel_error::<BasicPublish>(403, &refusal("write", "theirs", &topic, name));
    // Every key counts, those of CC too.
    let channel = client.channel();
    let headers = Table::from([("CC", Value::Array(vec!["copied".into()]))]);
    let properties = Properties {
        headers: Some(headers),
        ..Properties::default()
    };
    client.publish(channel, &topic, &format!("{name}.w"), &properties, b"copied");
    client
        .closed(channel)
        .channel_error::<BasicPublish>(403, &refusal("write", "copied", &topic, name));

    let listed = ctl("-q list_topic_permissions");
    assert!(listed.contains(&format!("{name}\t{topic}\t")), "{listed}");
    assert!(ctl(&format!("-q list_user_topic_permissions {name}")).contains(&direct));
    ctl(&format!("clear_topic_permissions {name} {topic}"));
    let channel = client.channel();
    client.confirm(channel);
    client.publish(channel, &topic, "theirs", &Properties::default(), b"allowed again");
    client.confirmed(channel);
    assert!(ctl(&format!("-q list_user_topic_permissions {name}")).contains(&direct));
    ctl(&format!("clear_topic_permissions {name}"));
    assert!(!ctl("-q list_topic_permissions").contains(name.as_str()));
    client.close();
}

#[test]
fn a_pattern_that_is_none_is_refused() {
    let case = Case::new();
    let user = User::new(&case);
    ctl_refused(&format!("set_topic_permissions {} amq.topic '(' '.*'", user.name));
    ctl_refused("set_topic_permissions nobody.at.all amq.topic '.*' '.*'");
}

#[test]
fn rights_that_change_hold_for_open_connections() {
    let case = Case::new();
    let user = User::new(&case);
    let name = &user.name;
    let mut client = user.login(2, "secret").connect();
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "queue");
    let topic = case.exchange("exchange");
    client.call(channel, &exchange(&topic, "fanout"));
    ctl(&format!("set_permissions {name} '^$' '^$' '^$'"));
    let text = format!("ACCESS_REFUSED - configure access to queue '{queue}' in vhost '/' refused for user '{name}'");
    client
        .refused(channel, &durable(&queue))
        .channel_error::<QueueDeclare>(403, &text);
    let channel = client.channel();
    client.publish(channel, &topic, "", &Properties::default(), b"no more");
    let text = format!("ACCESS_REFUSED - write access to exchange '{topic}' in vhost '/' refused for user '{name}'");
    client.closed(channel).channel_error::<BasicPublish>(403, &text);
    ctl(&format!("set_permissions {name} '.*' '.*' '.*'"));
    let channel = client.channel();
    client.call(channel, &durable(&queue));
    client.close();
}

/// What a method must be refused with, for want of one right.
struct Asked {
    configure: String,
    write: String,
    read: String,
    text: String,
}

impl Asked {
    /// All rights but `access` to the queue or exchange `name`.
    fn but(access: &str, kind: &str, name: &str, user: &str) -> Self {
        // There is no negation in these expressions: names that end in what the forbidden one does not.
        let others = format!("^{}$", if name.ends_with('1') { ".*[^1]" } else { ".*[^2]" });
        let right = |of: &str| if of == access { others.clone() } else { ".*".to_owned() };
        Self {
            configure: right("configure"),
            write: right("write"),
            read: right("read"),
            text: format!("ACCESS_REFUSED - {access} access to {kind} '{name}' in vhost '/' refused for user '{user}'"),
        }
    }
}

/// The method is refused without that one right, and with it accepted.
#[track_caller]
fn asks<C: Call>(client: &mut Client, user: &User, asked: &Asked, method: &C) {
    let Asked {
        configure,
        write,
        read,
        text,
    } = asked;
    let name = &user.name;
    ctl(&format!("set_permissions {name} '{configure}' '{write}' '{read}'"));
    let channel = client.channel();
    client.refused(channel, method).channel_error::<C>(403, text);
    ctl(&format!("set_permissions {name} '.*' '.*' '.*'"));
    let channel = client.channel();
    client.call(channel, method);
}

#[test]
fn every_operation_asks_for_its_rights() {
    let case = Case::new();
    let user = User::new(&case);
    let name = &user.name;
    let mut client = user.login(1, "secret").connect();
    let (queue, source, target) = (case.queue("q1"), case.exchange("x1"), case.exchange("x2"));
    let but = |access: &str, kind: &str, of: &str| Asked::but(access, kind, of, name);

    asks(&mut client, &user, &but("configure", "queue", &queue), &durable(&queue));
    for exchange in [&source, &target] {
        asks(
            &mut client,
            &user,
            &but("configure", "exchange", exchange),
            &crate::case::exchange(exchange, "direct"),
        );
    }
    let (letters, alternate) = (case.queue("d1"), case.exchange("a2"));
    let with_letters = QueueDeclare {
        arguments: Table::from([("x-dead-letter-exchange", source.as_str())]),
        ..durable(&letters)
    };
    asks(&mut client, &user, &but("read", "queue", &letters), &with_letters);
    let letters = case.queue("d2");
    let with_letters = QueueDeclare {
        queue: letters,
        ..with_letters
    };
    asks(&mut client, &user, &but("write", "exchange", &source), &with_letters);
    let with_alternate = ExchangeDeclare {
        arguments: Table::from([("alternate-exchange", source.as_str())]),
        ..crate::case::exchange(&alternate, "direct")
    };
    asks(
        &mut client,
        &user,
        &but("read", "exchange", &alternate),
        &with_alternate,
    );
    let delete_alternate = ExchangeDelete {
        exchange: alternate,
        ..Default::default()
    };
    asks(
        &mut client,
        &user,
        &but("configure", "exchange", &delete_alternate.exchange),
        &delete_alternate,
    );
    asks(&mut client, &user, &but("write", "exchange", &source), &with_alternate);

    for access in ["write", "read"] {
        let (kind, of) = if access == "write" {
            ("queue", &queue)
        } else {
            ("exchange", &source)
        };
        asks(&mut client, &user, &but(access, kind, of), &bind(&queue, &source, "k"));
        asks(
            &mut client,
            &user,
            &but(access, kind, of),
            &unbind(&queue, &source, "k"),
        );
        let of = if access == "write" { &target } else { &source };
        let bound = ExchangeBind {
            destination: target.clone(),
            source: source.clone(),
            routing_key: "k".into(),
            ..Default::default()
        };
        asks(&mut client, &user, &but(access, "exchange", of), &bound);
        let unbound = ExchangeUnbind {
            destination: target.clone(),
            source: source.clone(),
            routing_key: "k".into(),
            ..Default::default()
        };
        asks(&mut client, &user, &but(access, "exchange", of), &unbound);
    }

    let of = but("read", "queue", &queue);
    let purge = QueuePurge {
        queue: queue.clone(),
        ..Default::default()
    };
    asks(&mut client, &user, &of, &purge);
    asks(&mut client, &user, &of, &crate::case::consume(&queue, ""));
    ctl(&format!(
        "set_permissions {name} '{}' '{}' '{}'",
        of.configure, of.write, of.read
    ));
    let channel = client.channel();
    let get = BasicGet {
        queue: queue.clone(),
        ..Default::default()
    };
    client.send(channel, &get);
    client.closed(channel).channel_error::<BasicGet>(403, &of.text);

    // Any right will do to ask whether something is there.
    ctl(&format!("set_permissions {name} '^$' '^$' '^$'"));
    let text = format!("ACCESS_REFUSED - configure access to queue '{queue}' in vhost '/' refused for user '{name}'");
    let channel = client.channel();
    client
        .refused(channel, &crate::case::passive(&queue))
        .channel_error::<QueueDeclare>(403, &text);
    ctl(&format!("set_permissions {name} '^$' '^$' '{queue}'"));
    let channel = client.channel();
    client.call(channel, &crate::case::passive(&queue));
    let delete = crate::case::delete(&queue);
    let text = format!("ACCESS_REFUSED - configure access to queue '{queue}' in vhost '/' refused for user '{name}'");
    client
        .refused(channel, &delete)
        .channel_error::<QueueDelete>(403, &text);
    client.close();
}

#[test]
fn passwords_may_come_as_hashes() {
    let case = Case::new();
    let user = User::new(&case);
    let name = &user.name;
    // Salt 1, 2, 3, 4 and the password "secret".
    let hashes = [
        "AQIDBDB9kM21iEUzN1lZ+6VReCsdNqS0sERdAQTcY6Xs3PMz",
        "AQIDBPhTH2L5HGYB1LWOrn+YpvuQmVOXKGqgsuiJRIZTILRoEvblSJo/WAsym3IZTfuaIaK5KR2o5KwFfTv6KsxfMIE=",
        "AQIDBDgk9ci8Lfh6CKE9Y0AUfmU=",
    ];
    for hash in &hashes[..ours_or_stock("hash-algorithms", 3, 1)] {
        ctl(&format!("delete_user {name}"));
        ctl(&format!("add_user {name} '{hash}' --pre-hashed-password"));
        ctl(&format!("set_permissions {name} '.*' '.*' '.*'"));
        user.login(1, "secret").connect().close();
        let End::Closed(closed) = user.login(1, "wrong").refused() else {
            panic!("dropped without a close")
        };
        assert_eq!(closed.code, 403);
    }
    ctl(&format!("authenticate_user {name} secret"));
    ctl_refused(&format!("authenticate_user {name} wrong"));
    if !differs("hash-algorithms") {
        ctl_refused(&format!("change_password {name} 'no hash' --pre-hashed-password"));
        let hash = ctl("hash_password another");
        let hash = hash.trim();
        ctl(&format!("change_password {name} '{hash}' --pre-hashed-password"));
        ctl(&format!("authenticate_user {name} another"));
    }
    assert!(ctl(&format!("-q list_user_permissions {name}")).contains("/\t.*\t.*\t.*"));
}

#[test]
fn operators_close_connections() {
    let case = Case::new();
    let user = User::new(&case);
    let name = &user.name;
    let forced = |mut client: Client, reason: &str| {
        let End::Closed(closed) = client.ended() else {
            panic!("dropped without a close")
        };
        assert_eq!(
            (closed.code, closed.text),
            (320, format!("CONNECTION_FORCED - {reason}"))
        );
    };
    let client = user.login(1, "secret").connect();
    let listed = ctl("-q list_connections pid user");
    let row = listed
        .lines()
        .find(|row| row.ends_with(name.as_str()))
        .expect("it is listed");
    let pid = row.split('\t').next().expect("a pid");
    ctl(&format!("close_connection '{pid}' 'enough of it'"));
    forced(client, "enough of it");
    let (one, two) = (user.login(0, "secret").connect(), user.login(2, "secret").connect());
    ctl(&format!("close_all_user_connections {name} 'all of them'"));
    forced(one, "all of them");
    forced(two, "all of them");
    let vhost = format!("{}.vhost", case.prefix());
    ctl(&format!("add_vhost {vhost}"));
    ctl(&format!("set_permissions -p {vhost} {name} '.*' '.*' '.*'"));
    let login = Login {
        vhost: vhost.clone(),
        ..user.login(1, "secret")
    };
    let (inside, mut outside) = (login.connect(), user.login(1, "secret").connect());
    ctl(&format!("close_all_connections -p {vhost} 'vhost is tidied'"));
    forced(inside, "vhost is tidied");
    outside.channel();
    outside.close();
    ctl_refused("close_connection '<nobody.1>' 'not there'");
    ctl(&format!("set_vhost_tags {vhost} one two"));
    ctl(&format!(
        "update_vhost_metadata {vhost} --description described --default-queue-type quorum"
    ));
    let row = ctl("-q list_vhosts name description tags default_queue_type");
    assert!(
        row.contains(&format!("{vhost}\tdescribed\t[one, two]\tquorum")),
        "{row}"
    );
    ctl(&format!("delete_vhost {vhost}"));
}
