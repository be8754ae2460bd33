use bytes::Bytes;

use super::*;

#[test]
fn requests_read_as_they_are_written() {
    let cases = [
        (Request::Ping, r#"{"verb":"ping"}"#),
        (
            Request::ListQueues {
                vhost: "/".into(),
                columns: vec!["name".into()],
            },
            r#"{"verb":"list_queues","vhost":"/","columns":["name"]}"#,
        ),
        (Request::ListConnections, r#"{"verb":"list_connections"}"#),
        (
            Request::DeleteQueue {
                vhost: "v".into(),
                queue: "q".into(),
                if_unused: true,
                if_empty: false,
            },
            r#"{"verb":"delete_queue","vhost":"v","queue":"q","if_unused":true,"if_empty":false}"#,
        ),
    ];
    for (request, text) in cases {
        assert_eq!(serde_json::to_string(&request).expect("requests are plain data"), text);
        assert_eq!(
            serde_json::from_str::<Request>(text).expect("it was just written"),
            request
        );
    }
    assert!(serde_json::from_str::<Request>(r#"{"verb":"eval"}"#).is_err());
    assert!(serde_json::from_str::<Request>("17").is_err());
}

#[test]
fn rows_of_another_version_are_read() {
    let row: QueueRow = serde_json::from_str(r#"{"name":"q","messages":3,"added_later":[1]}"#).expect("compatible");
    assert_eq!(
        row,
        QueueRow {
            name: "q".into(),
            messages: 3,
            ..QueueRow::default()
        }
    );
}

#[test]
fn columns_are_rabbitmqctls() {
    let columns = QueueRow::columns();
    for name in [
        "name",
        "type",
        "messages",
        "messages_ready",
        "messages_unacknowledged",
        "policy",
        "leader",
        "online",
    ] {
        assert!(columns.iter().any(|column| column == name), "{name}");
    }
    assert_eq!(ReplicaRow::columns()[..3], ["Node Name", "Raft State", "Membership"]);
    for column in QueueRow::ASKED_OF_LEADER {
        assert!(columns.iter().any(|name| name == column), "{column}");
    }
    assert!(QueueRow::asks_leaders(&["name".into(), "messages".into()]));
    assert!(!QueueRow::asks_leaders(&["name".into(), "leader".into()]));
}

#[test]
fn arguments_keep_their_types() {
    let name = |text| ShortStr::new(text).expect("short");
    let table = Table(vec![
        (name("x-max-length"), Field::I32(5)),
        (name("x-queue-type"), Field::LongStr(Bytes::from_static(b"quorum"))),
        (
            name("t"),
            Field::Table(Table(vec![(
                name("a"),
                Field::Array(vec![Field::Bool(true), Field::Void]),
            )])),
        ),
        (name("b"), Field::ByteArray(Bytes::from_static(b"\xff"))),
    ]);
    assert_eq!(
        serde_json::to_string(&Arguments::from(&table)).expect("plain data"),
        concat!(
            r#"[["x-max-length","signedint",5],["x-queue-type","longstr","quorum"],"#,
            r#"["t","table",[["a","array",[["bool",true],["void",null]]]]],["b","binary","#,
            "\"\u{fffd}\"]]"
        )
    );
}
