use super::*;

fn directory(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("warren-joining.{}.{name}", std::process::id()));
    // What an earlier run may have left.
    let _ = std::fs::remove_dir_all(&path);
    path
}

#[test]
fn a_directory_keeps_its_number_and_what_was_answered() {
    let path = directory("number");
    let number = number_directory(&path).expect("nothing is there");
    assert!(number > 0);
    assert_eq!(number_directory(&path).expect("nothing of a log is there"), number);
    assert_eq!(read(&path).expect("nothing is there"), None);
    let joined = Joined {
        directory: number,
        begun: false,
        answer: JoinedRow {
            era: 7,
            members: vec![MemberRow {
                name: "a".into(),
                address: "h:1".into(),
            }],
            ..JoinedRow::default()
        },
    };
    write(&path, &joined).expect("a temporary directory can be written");
    assert_eq!(read(&path).expect("it was written"), Some(joined.clone()));
    assert_eq!(joined.peers("b").len(), 1);
    assert_eq!(joined.peers("a"), []);
    std::fs::remove_dir_all(path).expect("it is there");
}

#[test]
fn what_holds_a_log_is_no_new_node() {
    let path = directory("log");
    std::fs::create_dir_all(path.join(LOG)).expect("a temporary directory can be made");
    let error = number_directory(&path).expect_err("it holds a log");
    assert!(error.to_string().contains("it holds log"), "{error}");
    std::fs::remove_dir_all(path).expect("it is there");
}

#[test]
fn whoever_listens_everywhere_has_to_say_where_it_is_reached() {
    let mut config = Config::default();
    config.cluster.listen = "0.0.0.0:7101".parse().expect("an address");
    assert!(matches!(request(&config, 1), Err(Error::NoAddress(_))));
    config.cluster.seeds = vec!["warren=h:7101".parse().expect("a member")];
    match request(&config, 1).expect("it says where") {
        Request::JoinCluster { address, directory, .. } => assert_eq!((address.as_str(), directory), ("h:7101", 1)),
        other => panic!("{other:?}"),
    }
}
