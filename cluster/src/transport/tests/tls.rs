//! Links over TLS: who has a certificate of the cluster's authority gets in, nobody else.

use super::*;
use crate::tls::tests::Authority;
use crate::tls::{Callers, Credentials, Files};

fn secured(files: Files) -> Options {
    let credentials = Credentials::read(files, Callers::Verified).expect("they fit");
    Options {
        tls: Some(credentials),
        ..patient()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn envelopes_pass_between_nodes_of_one_authority() {
    let authority = Authority::new("links");
    let [(h1, _, at1), (_h2, r2, _)] = pair(secured(authority.issue("n")));
    let sent: Vec<Envelope> = (0..20).map(|to| envelope(to, 100_000)).collect();
    for envelope in &sent {
        h1.transport().send(2, envelope.clone()).expect("room");
    }
    let seen = r2.wait("all envelopes", |seen| {
        seen.iter().filter(|seen| matches!(seen, Seen::Envelope(..))).count() == sent.len()
    });
    let arrived: Vec<Envelope> = seen
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Envelope(1, envelope) => Some(envelope),
            _ => None,
        })
        .collect();
    assert_eq!(arrived, sent);

    // The operator's tool needs a certificate like a node.
    let address = at1.to_string();
    let call = |tls| {
        let secret = Secret::new(&b"s"[..]);
        runtime().block_on(async {
            admin_call(&address, "burrow", secret, tls, "count".into())
                .await?
                .collect()
                .await
        })
    };
    let tls = Credentials::read(authority.issue("tool"), Callers::Verified).expect("they fit");
    assert_eq!(call(Some(tls)).expect("an answer").len(), 1_000);
    let stranger = Authority::new("links-stranger");
    let tls = Credentials::read(stranger.issue("tool"), Callers::Verified).expect("they fit");
    assert_eq!(call(Some(tls)).expect_err("no authority that it knows").status, 69);
    assert_eq!(call(None).expect_err("no TLS at all").status, 69);
}

/// Two nodes of which at least one does not believe the other.
fn check_apart(first: Options, second: Options, text: &str) {
    let (at1, at2) = (free(), free());
    let (h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], first);
    let (h2, r2) = start(identity(2, 1, "s"), at2, vec![peer(1, at1)], second);
    wait_refusal(&h1, text);
    for (handle, recorder) in [(h1, r1), (h2, r2)] {
        assert_eq!(handle.transport().peers(), []);
        handle.shutdown();
        assert_eq!(*recorder.seen.lock().expect("no panic"), []);
    }
}

#[test]
fn certificates_of_another_authority_are_not_believed() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    check_apart(
        secured(ours.issue("n1")),
        secured(theirs.issue("n2")),
        "has no TLS connection to \"n2\": invalid peer certificate: ",
    );
}

#[test]
fn a_node_without_tls_is_not_talked_to() {
    let authority = Authority::new("plain");
    check_apart(
        secured(authority.issue("n1")),
        patient(),
        "has no TLS connection to \"n2\"",
    );
}

#[test]
fn a_restarted_node_comes_with_a_new_certificate_and_others_take_theirs_anew() {
    let authority = Authority::new("renewed");
    let files = authority.issue("n1");
    let options = secured(files);
    let credentials = options.tls.clone().expect("given");
    let (at1, at2) = (free(), free());
    let (h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], options);
    let (h2, r2) = start(
        identity(2, 1, "s"),
        at2,
        vec![peer(1, at1)],
        secured(authority.issue("n2")),
    );
    r2.wait_for(&up(1, 1));
    r1.wait_for(&Seen::Writable(2));
    authority.issue("n1");
    assert!(credentials.reload().expect("they fit"));
    h1.transport().send(2, envelope(7, 10)).expect("room");
    r2.wait_for(&Seen::Envelope(1, envelope(7, 10)));
    let resets = |recorder: &Recorder| {
        let seen = recorder.seen.lock().expect("no panic");
        seen.iter().filter(|seen| matches!(seen, Seen::Reset(_))).count()
    };
    assert_eq!(resets(&r1), 0, "the link goes on");

    h2.shutdown();
    let (_h2, r2) = start(
        identity(2, 2, "s"),
        at2,
        vec![peer(1, at1)],
        secured(authority.issue("n2")),
    );
    r2.wait_for(&up(1, 1));
    r1.wait_for(&up(2, 2));
}
