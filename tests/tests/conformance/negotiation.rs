//! From the protocol header to connection.close.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Table, Value};
use warren_tests::amqp::{
    Client, End, Frame, HEARTBEAT, Input, Login, PATIENCE, PROTOCOL_HEADER, Socket, credentials, endpoints, plain,
};

use crate::case::{Case, bind, consume, ctl, differs, durable, exclusive, fill, ours_or_stock, passive, vhost_deleted};

#[test]
fn a_foreign_protocol_header_is_answered_with_ours() {
    let headers: [&[u8; 8]; 6] = [
        b"GET / HT",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"AMQP\x00\x00\x08\x00",
        b"AMQP\x00\x00\x09\x02",
        b"AMQP\x01\x01\x08\x00",
        b"amqp\x00\x00\x09\x01",
    ];
    for header in headers {
        let mut socket = Socket::dial(0);
        socket.send(header);
        let answer = socket.rest(PATIENCE);
        assert_eq!(answer.len(), 8, "answer to {header:?}: {answer:?}");
        assert_eq!(&answer[..4], b"AMQP");
        if !differs("protocol-header") {
            assert_eq!(answer, b"AMQP\x00\x00\x09\x01", "answer to {header:?}");
        }
    }
}

#[test]
fn the_legacy_header_of_the_same_version_is_understood() {
    let mut socket = Socket::dial(0);
    socket.send(b"AMQP\x01\x01\x00\x09");
    let Input::Frame(frame) = socket.frame(PATIENCE) else {
        panic!("no answer to the legacy header")
    };
    assert_eq!(frame.payload[..6], [0, 10, 0, 10, 0, 9], "connection.start 0-9");
}

#[test]
fn a_header_in_pieces_is_a_header() {
    let mut socket = Socket::dial(0);
    for byte in b"AMQP\x00\x00\x09\x01" {
        socket.send(&[*byte]);
    }
    assert!(matches!(socket.frame(PATIENCE), Input::Frame(_)));
}

#[test]
fn the_start_method_names_what_client_libraries_look_for() {
    let client = Client::connect(0);
    let start = &client.start;
    assert_eq!((start.major, start.minor), (0, 9));
    let words =
        |bytes: &[u8]| -> Vec<String> { String::from_utf8_lossy(bytes).split(' ').map(str::to_owned).collect() };
    let mechanisms = words(&start.mechanisms);
    assert!(
        mechanisms.contains(&"PLAIN".to_owned()) && mechanisms.contains(&"AMQPLAIN".to_owned()),
        "{mechanisms:?}"
    );
    assert!(words(&start.locales).contains(&"en_US".to_owned()));

    let text = |key: &str| match start.server_properties.get(key) {
        Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("server property {key}: {other:?}"),
    };
    for key in ["cluster_name", "copyright", "information", "platform"] {
        assert!(!text(key).is_empty(), "{key}");
    }
    assert_eq!(text("product"), "RabbitMQ", "libraries choose features by it");
    let version: Vec<u32> = text("version")
        .split('.')
        .take(2)
        .map(|part| part.parse().expect("a number"))
        .collect();
    assert!(version >= vec![3, 3], "{version:?}");

    let Some(Value::Table(capabilities)) = start.server_properties.get("capabilities") else {
        panic!("no capabilities: {:?}", start.server_properties)
    };
    for capability in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        assert_eq!(capabilities.get(capability), Some(&Value::Bool(true)), "{capability}");
    }
    client.close();
}

#[test]
fn plain_and_amqplain_log_in() {
    let (user, password) = credentials();
    let amqplain = Table::from([("LOGIN", user.as_str()), ("PASSWORD", password.as_str())]).body();
    let swapped = Table::from([("PASSWORD", password.as_str()), ("LOGIN", user.as_str())]).body();
    for (mechanism, response) in [
        ("PLAIN", plain(&user, &password)),
        ("AMQPLAIN", amqplain),
        ("AMQPLAIN", swapped),
    ] {
        let mut client = Login {
            mechanism: mechanism.into(),
            response,
            ..Login::default()
        }
        .connect();
        client.channel();
        client.close();
    }
}

#[test]
fn a_wrong_login_is_refused_with_403() {
    let (user, _) = credentials();
    let amqplain = Table::from([("LOGIN", user.as_str()), ("PASSWORD", "wrong")]).body();
    for (mechanism, response) in [
        ("PLAIN", plain(&user, "wrong")),
        ("PLAIN", plain(&user, "")),
        ("PLAIN", plain("no such user", "guest")),
        ("AMQPLAIN", amqplain),
    ] {
        let end = Login {
            mechanism: mechanism.into(),
            response,
            ..Login::default()
        }
        .refused();
        let End::Closed(closed) = end else {
            panic!("{end:?} instead of a close")
        };
        let text = format!(
            "ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
        );
        assert_eq!(
            (closed.hard, closed.code, closed.text, closed.id),
            (true, 403, text, (0, 0))
        );
    }
}

#[test]
fn a_wrong_login_of_an_old_client_ends_without_a_close() {
    // Clients that do not announce authentication_failure_close take a close here for a protocol error.
    let login = Login {
        response: plain("guest", "wrong"),
        properties: Table::default(),
        ..Login::default()
    };
    assert_eq!(login.refused(), End::Dropped);
}

#[test]
fn a_malformed_start_ok_is_not_a_login() {
    for (mechanism, response) in [
        ("PLAIN", b"guest\0guest".to_vec()),
        ("PLAIN", b"\0guest\0guest\0guest".to_vec()),
        ("PLAIN", b"\0guest".to_vec()),
        ("PLAIN", Vec::new()),
        ("AMQPLAIN", b"\x05LOGIN".to_vec()),
        ("AMQPLAIN", Table::from([("LOGIN", "guest")]).body()),
        ("NO-SUCH-MECHANISM", b"\0guest\0guest".to_vec()),
    ] {
        let end = Login {
            mechanism: mechanism.into(),
            response: response.clone(),
            ..Login::default()
        }
        .refused();
        if let End::Closed(closed) = end {
            assert!(
                [403, 501, 502, 503].contains(&closed.code),
                "{mechanism} {response:?}: {closed:?}"
            );
        }
    }
}

#[test]
fn a_wrong_method_in_the_handshake_is_not_a_login() {
    let mut client = Login::default().start();
    client.send(
        0,
        &ConnectionOpen {
            vhost: "/".into(),
            ..Default::default()
        },
    );
    client.send(1, &ChannelOpen::default());
    // With or without a close, but certainly without any other answer.
    let rest = client.socket.rest(PATIENCE);
    assert!(rest.is_empty() || rest[7..11] == [0, 10, 0, 50], "{rest:?}");
}

#[test]
fn a_big_start_ok_is_accepted() {
    let mut login = Login::default();
    login
        .properties
        .0
        .push(("connection_name".into(), Value::Text(vec![b'n'; 16 * 1024])));
    if differs("start-ok-size") {
        login.refused();
    } else {
        login.connect().close();
    }
}

#[test]
fn who_does_not_finish_the_handshake_is_dropped_after_ten_seconds() {
    let began = Instant::now();
    let login = Login::default();
    let silent = Socket::dial(0);
    let mut greeted = Socket::dial(0);
    greeted.send(&PROTOCOL_HEADER);
    let started = login.start();
    let mut known = login.start();
    known.send(0, &login.start_ok());
    let mut tuned = login.start();
    tuned.send(0, &login.start_ok());
    tuned.send(
        0,
        &ConnectionTuneOk {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
        },
    );
    let mut whole = login.connect();
    for (stage, mut socket) in [
        ("nothing said", silent),
        ("a header", greeted),
        ("start", started.socket),
        ("start-ok", known.socket),
        ("tune-ok", tuned.socket),
    ] {
        let said = socket.rest(PATIENCE);
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(9), "{stage}: dropped after {took:?}");
        let is_close = said.windows(4).any(|bytes| bytes == [0, 10, 0, 50]);
        assert!(!is_close, "{stage}: told why");
    }
    whole.channel();
    whole.close();
}

/// For a machine without a network: an address of those that are for documentation. Takes root.
fn address_of_its_own() -> IpAddr {
    let address = Ipv4Addr::new(198, 51, 100, 77);
    let prefix = format!("{address}/32");
    let replaced = Command::new("ip")
        .args(["address", "replace", &prefix, "dev", "lo"])
        .status();
    assert!(
        replaced.is_ok_and(|status| status.success()),
        "this machine has no address beside loopback, and gets none"
    );
    address.into()
}

/// A connection to a broker on this machine that seems to come from elsewhere: from another address than loopback.
fn from_elsewhere(endpoint: usize) -> Socket {
    // Nothing is sent: it only says by which address the machine would go there.
    let probe = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let known = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr());
    let address = known.map(|address| address.ip()).ok().filter(|ip| !ip.is_loopback());
    let address = address.unwrap_or_else(address_of_its_own);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let endpoints = endpoints();
    let broker: SocketAddr = endpoints[endpoint % endpoints.len()].parse().expect("an address");
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::new(address, 0))
            .expect("the machine's own address");
        socket.connect(broker).await.expect("a broker")
    });
    let stream = stream.into_std().expect("a connection");
    stream.set_nonblocking(false).expect("a connection");
    Socket::over(stream)
}

#[test]
fn guest_comes_from_this_machine_only() {
    for endpoint in 0..endpoints().len() {
        let (user, password) = credentials();
        let amqplain = Table::from([("LOGIN", user.as_str()), ("PASSWORD", password.as_str())]).body();
        for (mechanism, response) in [("PLAIN", plain(&user, &password)), ("AMQPLAIN", amqplain)] {
            let login = Login {
                mechanism: mechanism.into(),
                response,
                ..Login::default()
            };
            let Err(End::Closed(closed)) = login.attempt_over(from_elsewhere(endpoint)) else {
                panic!("guest was let in, or dropped without a close")
            };
            let text = format!(
                "ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
            );
            assert_eq!((closed.hard, closed.code, closed.text), (true, 403, text));
        }
        // One that cannot be told is dropped.
        let old = Login {
            properties: Table::default(),
            ..Login::default()
        };
        assert_eq!(old.attempt_over(from_elsewhere(endpoint)).err(), Some(End::Dropped));
    }
    // Others come from wherever they are.
    let case = Case::new();
    let user = case.queue("user");
    ctl(&format!("add_user {user} secret"));
    ctl(&format!("set_permissions {user} '.*' '.*' '.*'"));
    let login = Login {
        response: plain(&user, "secret"),
        ..Login::default()
    };
    let mut client = login.attempt_over(from_elsewhere(0)).expect("it is not guest");
    client.channel();
    client.close();
    ctl(&format!("delete_user {user}"));
}

#[test]
fn tune_proposes_the_usual_limits() {
    let client = Client::connect(0);
    assert_eq!(
        client.tune,
        ConnectionTune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60
        }
    );
    client.close();
}

#[test]
fn tune_ok_outside_the_limits_is_refused_with_530() {
    let frame_min = ours_or_stock("frame-min", 4096, 8192);
    for (channel_max, frame_max, text) in [
        (
            5000,
            131_072,
            "channel_max = 5000 is higher than the maximum allowed value (2047)".to_owned(),
        ),
        (
            0,
            131_072,
            "channel_max = 0 (no limit) is higher than the maximum allowed value (2047)".to_owned(),
        ),
        (
            2047,
            131_073,
            "frame_max = 131073 is higher than the maximum allowed value (131072)".to_owned(),
        ),
        (
            2047,
            0,
            "frame_max = 0 (no limit) is higher than the maximum allowed value (131072)".to_owned(),
        ),
        (
            2047,
            100,
            format!("frame_max = 100 is lower than the minimum allowed value ({frame_min})"),
        ),
        (
            2047,
            frame_min - 1,
            format!(
                "frame_max = {} is lower than the minimum allowed value ({frame_min})",
                frame_min - 1
            ),
        ),
    ] {
        let login = Login {
            channel_max: Some(channel_max),
            frame_max: Some(frame_max),
            ..Login::default()
        };
        match login.refused() {
            End::Closed(closed) => closed.connection_error_like(530, &["NOT_ALLOWED - negotiated ", &text]),
            End::Dropped => assert!(differs("tune-refused"), "dropped without a close: {text}"),
        }
    }
}

#[test]
fn the_smallest_frames_carry_any_message() {
    let case = Case::new();
    let frame_max = ours_or_stock("frame-min", 4096, 8192);
    let mut client = Login {
        frame_max: Some(frame_max),
        channel_max: Some(1),
        ..Login::default()
    }
    .connect();
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "small-frames");
    client.confirm(channel);
    let body = vec![b'x'; 100_000];
    client.publish(channel, "", &queue, &Default::default(), &body);
    client.confirmed(channel);
    // The client checks that no frame it reads is over the limit.
    let (delivery, _) = client.get(channel, &queue, true).expect("the message just confirmed");
    assert_eq!(delivery.content.body, body);
    assert!(delivery.content.body_frames >= body.len() / (frame_max as usize - 8));
    client.close();
}

#[test]
fn channels_are_limited_to_what_was_negotiated() {
    let mut client = Login {
        channel_max: Some(2),
        ..Login::default()
    }
    .connect();
    client.channel();
    client.channel();
    client.refused(3, &ChannelOpen::default()).connection_error_like(
        530,
        &["NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"],
    );
}

#[test]
fn an_unknown_vhost_is_refused_with_530() {
    let End::Closed(closed) = (Login {
        vhost: "no such vhost".into(),
        ..Login::default()
    })
    .refused() else {
        panic!("dropped without a close")
    };
    closed.connection_error::<ConnectionOpen>(530, "NOT_ALLOWED - vhost no such vhost not found");
}

#[test]
fn deleting_a_user_or_its_vhost_closes_its_connections_with_320() {
    let case = Case::new();
    let (user, vhost) = (case.queue("user"), case.queue("vhost"));
    ctl(&format!("add_vhost {vhost}"));
    let login = || {
        ctl(&format!("add_user {user} secret"));
        ctl(&format!("set_permissions -p {vhost} {user} '.*' '.*' '.*'"));
        let login = Login {
            response: plain(&user, "secret"),
            vhost: vhost.clone(),
            ..Login::default()
        };
        login.connect()
    };
    let mut other = Client::connect(0);
    let mut client = login();
    ctl(&format!("delete_user {user}"));
    let End::Closed(closed) = client.ended() else {
        panic!("dropped without a close")
    };
    let text = format!("CONNECTION_FORCED - user '{user}' is deleted");
    assert_eq!((closed.code, closed.text), (320, text));
    let mut client = login();
    ctl(&format!("delete_vhost {vhost}"));
    vhost_deleted(client.ended(), &vhost);
    ctl(&format!("delete_user {user}"));
    other.channel();
    other.close();
}

#[test]
fn a_user_without_permissions_is_refused_the_vhost_with_530() {
    let user = Case::new().queue("user");
    ctl(&format!("add_user {user} secret"));
    let end = Login {
        response: plain(&user, "secret"),
        ..Login::default()
    }
    .refused();
    ctl(&format!("delete_user {user}"));
    let End::Closed(closed) = end else {
        panic!("dropped without a close")
    };
    closed.connection_error::<ConnectionOpen>(
        530,
        &format!("NOT_ALLOWED - access to vhost '/' refused for user '{user}'"),
    );
}

#[test]
fn heartbeats_flow_while_both_sides_are_idle_and_silence_ends_the_connection() {
    let mut client = Login {
        heartbeat: 1,
        ..Login::default()
    }
    .connect();
    let beat = Frame::new(HEARTBEAT, 0, []).bytes();
    client.until("three heartbeats from the broker", |client| {
        client.socket.send(&beat);
        (client.heartbeats >= 3).then_some(())
    });
    // From here on we say nothing, and are dropped without a close.
    loop {
        match client.socket.frame(PATIENCE) {
            Input::Frame(frame) => assert_eq!(frame.kind, HEARTBEAT, "{frame:?}"),
            Input::Gone => break,
            Input::Silence => panic!("still connected after {PATIENCE:?} of silence with a heartbeat of 1 s"),
        }
    }
}

#[test]
fn any_traffic_counts_as_a_heartbeat() {
    let mut client = Login {
        heartbeat: 1,
        ..Login::default()
    }
    .connect();
    let channel = client.channel();
    let started = std::time::Instant::now();
    client.until("four seconds of calls", |client| {
        client.call(channel, &prefetch_one());
        (started.elapsed().as_secs() >= 4).then_some(())
    });
    client.close();
}

fn prefetch_one() -> BasicQos {
    BasicQos {
        prefetch_count: 1,
        ..Default::default()
    }
}

#[test]
fn a_heartbeat_on_a_channel_is_an_unexpected_frame() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.socket.send(&Frame::new(HEARTBEAT, channel, []).bytes());
    client.closed(0).connection_error_like(505, &["UNEXPECTED_FRAME - "]);
}

#[test]
fn a_heartbeat_carries_nothing() {
    let mut client = Client::connect(0);
    client.socket.send(&Frame::new(HEARTBEAT, 0, "abc").bytes());
    client
        .closed(0)
        .connection_error_like(501, &["FRAME_ERROR - type 8, ", "unknown_frame"]);
}

#[test]
fn a_secret_can_be_updated() {
    let mut client = Client::connect(0);
    let (_, password) = credentials();
    client.call(
        0,
        &ConnectionUpdateSecret {
            secret: password.into_bytes(),
            reason: "rotation".into(),
        },
    );
    client.channel();
    client.close();
}

#[test]
fn close_is_answered_after_everything_of_the_connection_is_gone() {
    let case = Case::new();
    let (mut client, mut other) = (Client::connect(0), Client::connect(1));
    let (channel, watching) = (client.channel(), other.channel());
    let (work, own) = (case.declared(&mut client, channel, "work"), case.queue("own"));
    client.call(channel, &exclusive(&own));
    client.call(channel, &bind(&own, "amq.direct", &own));
    fill(&mut other, &work, &["one", "two"]);
    client.call(channel, &consume(&work, ""));
    client.delivery(channel);
    client.delivery(channel);

    client.close();
    let text = format!("NOT_FOUND - no queue '{own}' in vhost '/'");
    other
        .refused(watching, &passive(&own))
        .channel_error::<QueueDeclare>(404, &text);
    let watching = other.channel();
    crate::case::until_ready(&mut other, watching, &work, 2);
    let (delivery, _) = other
        .get(watching, &work, true)
        .expect("a message of the closed connection");
    assert!(delivery.redelivered && delivery.text() == "one", "{delivery:?}");
    other.close();
}

#[test]
fn garbage_on_other_connections_disturbs_nobody() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("steady");
    client.call(channel, &durable(&queue));
    client.confirm(channel);
    client.call(
        channel,
        &BasicConsume {
            no_ack: true,
            ..consume(&queue, "steady")
        },
    );

    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut garbage = |length: usize| -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.push((random >> 32) as u8);
        }
        bytes
    };
    for round in 0..40 {
        let mut socket = Socket::dial(0);
        match round % 4 {
            0 => socket.send(&garbage(1 + round * 7)),
            1 => {
                socket.send(b"AMQP\x00\x00\x09\x01");
                socket.send(&garbage(200));
            }
            2 => {
                // A frame that claims the most a size can say.
                socket.send(b"AMQP\x00\x00\x09\x01\x01\x00\x00\xFF\xFF\xFF\xFF");
                socket.send(&garbage(100));
            }
            _ => {
                // A method frame with a sound envelope around noise.
                socket.send(b"AMQP\x00\x00\x09\x01");
                socket.send(&Frame::new(1, 0, garbage(64)).bytes());
            }
        }
        socket.abandon();
        client.publish(channel, "", &queue, &Default::default(), format!("{round}").as_bytes());
        client.confirmed(channel);
        assert_eq!(client.delivery(channel).text(), format!("{round}"));
    }
    // Past the login, too.
    for _ in 0..8 {
        let mut noisy = Client::connect(0);
        let channel = noisy.channel();
        noisy.socket.send(&Frame::new(1, channel, garbage(40)).bytes());
        noisy.socket.send(&garbage(300));
        noisy.socket.abandon();
    }
    client.publish(channel, "", &queue, &Default::default(), b"still here");
    client.confirmed(channel);
    assert_eq!(client.delivery(channel).text(), "still here");
    Client::connect(0).close();
    client.close();
}
