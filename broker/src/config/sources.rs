//! Where settings come from: the file, the environment, the flags. Each yields the same [`Setting`]s.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use clap::{Arg, ArgAction, Command, error::ErrorKind};
use toml::de::{DeTable, DeValue};

use super::{
    Error, Origin,
    options::{self, FLAGS, OPTIONS, Opt},
};

/// Names the configuration file when no flag does.
pub(super) const CONFIG_VARIABLE: &str = "WARREN_CONFIG";

/// What containers made for RabbitMQ set. Weaker than our own variables, stronger than the file.
const BORROWED: [(&str, &str, &str); 4] = [
    ("RABBITMQ_NODENAME", "node", "name"),
    ("RABBITMQ_DEFAULT_USER", "users", "default_user"),
    ("RABBITMQ_DEFAULT_PASS", "users", "default_pass"),
    ("RABBITMQ_DEFAULT_VHOST", "users", "default_vhost"),
];

/// Read by our scripts, and inherited by what they start.
const OF_SCRIPTS: [&str; 4] = [
    "WARREN_CLUSTER_DIR",
    "WARREN_CLUSTER_BASE",
    "WARREN_AMQP_BASE",
    "WARREN_TLS_BASE",
];

pub(super) struct Setting {
    pub(super) option: &'static Opt,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Integer(i64),
    /// As it was written.
    Fraction(String),
    Text(String),
    Boolean(bool),
    List(Vec<String>),
    /// From a variable or a flag: text that may stand for any kind, a list's items apart by commas.
    Loose(String),
    /// A kind that no option has.
    Other(&'static str),
}

impl Value {
    pub(super) fn integer(&self) -> Result<i64, String> {
        match self {
            Self::Integer(number) => Ok(*number),
            Self::Loose(text) => text.parse().map_err(|_| "must be a whole number".into()),
            Self::Fraction(_) | Self::Text(_) | Self::Boolean(_) | Self::List(_) | Self::Other(_) => {
                Err("must be a whole number".into())
            }
        }
    }

    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Loose(text) => Ok(text),
            Self::Integer(_) | Self::Fraction(_) | Self::Boolean(_) | Self::List(_) | Self::Other(_) => {
                Err("must be text in quotes".into())
            }
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, String> {
        let text = match self {
            Self::Boolean(value) => return Ok(*value),
            Self::Loose(text) => text.as_str(),
            Self::Integer(_) | Self::Fraction(_) | Self::Text(_) | Self::List(_) | Self::Other(_) => "",
        };
        text.parse().map_err(|_| "must be true or false".into())
    }

    /// A number or text, as text.
    pub(super) fn loose_text(&self) -> Result<String, String> {
        match self {
            Self::Integer(number) => Ok(number.to_string()),
            Self::Fraction(text) | Self::Text(text) | Self::Loose(text) => Ok(text.clone()),
            Self::Boolean(_) | Self::List(_) | Self::Other(_) => Err("must be a number or text in quotes".into()),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Loose(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()),
            Self::Integer(_) | Self::Fraction(_) | Self::Text(_) | Self::Boolean(_) | Self::Other(_) => {
                Err("must be a list of texts: [\"..\", \"..\"]".into())
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::List(items) => write!(f, "{items:?}"),
            Self::Fraction(text) | Self::Loose(text) => f.write_str(text),
            Self::Other(kind) => write!(f, "({kind})"),
        }
    }
}

/// The settings of a file, in its order.
pub(super) fn file(path: &str, text: &str) -> Result<Vec<Setting>, Error> {
    let line_at = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    let origin = |offset| Origin::File {
        path: path.to_owned(),
        line: line_at(offset),
    };
    let document = DeTable::parse(text).map_err(|error| Error::Syntax {
        path: path.to_owned(),
        line: line_at(error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    })?;

    let mut settings = Vec::new();
    for (section, body) in document.get_ref() {
        let at = section.span().start;
        let DeValue::Table(table) = body.get_ref() else {
            let (key, value) = (section.get_ref().to_string(), value(body.get_ref()).to_string());
            return Err(Error::Unknown {
                origin: origin(at),
                key,
                value,
                known: options::sections(),
            });
        };
        if !OPTIONS
            .iter()
            .any(|option| option.section == section.get_ref().as_ref())
        {
            let key = format!("[{}]", section.get_ref());
            return Err(Error::Unknown {
                origin: origin(at),
                key,
                value: String::new(),
                known: options::sections(),
            });
        }
        for (name, given) in table {
            let (at, value) = (name.span().start, value(given.get_ref()));
            let option = options::find(section.get_ref(), name.get_ref()).map_err(|known| Error::Unknown {
                origin: origin(at),
                key: format!("{}.{}", section.get_ref(), name.get_ref()),
                value: value.to_string(),
                known,
            })?;
            settings.push((
                at,
                Setting {
                    option,
                    value,
                    origin: origin(at),
                },
            ));
        }
    }
    settings.sort_by_key(|(at, _)| *at);
    Ok(settings.into_iter().map(|(_, setting)| setting).collect())
}

fn value(given: &DeValue<'_>) -> Value {
    match given {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number too large"), Value::Integer),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_)
                    | DeValue::Array(_)
                    | DeValue::Table(_) => None,
                })
                .collect();
            texts.map_or(Value::Other("a list not of texts"), Value::List)
        }
        DeValue::Float(number) => Value::Fraction(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// The settings among `env`: borrowed ones first, so that ours override them.
pub(super) fn environment(env: &BTreeMap<String, String>) -> Result<Vec<Setting>, Error> {
    let setting = |option, variable: &str, text: &str| Setting {
        option,
        value: Value::Loose(text.to_owned()),
        origin: Origin::Variable(variable.to_owned()),
    };
    let mut settings = Vec::new();
    for (variable, section, name) in BORROWED {
        if let (Some(text), Ok(option)) = (env.get(variable), options::find(section, name)) {
            settings.push(setting(option, variable, text));
        }
    }
    for (variable, text) in env {
        let Some(section) = section_of(variable) else { continue };
        match OPTIONS.iter().find(|option| option.variable() == *variable) {
            Some(option) => settings.push(setting(option, variable, text)),
            None => {
                let names = OPTIONS
                    .iter()
                    .filter(|option| option.section == section)
                    .map(Opt::variable);
                return Err(Error::Unknown {
                    origin: Origin::Variable(variable.clone()),
                    key: "of this name".into(),
                    value: String::new(),
                    known: format!("there are {}", names.collect::<Vec<_>>().join(", ")),
                });
            }
        }
    }
    Ok(settings)
}

/// The section that `variable` must mean an option of, so that a misspelt one is not passed over.
/// Variables of our scripts, and those Kubernetes sets for a service that is called like a section, mean none.
fn section_of(variable: &str) -> Option<&'static str> {
    let rest = variable.strip_prefix("WARREN_")?;
    let section = OPTIONS.iter().map(|option| option.section).find(|section| {
        rest.strip_prefix(section.to_uppercase().as_str())
            .is_some_and(|tail| tail.starts_with('_'))
    })?;
    let of_service = rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.ends_with("_PORT")
        || rest.contains("_TCP");
    (!OF_SCRIPTS.contains(&variable) && !of_service).then_some(section)
}

pub(super) struct Flags {
    /// `--config`.
    pub(super) config: Option<String>,
    pub(super) settings: Vec<Setting>,
}

/// The flags among `args`, which do not begin with the program's name.
pub(super) fn flags(args: impl IntoIterator<Item = OsString>) -> Result<Flags, Error> {
    let mut matches = command()
        .try_get_matches_from(args)
        .map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Error::Help(error.to_string()),
            _ => Error::Usage(error.to_string().trim_end().trim_start_matches("error: ").to_owned()),
        })?;
    let mut settings = Vec::new();
    for (option, flag) in OPTIONS.iter().zip(FLAGS.iter()) {
        if let Some(text) = matches.remove_one::<String>(flag) {
            settings.push(Setting {
                option,
                value: Value::Loose(text),
                origin: Origin::Flag(format!("--{flag}")),
            });
        }
    }
    Ok(Flags {
        config: matches.remove_one("config"),
        settings,
    })
}

fn command() -> Command {
    let mut command = Command::new("warren")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A node of a Warren cluster: an AMQP 0-9-1 broker whose durable queues are Raft groups")
        .after_help(
            "Each option is also a key of the file (--amqp-heartbeat-s: heartbeat_s in [amqp]) \
             and a variable (WARREN_AMQP_HEARTBEAT_S). Flags override variables, variables override the file.",
        )
        .no_binary_name(true);
    command = command.arg(
        Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .help("The configuration file (WARREN_CONFIG)"),
    );
    for (option, flag) in OPTIONS.iter().zip(FLAGS.iter()) {
        let arg = Arg::new(flag.as_str())
            .long(flag.as_str())
            .value_name(option.shape)
            .help(option.help);
        command = command.arg(arg.action(ArgAction::Set).allow_negative_numbers(true));
    }
    command
}
