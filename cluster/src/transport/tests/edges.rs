//! Who is refused, what a stranger can do, and the operator's calls.

use std::io::Write as _;

use warren_proto::transport as wire;

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Two nodes of which at least one refuses the other: the reasons are told, and nothing passes.
fn check_refused(
    first: Identity,
    second: Identity,
    known: (Peer, Peer),
    at: (SocketAddr, SocketAddr),
    text: [&str; 2],
) {
    let (first_node, second_node) = (known.1.node, known.0.node);
    let (h1, r1) = start(first, at.0, vec![known.0], patient());
    let (h2, r2) = start(second, at.1, vec![known.1], patient());
    h1.transport().send(second_node, envelope(1, 10)).expect("little");
    h2.transport().send(first_node, envelope(1, 10)).expect("little");
    wait_refusal(&h1, text[0]);
    wait_refusal(&h2, text[1]);
    for (handle, recorder) in [(h1, r1), (h2, r2)] {
        assert_eq!(handle.transport().peers(), []);
        handle.shutdown();
        assert_eq!(*recorder.seen.lock().expect("no panic"), []);
    }
}

#[test]
fn a_wrong_secret_is_refused_at_both_ends() {
    let (at1, at2) = (free(), free());
    check_refused(
        identity(1, 1, "s"),
        identity(2, 1, "other"),
        (peer(2, at2), peer(1, at1)),
        (at1, at2),
        [
            "node \"n1\" refuses a peer: \"n2\" has another",
            "node \"n2\" refuses a peer: \"n1\" has another",
        ],
    );
    let (at1, at2) = (free(), free());
    check_refused(
        identity(1, 1, "s"),
        identity(2, 1, "other"),
        (peer(2, at2), peer(1, at1)),
        (at1, at2),
        ["\"n2\" refuses node \"n1\"", "\"n1\" refuses node \"n2\""],
    );
}

#[test]
fn a_foreign_cluster_is_refused() {
    let (at1, at2) = (free(), free());
    let foreign = Identity {
        cluster: "warren".to_owned(),
        ..identity(2, 1, "s")
    };
    check_refused(
        identity(1, 1, "s"),
        foreign,
        (peer(2, at2), peer(1, at1)),
        (at1, at2),
        [
            "belongs to the cluster \"warren\", not \"burrow\"",
            "belongs to the cluster \"burrow\", not \"warren\"",
        ],
    );
}

#[test]
fn an_unknown_node_is_refused() {
    let (at1, at2) = (free(), free());
    check_refused(
        identity(1, 1, "s"),
        identity(3, 1, "s"),
        (peer(2, at2), peer(1, at1)),
        (at1, at2),
        [
            "\"n3\" (id 3) is not part of the cluster: a new node has to join it",
            "was refused by \"n1\"",
        ],
    );
}

#[test]
fn another_node_with_this_nodes_id_is_refused() {
    let (at1, at2) = (free(), free());
    let double = Identity {
        name: "n7".to_owned(),
        ..identity(1, 1, "s")
    };
    let (h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], patient());
    let (h2, r2) = start(
        double,
        at2,
        vec![Peer {
            node: 9,
            name: "n1".to_owned(),
            address: at1.to_string(),
        }],
        patient(),
    );
    wait_refusal(&h1, "\"n7\" has the id 1, which is that of \"n1\"");
    wait_refusal(&h2, "\"n7\" has the id 1, which is that of \"n1\"");
    assert_eq!(
        (
            r1.seen.lock().expect("no panic").len(),
            r2.seen.lock().expect("no panic").len()
        ),
        (0, 0)
    );
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let check = |identity: Identity, listen: SocketAddr, peers: Vec<Peer>, text: &str| {
        let inbox = Arc::new(RecorderInbox(Arc::default()));
        let error = GrpcTransport::start(identity, listen, peers, Options::default(), inbox, Arc::new(Clerk));
        assert_eq!(error.err().map(|error| error.to_string()).as_deref(), Some(text));
    };
    let at = free();
    let any = || SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    check(identity(1, 1, ""), any(), Vec::new(), "the cluster secret is empty");
    check(identity(0, 1, "s"), any(), Vec::new(), "node \"n0\" has the id 0");
    check(
        identity(1, 1, "s"),
        any(),
        vec![peer(1, at)],
        "nodes \"n1\" and \"n1\" share an id or a name",
    );
    let same_id = Peer {
        name: "n3".to_owned(),
        ..peer(2, at)
    };
    check(
        identity(1, 1, "s"),
        any(),
        vec![peer(2, at), same_id],
        "nodes \"n2\" and \"n3\" share an id or a name",
    );
    for address in ["nowhere", ":5", "host:", "host:99999", "a b:5"] {
        let bad = Peer {
            address: address.to_owned(),
            ..peer(2, at)
        };
        let text = format!("the address of node \"n2\" is not host:port: {address:?}");
        check(identity(1, 1, "s"), any(), vec![bad], &text);
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let at = taken.local_addr().expect("bound");
    let text = format!("cannot listen for other nodes on {at}: Address already in use (os error 98)");
    check(identity(1, 1, "s"), at, Vec::new(), &text);
}

#[test]
fn the_secret_is_not_shown() {
    assert!(!format!("{:?}", identity(1, 1, "hunter2")).contains("hunter2"));
    assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret");
}

#[test]
fn envelopes_without_a_handshake_are_not_delivered() {
    let (h1, r1) = start(identity(1, 1, "s"), free(), vec![peer(2, free())], patient());
    let address = h1.address().to_string();
    let status = runtime().block_on(async {
        let endpoint = grpc::endpoint(&address).expect("an address");
        let mut client = grpc::client(endpoint.connect().await.expect("connected"));
        let batch = wire::Envelopes {
            envelopes: vec![wire::Envelope {
                port: 1,
                to: 1,
                payload: Bytes::from_static(b"x"),
                rest: 0,
            }],
        };
        let request = wire::LinkRequest {
            kind: Some(wire::link_request::Kind::Envelopes(batch)),
        };
        let mut responses = client
            .link(tokio_stream::iter([request]))
            .await
            .expect("opened")
            .into_inner();
        responses.message().await.expect_err("refused")
    });
    assert!(grpc::Failure::from(status).is_refusal());
    assert_eq!(*r1.seen.lock().expect("no panic"), []);
}

#[test]
fn a_stranger_is_cut_off_when_it_sends_much_or_waits_long() {
    let options = Options {
        handshake_ms: 300,
        ..patient()
    };
    let (h1, _) = start(identity(1, 1, "s"), free(), Vec::new(), options);
    // Says nothing at all.
    let mut idle = TcpStream::connect(h1.address()).expect("connected");
    idle.set_read_timeout(Some(DEADLINE)).expect("set");
    let start = Instant::now();
    let mut answer = Vec::new();
    let _reset_or_closed = idle.read_to_end(&mut answer);
    assert!(start.elapsed() < DEADLINE, "it was not cut off");
    // Sends without end.
    let mut loud = TcpStream::connect(h1.address()).expect("connected");
    loud.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .expect("the preface");
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut written = 0;
    while loud.write_all(&ping.repeat(100)).is_ok() {
        written += ping.len() * 100;
        assert!(written < 64 << 20, "it was not cut off");
    }
}

#[test]
fn an_operators_call_is_answered() {
    let (h1, _) = start(identity(1, 1, "s"), free(), Vec::new(), patient());
    let address = h1.address().to_string();
    let call = |secret: &'static str, call: &str| {
        let call = call.to_owned();
        runtime().block_on(async {
            let rows = admin_call(&address, "burrow", Secret::new(secret.as_bytes()), None, call).await?;
            rows.collect().await
        })
    };
    let rows = call("s", "count").expect("answered");
    assert_eq!(rows, (0..1_000).map(|row| row.to_string()).collect::<Vec<_>>());
    assert_eq!(
        call("s", "fail"),
        Err(AdminError {
            status: 64,
            text: "no such verb".to_owned()
        })
    );
    let gave_up = AdminError {
        status: 70,
        text: "the node gave up on the call".to_owned(),
    };
    assert_eq!(call("s", "drop"), Err(gave_up));
    let denied = AdminError {
        status: 77,
        text: "\"n1\" has another cluster secret".to_owned(),
    };
    assert_eq!(call("other", "count"), Err(denied));
    h1.shutdown();
    assert_eq!(call("s", "count").expect_err("nobody listens").status, 69);
}
