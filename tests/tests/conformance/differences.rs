//! The list of what a RabbitMQ answers otherwise, `differences.md`, and that it is what the cases name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const LIST: &str = include_str!("differences.md");

/// The names in its first column.
pub(crate) fn rows() -> Vec<&'static str> {
    let cells = LIST.lines().filter_map(|line| line.strip_prefix("| `"));
    cells.filter_map(|line| Some(line.split_once("` |")?.0)).collect()
}

/// The rows that this suite's sources name, wherever they stand in them.
fn named() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut named = BTreeSet::new();
    for file in fs::read_dir(directory).expect("the suite's sources are there") {
        let path = file.expect("it is listed").path();
        if path.extension().is_none_or(|kind| kind != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source is text");
        for call in ["differs", "ours_or_stock"] {
            let call = format!("{call}(");
            for rest in text.split(&call).skip(1) {
                let name = rest
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|rest| rest.split_once('"'));
                named.extend(name.map(|(name, _)| name.to_owned()));
            }
        }
    }
    named
}

#[test]
fn every_row_is_named_by_a_case_and_every_name_is_a_row() {
    let listed: BTreeSet<String> = rows().into_iter().map(str::to_owned).collect();
    assert_eq!(named(), listed);
}

#[test]
fn every_row_is_listed_once_in_order_and_says_all_there_is_to_say() {
    let rows = rows();
    assert!(rows.is_sorted_by(|one, next| one < next), "{rows:?}");
    for line in LIST.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
    }
}
