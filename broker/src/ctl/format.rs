//! Rows as text: a table with tabs, a table with a frame, JSON, or CSV.

use serde_json::{Map, Value, json};

use super::{
    line::{Common, Formatter},
    plan::Columns,
};

/// How the line wants its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    formatter: Option<Formatter>,
    pub(super) banner: bool,
    headings: bool,
    quiet: bool,
}

impl Style {
    pub(super) fn of(common: &Common) -> Self {
        let quiet = common.quiet || common.silent;
        let machine = matches!(common.formatter, Some(Formatter::Json | Formatter::Csv));
        Self {
            formatter: common.formatter,
            banner: !quiet && !machine,
            headings: !common.silent && !common.no_table_headers,
            quiet,
        }
    }

    pub(super) fn rows(self, columns: &Columns, rows: &[Value]) -> String {
        let usual = if columns.framed {
            Formatter::PrettyTable
        } else {
            Formatter::Table
        };
        let formatter = self.formatter.unwrap_or(usual);
        let kept = rows
            .iter()
            .filter(|row| columns.online.is_none_or(|online| has_leader(row) == online));
        if formatter == Formatter::Json {
            let objects: Vec<String> = kept
                .map(|row| {
                    let field = |name: &String| (name.clone(), row.get(name).cloned().unwrap_or(Value::Null));
                    Value::Object(columns.names.iter().map(field).collect::<Map<_, _>>()).to_string()
                })
                .collect();
            let end = if objects.is_empty() { "" } else { "\n" };
            return format!("[\n{}{end}]\n", objects.join("\n,"));
        }

        let lines: Vec<Vec<String>> = kept
            .map(|row| {
                columns
                    .names
                    .iter()
                    .map(|name| row.get(name).map_or_else(String::new, cell))
                    .collect()
            })
            .collect();
        // Nothing to list has no headings either, as rabbitmqctl has it.
        if lines.is_empty() {
            return String::new();
        }
        let headings = self.headings.then_some(columns.names.as_slice());
        match formatter {
            Formatter::PrettyTable => framed(headings, &lines),
            Formatter::Csv => joined(headings, &lines, ",", |text| {
                format!("\"{}\"", text.replace('"', "\"\""))
            }),
            Formatter::Table | Formatter::Json => joined(headings, &lines, "\t", str::to_owned),
        }
    }

    /// One object that is told in words, unless as JSON.
    pub(super) fn report(self, row: &Value, words: fn(&Value, bool) -> String) -> String {
        match self.formatter {
            Some(Formatter::Json) => format!("{row}\n"),
            Some(Formatter::Table | Formatter::PrettyTable | Formatter::Csv) | None => words(row, self.banner),
        }
    }

    /// The end of a command that has no rows.
    pub(super) fn done(self, node: &str, message: &str) -> String {
        match self.formatter {
            Some(Formatter::Json) if message.is_empty() => format!("{}\n", json!({"status": "ok", "node": node})),
            Some(Formatter::Json) => format!("{}\n", json!({"status": "ok", "node": node, "message": message})),
            Some(Formatter::Table | Formatter::PrettyTable | Formatter::Csv) | None => {
                if message.is_empty() || self.quiet {
                    String::new()
                } else {
                    format!("{message}\n")
                }
            }
        }
    }
}

fn has_leader(row: &Value) -> bool {
    row.get("leader")
        .and_then(Value::as_str)
        .is_some_and(|leader| !leader.is_empty())
}

fn joined(headings: Option<&[String]>, lines: &[Vec<String>], between: &str, quote: fn(&str) -> String) -> String {
    let line = |fields: &[String]| {
        fields
            .iter()
            .map(|field| quote(field))
            .collect::<Vec<_>>()
            .join(between)
            + "\n"
    };
    headings
        .into_iter()
        .map(line)
        .chain(lines.iter().map(|fields| line(fields)))
        .collect()
}

fn framed(headings: Option<&[String]>, lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().map(Vec::as_slice).chain(headings);
        cells
            .filter_map(|fields| fields.get(column))
            .map(|field| field.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(width).collect();
    let rule = |left: &str, cross: &str, right: &str| {
        let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", bars.join(cross))
    };
    let line = |fields: &[String]| {
        let cells: Vec<String> = fields
            .iter()
            .zip(&widths)
            .map(|(field, width)| format!(" {field:<width$} "))
            .collect();
        format!("│{}│\n", cells.join("│"))
    };
    let body: Vec<String> = headings
        .into_iter()
        .map(line)
        .chain(lines.iter().map(|fields| line(fields)))
        .collect();
    rule("┌", "┬", "┐") + &body.join(&rule("├", "┼", "┤")) + &rule("└", "┴", "┘")
}

/// A field as a table shows it: lists as `[a, b]`, arguments as `[{"x-max-length",5}]`, no control characters.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => plain(text),
        Value::Array(items) if items.iter().all(is_argument) => {
            let pairs: Vec<String> = items
                .iter()
                .map(|item| format!("{{{},{}}}", item.get(0).unwrap_or(&Value::Null), argument(item)))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(cell).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => value.to_string(),
    }
}

/// `[name, type, value]`.
fn is_argument(item: &Value) -> bool {
    match item {
        Value::Array(parts) => matches!(parts.as_slice(), [Value::String(_), Value::String(_), _]),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => false,
    }
}

fn argument(item: &Value) -> String {
    let nested = item.get(1).and_then(Value::as_str).is_some_and(|kind| kind == "table");
    match item.get(2) {
        Some(table) if nested => cell(table),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

/// The same for a text of several lines.
pub(super) fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// A name may hold a line end, a tab, or a terminal's commands: these show escaped, so that a row stays a row.
fn plain(text: &str) -> String {
    if text.contains(char::is_control) {
        text.chars()
            .flat_map(|c| {
                if c.is_control() {
                    c.escape_default().collect::<Vec<_>>()
                } else {
                    vec![c]
                }
            })
            .collect()
    } else {
        text.to_owned()
    }
}
