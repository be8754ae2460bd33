//! The version of entries that a cluster agrees on.

use super::*;

fn configured(effects: &[Effect]) -> Vec<&Effect> {
    let is_configured = |effect: &&Effect| matches!(effect, Effect::QueueConfigured(_));
    effects.iter().filter(is_configured).collect()
}

#[test]
fn a_version_is_agreed_on_once_every_node_supports_it() {
    let mut node = Node::bootstrapped();
    let up = |incarnation, version| Change::NodeUp {
        run: run(2, incarnation),
        name: "two".into(),
        address: String::new(),
        directory: 0,
        version,
        sessions_from: 0,
    };
    let raise = |nodes: &[Run]| Change::RaiseVersion {
        version: version::LATEST,
        nodes: nodes.to_vec(),
    };
    node.apply(&up(1, version::FIRST));
    assert_eq!(node.picture().supported(&[1]), version::FIRST, "the second is known");
    node.apply(&up(2, version::LATEST));
    assert_eq!(node.picture().supported(&[1, 2]), version::LATEST);
    assert_eq!(
        node.picture().supported(&[1, 2, 3]),
        version::FIRST,
        "nobody knows of the third"
    );
    node.apply(&Change::NodeDown { run: run(2, 2) });
    assert_eq!(
        node.picture().supported(&[1, 2]),
        version::FIRST,
        "the second may return as another build"
    );
    node.apply(&up(3, version::LATEST));

    // Proposed before the second began another run.
    for nodes in [&[run(1, 1), run(2, 2)][..], &[run(1, 1)], &[]] {
        assert_eq!(node.refused(&raise(nodes)), Refusal::NodesChanged);
        assert_eq!(node.picture().version(), version::FIRST);
    }
    node.apply(&Change::DeclareQueue(declare("plain")));
    node.apply(&Change::DeclareQueue(declare("limited")));
    node.apply(&Change::SetPolicy(SetPolicy {
        vhost: "/".into(),
        name: "limits".into(),
        operator: false,
        pattern: "^limited$".into(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: serde_json::from_str(r#"{"max-length":3}"#).expect("an object"),
    }));
    let before = node.picture().queue("/", "limited").expect("declared").configured;
    assert!(before > 0);
    let effects = node.apply(&raise(&[run(1, 1), run(2, 3)]));
    assert_eq!(node.picture().version(), version::LATEST);
    let [Effect::QueueConfigured(queue)] = &configured(&effects)[..] else {
        panic!("older builds passed over a part of the settings of one queue: {effects:?}");
    };
    assert_eq!(&*queue.name, "limited");
    assert!(queue.configured > before, "it is told anew");
    let effects = node.apply(&raise(&[run(1, 1), run(2, 3)]));
    assert!(configured(&effects).is_empty(), "only once");
    assert_eq!(node.restored().picture().version(), version::LATEST);

    assert!(matches!(node.refused(&up(4, version::FIRST)), Refusal::TooOld { .. }));
    let known = node.picture().nodes().find(|(id, _)| *id == 2).expect("it was there");
    assert_eq!(known.1.run, run(2, 3));
}

#[test]
fn what_older_nodes_would_not_know_is_refused() {
    let mut node = Node::bootstrapped();
    let change = declare("q");
    let payload = Change::DeclareQueue(change).encode(Request::default());
    let mut effects = Vec::new();
    let before = Meta {
        index: 100,
        version: version::FIRST - 1,
        ..Meta::default()
    };
    node.machine.apply(&before, &payload, &mut effects);
    assert!(
        matches!(
            effects.as_slice(),
            [Effect::Answer {
                outcome: Outcome::Refused(Refusal::NotYet { since: 1, agreed: 0 }),
                ..
            }]
        ),
        "{effects:?}"
    );
    assert!(node.picture().queue("/", "q").is_none());
    let stream = DeclareQueue {
        arguments: [("x-queue-type".into(), Value::from("stream"))].into_iter().collect(),
        ..declare("q")
    };
    let payload = Change::DeclareQueue(stream).encode(Request::default());
    let first = Meta {
        index: 101,
        version: version::FIRST,
        ..before
    };
    effects.clear();
    node.machine.apply(&first, &payload, &mut effects);
    let Some(Effect::Answer {
        outcome: Outcome::Refused(refusal),
        ..
    }) = effects.first()
    else {
        panic!("{effects:?}");
    };
    assert_eq!(refusal, &Refusal::NotYet { since: 2, agreed: 1 });
}
