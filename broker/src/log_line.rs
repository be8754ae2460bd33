//! Log lines as they reach a terminal or a file: one event, one line, of bounded length.
//!
//! What clients send stands in log lines: user names, mechanisms, names of queues. None of it may begin a line of its
//! own or speak to the terminal, so every control character but the line's end is written as an escape.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// A longer line is cut here, in bytes before escaping.
pub const LINE_MAX: usize = 8 << 10;

/// Makes a [`Line`] around the given writer for each event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines<F>(pub F);

impl<'a, F, W> MakeWriter<'a> for Lines<F>
where
    F: Fn() -> W,
    W: Write,
{
    type Writer = Line<W>;

    fn make_writer(&'a self) -> Line<W> {
        Line(self.0())
    }
}

/// Takes one whole event at a time, its line's end included.
#[derive(Debug)]
pub struct Line<W>(W);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(escaped(event).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn escaped(event: &[u8]) -> String {
    let event = event.strip_suffix(b"\n").unwrap_or(event);
    let cut = &event[..event.len().min(LINE_MAX)];
    let mut line = String::with_capacity(cut.len() + 1);
    for char in String::from_utf8_lossy(cut).chars() {
        if char.is_control() {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    if cut.len() < event.len() {
        line.push_str("...");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event: &str, expected: &str) {
        let mut out = Vec::new();
        let lines = Lines(Vec::<u8>::new);
        let mut line = lines.make_writer();
        line.write_all(event.as_bytes()).expect("memory takes everything");
        out.append(&mut line.0);
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn an_event_is_one_line() {
        check(
            "user 'evil\n2026 ERROR forged \u{1b}[31m\u{9b}2J\0' ü\n",
            "user 'evil\\n2026 ERROR forged \\u{1b}[31m\\u{9b}2J\\u{0}' ü\n",
        );
        check("as it is\n", "as it is\n");
    }

    #[test]
    fn a_line_is_bounded() {
        let long = "x".repeat(LINE_MAX + 1) + "\n";
        check(&long, &("x".repeat(LINE_MAX) + "...\n"));
    }
}
