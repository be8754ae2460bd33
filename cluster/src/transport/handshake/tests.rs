//! Handshakes between values: who is let in, and what an end in the middle can do with what it sees.

use super::*;
use crate::transport::{Membership, Standing};

fn identity(name: &str, node: NodeId, secret: &'static str) -> Identity {
    Identity {
        cluster: "burrow".to_owned(),
        name: name.to_owned(),
        node,
        incarnation: 7,
        directory: 5,
        address: format!("{name}:1"),
        membership: Membership::default(),
        versions: Versions::default(),
        secret: Secret::new(secret.as_bytes()),
    }
}

/// Knows n1 to n3 by id; of n3 the run 9 was seen.
struct Three;

impl Book for Three {
    fn name_of(&self, node: NodeId) -> Option<String> {
        ["n1", "n2", "n3"]
            .get(usize::try_from(node).ok()?.checked_sub(1)?)
            .map(|name| (*name).to_owned())
    }

    /// Of n4 the directories up to that of run 5.
    fn is_forgotten(&self, node: NodeId, directory: u64) -> bool {
        node == 4 && directory <= 5
    }

    fn admit(&self, node: NodeId, incarnation: u64) -> Result<(), Stale> {
        if node == 3 && incarnation < 9 {
            Err(Stale {
                claimed: incarnation,
                seen: 9,
            })
        } else {
            Ok(())
        }
    }
}

fn both(caller: &Identity, callee: &Identity) -> Result<(Proven, Proven), Refusal> {
    let from = Caller::node(caller, Purpose::Link, &callee.name, callee.node);
    let (at, welcome) = Callee::new(callee, Purpose::Link, from.hello(), &Three)?;
    let (called, proof) = from.welcome(welcome)?;
    let (proven, refused) = at.proof(&proof)?;
    match refused {
        Some(refusal) => Err(refusal),
        None => Ok((proven, called)),
    }
}

#[test]
fn both_ends_learn_who_is_there() {
    let (caller, callee) = both(&identity("n1", 1, "s"), &identity("n2", 2, "s")).expect("same secret");
    assert_eq!((caller.name.as_str(), caller.node, caller.incarnation), ("n1", 1, 7));
    assert_eq!((callee.name.as_str(), callee.node, callee.incarnation), ("n2", 2, 7));
}

#[test]
fn refusals_name_the_other_end() {
    let n2 = identity("n2", 2, "s");
    let check = |caller: Identity, text: &str| {
        let refusal = both(&caller, &n2).expect_err(text);
        assert_eq!(refusal.to_string(), text);
    };
    check(identity("n1", 1, "other"), "\"n2\" has another cluster secret");
    check(
        identity("n9", 9, "s"),
        "\"n9\" (id 9) is not part of the cluster: a new node has to join it",
    );
    check(identity("n9", 1, "s"), "\"n9\" has the id 1, which is that of \"n1\"");
    check(identity("n1", 2, "s"), "\"n1\" has the id 2, which is that of \"n2\"");
    check(
        identity("n1", 0, "s"),
        "\"n1\" (id 0) is not part of the cluster: a new node has to join it",
    );
    check(
        identity("n3", 3, "s"),
        "\"n3\": run 7 of that node has ended: run 9 was seen",
    );
    let foreign = Identity {
        cluster: "warren".to_owned(),
        ..identity("n1", 1, "s")
    };
    check(foreign, "\"n1\" belongs to the cluster \"warren\", not \"burrow\"");
}

#[test]
fn a_caller_that_cannot_prove_itself_is_refused() {
    let (n1, n2) = (identity("n1", 1, "other"), identity("n2", 2, "s"));
    let from = Caller::node(&n1, Purpose::Link, "n2", 2);
    let (at, welcome) = Callee::new(&n2, Purpose::Link, from.hello(), &Three).expect("a good hello");
    let theirs = welcome.hello.expect("a hello");
    for proof in [
        prove(&n1.secret, Role::Caller, Purpose::Link, &from.hello(), &theirs),
        welcome.proof.clone(),                                                      // Reflected.
        prove(&n2.secret, Role::Caller, Purpose::Snapshot, &from.hello(), &theirs), // For another purpose.
        Bytes::new(),
        welcome.proof.slice(..31),
    ] {
        let again = Callee {
            secret: at.secret.clone(),
            ours: at.ours.clone(),
            theirs: at.theirs.clone(),
            versions: at.versions.clone(),
            refused: at.refused.clone(),
            ..at
        };
        assert_eq!(again.proof(&proof), Err(Refusal::Secret("n1".to_owned())));
    }
}

#[test]
fn whoever_was_forgotten_is_told_once_it_has_proved_itself() {
    let n2 = identity("n2", 2, "s");
    let old = identity("n4", 4, "s");
    assert_eq!(both(&old, &n2), Err(Refusal::Forgotten("n4".to_owned())));
    let stranger = identity("n4", 4, "guess");
    assert_eq!(both(&stranger, &n2), Err(Refusal::Secret("n2".to_owned())));
    // With another directory it is another node, which nobody knows yet.
    let new = Identity {
        directory: 6,
        ..identity("n4", 4, "s")
    };
    assert_eq!(both(&new, &n2), Err(Refusal::Unknown("n4".to_owned(), 4)));
}

#[test]
fn whoever_does_not_apply_what_was_agreed_on_is_refused() {
    let versions = Versions::default();
    let n2 = Identity {
        versions: versions.clone(),
        ..identity("n2", 2, "s")
    };
    let old = Identity {
        versions: Versions::new(version::FIRST),
        ..identity("n1", 1, "s")
    };
    assert!(both(&old, &n2).is_ok() && both(&n2, &old).is_ok());
    versions.agree(version::LATEST);
    let refusal = Err(Refusal::TooOld("n1".to_owned(), version::FIRST, version::LATEST));
    assert_eq!(both(&old, &n2), refusal);
    assert_eq!(both(&n2, &old), refusal);
    // An operator may ask any node with any tool.
    let from = Caller::tool("burrow", n2.secret.clone());
    let (at, welcome) = Callee::new(&n2, Purpose::Admin, from.hello(), &Three).expect("a good hello");
    let (_, proof) = from.welcome(welcome).expect("a good welcome");
    assert!(at.proof(&proof).is_ok());
}

#[test]
fn a_callee_in_the_middle_is_refused() {
    let (n1, n2, n3) = (identity("n1", 1, "s"), identity("n2", 2, "s"), identity("n3", 3, "s"));
    let mallory = identity("n2", 2, "guess");
    // It answers by itself.
    let from = Caller::node(&n1, Purpose::Link, "n2", 2);
    let (_, welcome) = Callee::new(&mallory, Purpose::Link, from.hello(), &Three).expect("a good hello");
    assert_eq!(from.welcome(welcome), Err(Refusal::Secret("n2".to_owned())));
    // It passes the hello on to another node, and that node's welcome back.
    let from = Caller::node(&n1, Purpose::Link, "n2", 2);
    let (_, welcome) = Callee::new(&n3, Purpose::Link, from.hello(), &Three).expect("a good hello");
    assert_eq!(
        from.welcome(welcome),
        Err(Refusal::Other("n2".to_owned(), "n3".to_owned(), 3))
    );
    // The same, with the name changed on the way.
    let from = Caller::node(&n1, Purpose::Link, "n2", 2);
    let (_, mut welcome) = Callee::new(&n3, Purpose::Link, from.hello(), &Three).expect("a good hello");
    if let Some(hello) = &mut welcome.hello {
        "n2".clone_into(&mut hello.name);
        hello.node = 2;
    }
    assert_eq!(from.welcome(welcome), Err(Refusal::Secret("n2".to_owned())));
    // It reflects the caller's own hello by calling the caller back as n2.
    let from = Caller::node(&n1, Purpose::Link, "n2", 2);
    let as_n2 = Hello {
        name: "n2".to_owned(),
        node: 2,
        ..from.hello()
    };
    let (_, mut welcome) = Callee::new(&n1, Purpose::Link, as_n2, &Three).expect("n2 may call n1");
    if let Some(hello) = &mut welcome.hello {
        "n2".clone_into(&mut hello.name);
        hello.node = 2;
    }
    assert_eq!(from.welcome(welcome), Err(Refusal::Secret("n2".to_owned())));
    // It replays a welcome of the real n2 from an earlier handshake.
    let earlier = Caller::node(&n1, Purpose::Link, "n2", 2);
    let (_, welcome) = Callee::new(&n2, Purpose::Link, earlier.hello(), &Three).expect("a good hello");
    let from = Caller::node(&n1, Purpose::Link, "n2", 2);
    assert_eq!(from.welcome(welcome), Err(Refusal::Secret("n2".to_owned())));
    // It makes a run look newer.
    let from = Caller::node(&n1, Purpose::Link, "n2", 2);
    let (_, mut welcome) = Callee::new(&n2, Purpose::Link, from.hello(), &Three).expect("a good hello");
    if let Some(hello) = &mut welcome.hello {
        hello.incarnation += 1;
    }
    assert_eq!(from.welcome(welcome), Err(Refusal::Secret("n2".to_owned())));
}

#[test]
fn a_tool_may_call_but_open_nothing_else() {
    let n2 = identity("n2", 2, "s");
    let tool = Caller::tool("burrow", Secret::new(&b"s"[..]));
    let (at, welcome) = Callee::new(&n2, Purpose::Admin, tool.hello(), &Three).expect("a tool");
    let (called, proof) = tool.welcome(welcome).expect("the cluster's node");
    assert_eq!(called.name, "n2");
    assert_eq!(at.proof(&proof).expect("proven").0.name, TOOL);
    for purpose in [Purpose::Link, Purpose::Snapshot] {
        let hello = Caller::tool("burrow", Secret::new(&b"s"[..])).hello();
        let refusal = Callee::new(&n2, purpose, hello, &Three).expect_err("not for tools");
        assert_eq!(refusal, Refusal::Unknown(TOOL.to_owned(), 0));
    }
}

#[test]
fn malformed_hellos_are_refused() {
    let n2 = identity("n2", 2, "s");
    let good = Caller::node(&identity("n1", 1, "s"), Purpose::Link, "n2", 2).hello();
    let check = |hello: Hello, text: &str| {
        let refusal = Callee::new(&n2, Purpose::Link, hello, &Three).expect_err(text);
        assert_eq!(refusal.to_string(), text);
    };
    check(
        Hello {
            protocol: 2,
            ..good.clone()
        },
        "\"n1\" speaks version 2 of the protocol, not 1",
    );
    check(
        Hello {
            challenge: Bytes::from_static(b"short"),
            ..good.clone()
        },
        "\"n1\" broke the handshake: a challenge of the wrong length",
    );
    let long = Hello {
        name: "x".repeat(300),
        ..good
    };
    check(
        long,
        &format!("\"{}\" broke the handshake: a name is too long", "x".repeat(32)),
    );
}

/// A node of that cluster, of which it knows these.
fn of(cluster_id: &str, reformed: u64, nodes: &[NodeId], node: Identity) -> Identity {
    let membership = Membership::default();
    membership.set(Standing {
        cluster_id: cluster_id.to_owned(),
        reformed,
        nodes: nodes.iter().copied().collect(),
        is_current: true,
    });
    Identity { membership, ..node }
}

#[test]
fn a_stranger_that_proves_itself_says_and_learns_where_it_stands() {
    // It lost its disk, and does not know who calls it.
    let empty = identity("n1", 1, "s");
    let member = of("id", 7, &[1, 9], identity("n9", 9, "s"));
    let from = Caller::node(&member, Purpose::Link, "n1", 1);
    let (at, welcome) = Callee::new(&empty, Purpose::Link, from.hello(), &Three).expect("it may prove itself");
    let (_, proof) = from.welcome(welcome).expect("same secret");
    let (proven, refused) = at.proof(&proof).expect("same secret");
    assert_eq!(refused, Some(Refusal::Unknown("n9".to_owned(), 9)));
    let said = Met {
        node: 9,
        name: "n9".to_owned(),
        address: "n9:1".to_owned(),
        directory: member.directory,
        cluster_id: "id".to_owned(),
        reformed: Some(7),
        counts_us: Some(true),
    };
    assert_eq!(proven.met, said);
    // It calls one that does not count it.
    let other = of("id", 0, &[2, 3], identity("n2", 2, "s"));
    let from = Caller::node(&empty, Purpose::Link, "n2", 2);
    let (_, welcome) = Callee::new(&other, Purpose::Link, from.hello(), &Three).expect("a good hello");
    let (proven, _) = from.welcome(welcome).expect("same secret");
    assert_eq!((proven.met.counts_us, proven.met.reformed), (Some(false), Some(0)));
    // A node of an older build, or one that knows of no cluster, says nothing.
    let (caller, _) = both(&empty, &other).expect("it is known by name");
    assert_eq!((caller.met.counts_us, caller.met.reformed), (None, None));
    assert_eq!(check_side(&other, &caller), Ok(()));
}

#[test]
fn sides_are_told_apart() {
    let n2 = of("id.1.x", 5, &[1, 2], identity("n2", 2, "s"));
    for (n1, side) in [
        (
            of("id", 0, &[], identity("n1", 1, "s")),
            Err(Refusal::Behind("n1".to_owned())),
        ),
        (
            of("id", 6, &[], identity("n1", 1, "s")),
            Err(Refusal::Ahead("n1".to_owned())),
        ),
        (
            of("no", 5, &[], identity("n1", 1, "s")),
            Err(Refusal::Foreign("n1".to_owned())),
        ),
        (of("id", 5, &[], identity("n1", 1, "s")), Ok(())),
    ] {
        let (caller, _) = both(&n1, &n2).expect("same secret");
        assert_eq!(check_side(&n2, &caller), side);
    }
}
