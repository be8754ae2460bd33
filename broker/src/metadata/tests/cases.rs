use std::fmt::Write as _;

use super::*;
use crate::exchange::tests::cases;

/// The commands of the text cases. Names come first, then flags and `name=value` arguments in any order.
///
/// Sessions are numbers: session 21 is the first one of node 2.
#[test]
fn machine() {
    let mut node = Node::default();
    for file in ["exchanges", "queues", "bindings", "nodes", "policies"] {
        cases::check(&format!("metadata/tests/{file}.txt"), |command| {
            run_command(&mut node, command)
        });
    }
}

fn run_command(node: &mut Node, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let key = |word: &str| if word == "-" { "" } else { word }.to_owned();
    let change = match *words.as_slice() {
        ["new"] => {
            *node = Node::bootstrapped();
            return String::new();
        }
        ["state"] => return state(node.picture()),
        ["route", exchange, word] => {
            let queues = node
                .picture()
                .route("/", &key(exchange), &Arrival::by_key(&[&key(word)]));
            let names: Vec<_> = match &queues {
                Ok(queues) => queues.iter().map(|queue| &*queue.name).collect(),
                Err(NoExchange) => return "no exchange".to_owned(),
            };
            return format!("{exchange} {word}: {}", names.join(" ")).trim_end().to_owned();
        }
        ["up", word] => Change::NodeUp {
            run: parse_run(word),
            name: String::new(),
            address: String::new(),
            directory: 0,
            version: warren_cluster::version::LATEST,
            sessions_from: 0,
        },
        ["down", word] => Change::NodeDown { run: parse_run(word) },
        ["forget", word] => Change::NodeForgotten {
            node: word.parse().expect("a node"),
        },
        ["vhost", name] => Change::AddVhost(DescribeVhost {
            name: name.into(),
            ..DescribeVhost::default()
        }),
        ["delete-vhost", name] => Change::DeleteVhost { name: name.into() },
        ["session-ended", word] => Change::SessionEnded {
            session: parse_session(word),
        },
        ["exchange", name, kind, ref flags @ ..] => {
            let declare = exchange(&key(name), kind);
            Change::DeclareExchange(DeclareExchange {
                durable: !flags.contains(&"transient"),
                auto_delete: flags.contains(&"auto-delete"),
                internal: flags.contains(&"internal"),
                arguments: arguments(flags),
                ..declare
            })
        }
        ["delete-exchange", name, ref flags @ ..] => Change::DeleteExchange(DeleteExchange {
            vhost: "/".into(),
            name: key(name).into(),
            if_unused: flags.contains(&"if-unused"),
        }),
        ["queue", name, ref flags @ ..] => Change::DeclareQueue(parse_queue(name, flags)),
        ["policy", name, pattern, priority, definition, ref flags @ ..] => Change::SetPolicy(SetPolicy {
            vhost: "/".into(),
            name: name.into(),
            operator: flags.contains(&"operator"),
            pattern: pattern.into(),
            apply_to: flags
                .iter()
                .find_map(|flag| ApplyTo::from_name(flag))
                .unwrap_or_default(),
            priority: priority.parse().expect("a number"),
            definition: serde_json::from_str(definition).expect("an object"),
        }),
        ["clear-policy", name, ref flags @ ..] => Change::ClearPolicy {
            vhost: "/".into(),
            name: name.into(),
            operator: flags.contains(&"operator"),
        },
        ["queues-max", max] => Change::SetVhostLimits {
            vhost: "/".into(),
            limits: [("max-queues".to_owned(), max.parse().expect("a number"))]
                .into_iter()
                .collect(),
        },
        ["delete-queue", name] => {
            let group = node.picture().queue("/", name).map_or(0, |queue| queue.group);
            Change::DeleteQueue { group }
        }
        [verb @ ("bind" | "unbind"), source, destination, word, ref flags @ ..] => {
            let destination = match destination.strip_prefix("x:") {
                Some(name) => Destination::Exchange(key(name).into()),
                None => to_queue(destination),
            };
            let by = flags.iter().find_map(|flag| flag.strip_prefix("by:"));
            let bind = Bind {
                arguments: arguments(flags),
                session: by.map_or_else(|| session(1), parse_session),
                ..bind(&key(source), destination, &key(word))
            };
            if verb == "bind" {
                Change::Bind(bind)
            } else {
                Change::Unbind(bind)
            }
        }
        _ => panic!("unknown command {command}"),
    };
    let mut text = String::new();
    for effect in node.apply(&change) {
        if let Some(line) = describe(&effect) {
            writeln!(text, "{line}").expect("a string grows as needed");
        }
    }
    text
}

fn parse_run(word: &str) -> Run {
    let (node, incarnation) = word.split_once('.').expect("a run is node.incarnation");
    run(
        node.parse().expect("a node"),
        incarnation.parse().expect("an incarnation"),
    )
}

fn parse_session(word: &str) -> SessionId {
    let number: u64 = word.parse().expect("a session");
    SessionId {
        node: number / 10,
        incarnation: 1,
        id: number % 10,
    }
}

/// `transient`, `auto-delete`, `exclusive:SESSION`, `home:RUN`.
fn parse_queue(name: &str, flags: &[&str]) -> DeclareQueue {
    let owner = flags
        .iter()
        .find_map(|flag| flag.strip_prefix("exclusive:"))
        .map(parse_session);
    let mut queue = DeclareQueue {
        durable: !flags.contains(&"transient"),
        auto_delete: flags.contains(&"auto-delete"),
        exclusive_owner: owner,
        arguments: arguments(flags),
        ..declare(name)
    };
    if queue.is_transient() {
        let home = flags.iter().find_map(|flag| flag.strip_prefix("home:"));
        queue.placement = Placement::Transient {
            home: home.map_or_else(|| run(1, 1), parse_run),
        };
    }
    queue
}

fn arguments(flags: &[&str]) -> Table {
    table(flags.iter().copied().filter(|flag| flag.contains('=')))
}

fn describe(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Answer {
            outcome: Outcome::Done, ..
        } => "done".to_owned(),
        Effect::Answer {
            outcome: Outcome::Queue(queue),
            ..
        } => format!("queue {}", queue.name),
        Effect::Answer {
            outcome: Outcome::Refused(refusal),
            ..
        } => {
            let (code, text) = refusal.fault();
            format!("{} {text}", code.code())
        }
        Effect::VhostDeleted(name) => format!("- vhost {name}"),
        Effect::UserDeleted(name) => format!("- user {name}"),
        Effect::ExchangeDeclared(exchange) => format!("+ {}", exchange.resource()),
        Effect::ExchangeDeleted(exchange) => format!("- {}", exchange.resource()),
        Effect::Bound { binding, .. } => format!("+ binding {}", describe_binding(binding)),
        Effect::Unbound { binding, .. } => format!("- binding {}", describe_binding(binding)),
        Effect::QueueDeclared(queue) => format!("+ {}", queue.resource()),
        Effect::QueueDeleted(queue) => format!("- {}", queue.resource()),
        Effect::QueuePlaced(queue) => format!("= {}", queue.resource()),
        Effect::QueueConfigured(queue) => {
            let definition = serde_json::Value::Object(queue.policies.definition());
            let Arguments {
                len_max,
                message_ttl_ms,
                ..
            } = queue.settings;
            format!(
                "~ {} {definition}: length {len_max:?}, ttl {message_ttl_ms:?}",
                queue.resource()
            )
        }
        Effect::NodeUp(run) => format!("+ run {}.{}", run.node, run.incarnation),
        Effect::NodeDown(run) => format!("- run {}.{}", run.node, run.incarnation),
        Effect::NodeDrains(node) => format!("= node {node}"),
        Effect::NodesChanged => return None,
    })
}

fn describe_binding(binding: &Binding) -> String {
    let Binding {
        source,
        destination,
        routing_key,
        arguments,
        ..
    } = binding;
    let arguments = if arguments.is_empty() { "" } else { " with arguments" };
    format!(
        "{source} -> {} {} '{routing_key}'{arguments}",
        destination.kind(),
        destination.name()
    )
}

fn state(picture: &Picture) -> String {
    let mut lines = Vec::new();
    for vhost in picture.vhosts() {
        let exchanges = picture.exchanges(&vhost.name);
        let own = exchanges.filter(|exchange| !exchange.name.is_empty() && !exchange.name.starts_with("amq."));
        lines.extend(own.map(|exchange| exchange.resource().to_string()));
        lines.extend(picture.queues(&vhost.name).map(|queue| queue.resource().to_string()));
        lines.extend(picture.bindings(&vhost.name).map(|binding| describe_binding(binding)));
    }
    lines.join("\n")
}
