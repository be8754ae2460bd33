//! Text cases: paragraphs of commands, a line of dashes, the expected answer. Other paragraphs are prose.
//!
//! With `UPDATE_CASES` set in the environment, a file that does not agree is rewritten instead.

use std::fmt::Write as _;

const DASHES: &str = "----";

/// Runs the cases of a file below `src/` in order; `run` answers one line of a command.
pub(crate) fn check(file: &str, mut run: impl FnMut(&str) -> String) {
    let path = format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the file of cases is there");
    let mut actual = String::new();
    for (n, paragraph) in text.trim_end().split("\n\n").enumerate() {
        if n > 0 {
            actual.push_str("\n\n");
        }
        let mut lines = paragraph.lines();
        let commands: Vec<_> = lines.by_ref().take_while(|line| *line != DASHES).collect();
        actual.push_str(&commands.join("\n"));
        if commands.len() == paragraph.lines().count() {
            continue;
        }
        write!(actual, "\n{DASHES}").expect("a string grows as needed");
        for command in commands {
            let answer = run(command);
            for line in answer.lines() {
                write!(actual, "\n{line}").expect("a string grows as needed");
            }
        }
    }
    actual.push('\n');
    if actual == text {
        return;
    }
    if std::env::var_os("UPDATE_CASES").is_some() {
        std::fs::write(&path, actual).expect("the file of cases can be written");
        return;
    }
    for (actual, expected) in actual.lines().zip(text.lines()) {
        assert_eq!(actual, expected, "in {file}");
    }
    panic!(
        "{file} has {} lines and should have {}",
        text.lines().count(),
        actual.lines().count()
    );
}
