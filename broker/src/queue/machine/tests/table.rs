//! Cases as text: commands, a line of dashes, and what they must bring about. `UPDATE_EXPECT=1` writes down what
//! they do bring about.
//!
//! ```text
//! new [limit=N] [auto-delete]        an empty queue; also quorum, ttl=MS, expires=MS, len=N, bytes=N, reject,
//!                                      reject-dlx, dead-letters, single, max-priority=N,
//!                                      retry=MS [retry-max=MS] [retry-failed] [retry-returned]
//! A COMMAND[; COMMAND]...            session A sends one batch, which becomes one entry:
//!                                      publish N [ttl=MS] [priority=N] [body=BYTES] [origin=GROUP:ID:FLOOR] · get [no-ack] · purge · stat · delete [if-unused] [if-empty]
//!                                      attach C [prefetch=N] [priority=N] [no-ack] [exclusive] [timeout=MS]
//!                                      heard N
//!                                      cancel C [requeue] · credit C N
//!                                      ack|discard|reject|release RUN[,RUN]...
//!                                      garbage · skip (one number)
//! A again FROM [TO]                  sends the commands from number FROM on (to TO) again
//! tick · buried RUN[,RUN]...
//! configure VERSION [limit=N] ...    settings as with new; others than those named are none
//! wait MS                            time passes before the next entry; each entry takes a second
//! down A · node-down NODE INCARNATION
//! resync A [C=NEXT]...
//! snapshot                           goes on from a restored snapshot
//! leader                             a new leader looks around
//! ```
//!
//! A session is a letter, with `@NODE.INCARNATION` unless that is 1.1.

use std::fmt::Write as _;

use bytes::Bytes;
use warren_proto::record::{BatchWriter, Origin, Publish};

use super::*;

#[test]
fn cases() {
    check_file("deliver.txt", include_str!("cases/deliver.txt"));
    check_file("settle.txt", include_str!("cases/settle.txt"));
    check_file("sessions.txt", include_str!("cases/sessions.txt"));
    check_file("end.txt", include_str!("cases/end.txt"));
    check_file("limits.txt", include_str!("cases/limits.txt"));
    check_file("retry.txt", include_str!("cases/retry.txt"));
    check_file("expiry.txt", include_str!("cases/expiry.txt"));
    check_file("dead_letters.txt", include_str!("cases/dead_letters.txt"));
    check_file("priorities.txt", include_str!("cases/priorities.txt"));
    check_file("single_active.txt", include_str!("cases/single_active.txt"));
    check_file("timeouts.txt", include_str!("cases/timeouts.txt"));
    check_file("configure.txt", include_str!("cases/configure.txt"));
}

fn check_file(name: &str, text: &str) {
    let mut world = World::new();
    let mut actual = String::new();
    for paragraph in text.trim_end().split("\n\n") {
        if let Some((commands, _)) = paragraph.split_once("\n----") {
            let result: String = commands.lines().map(|command| world.perform(command)).collect();
            write!(actual, "{commands}\n----\n{result}\n").expect("a string grows");
        } else {
            writeln!(actual, "{paragraph}\n").expect("a string grows");
        }
    }
    let actual = actual.trim_end().to_owned() + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let path = format!("{}/src/queue/machine/tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, actual).expect("the case file can be written");
    } else {
        assert_eq!(
            text, actual,
            "{name}: run with UPDATE_EXPECT=1 and look at what changed"
        );
    }
}

struct World {
    machine: QueueMachine,
    index: u64,
    time_ms: u64,
    /// Each session's commands from its first on, what it skipped included.
    sent: BTreeMap<SessionId, Vec<String>>,
    effects: Vec<Effect>,
}

fn session(name: &str) -> SessionId {
    let (letter, node) = name.split_once('@').unwrap_or((name, "1.1"));
    let (node, incarnation) = node.split_once('.').expect("NODE.INCARNATION");
    let letter = letter.bytes().next().expect("a letter");
    SessionId {
        node: number(node),
        incarnation: number(incarnation),
        id: u64::from(letter - b'a') + 1,
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().unwrap_or_else(|| panic!("not a number: {text:?}"))
}

fn name(session: SessionId) -> String {
    let letter = char::from(b'a' + session.id as u8 - 1);
    match (session.node, session.incarnation) {
        (1, 1) => letter.to_string(),
        (node, incarnation) => format!("{letter}@{node}.{incarnation}"),
    }
}

fn runs(text: &str) -> Vec<Run> {
    let run = |run: &str| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last): (u64, u64) = (number(first), number(last));
        Run {
            first,
            len: (last - first) as u32 + 1,
        }
    };
    text.split(',').map(run).collect()
}

/// One string per number that the session gives away.
fn expand(command: &str) -> Vec<String> {
    let Some(message) = command.trim().strip_prefix("publish ") else {
        return vec![command.trim().to_owned()];
    };
    let (count, options) = message.split_once(' ').unwrap_or((message, ""));
    vec![format!("publish {options}"); number(count)]
}

/// The value of `key=value`.
fn option<T: std::str::FromStr>(words: &[&str], key: &str) -> Option<T> {
    words
        .iter()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .map(number)
}

/// The settings that a line names.
fn config(words: &[&str]) -> Config {
    let overflow = match (words.contains(&"reject"), words.contains(&"reject-dlx")) {
        (true, _) => Overflow::RejectPublish,
        (_, true) => Overflow::RejectPublishDlx,
        _ => Overflow::DropHead,
    };
    Config {
        kind: if words.contains(&"quorum") {
            Kind::Quorum
        } else {
            Kind::Classic
        },
        delivery_limit: option(words, "limit"),
        auto_delete: words.contains(&"auto-delete"),
        message_ttl_ms: option(words, "ttl"),
        expires_ms: option(words, "expires"),
        len_max: option(words, "len"),
        bytes_max: option(words, "bytes"),
        overflow,
        dead_letters: words.contains(&"dead-letters"),
        single_active_consumer: words.contains(&"single"),
        priority_max: option(words, "max-priority"),
        deduplicates: false,
        age_max_ms: None,
        segment_bytes: None,
        retry: option(words, "retry").map(|min_ms: u64| Retry {
            failed: !words.contains(&"retry-returned"),
            returned: !words.contains(&"retry-failed"),
            min_ms,
            max_ms: option(words, "retry-max").unwrap_or(min_ms),
        }),
    }
}

impl World {
    fn new() -> Self {
        Self {
            machine: QueueMachine::new(Config::default()),
            index: 0,
            time_ms: 0,
            sent: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    fn perform(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["new", ..] => {
                *self = Self::new();
                self.machine = QueueMachine::new(config(&words));
            }
            ["configure", version, ..] => {
                let configure = config(&words).to_proto(number(version));
                self.apply(&warren_proto::record::system(&Command::Configure(configure)));
            }
            ["tick"] => self.apply(&warren_proto::record::system(&Command::Tick)),
            ["buried", ids] => self.apply(&warren_proto::record::system(&Command::Buried(runs(ids)))),
            ["wait", ms] => {
                let ms: u64 = number(ms);
                self.time_ms += ms;
                return String::new();
            }
            ["down", who] => self.apply(&warren_proto::record::system(&Command::SessionDown(session(who)))),
            ["node-down", node, incarnation] => {
                let command = Command::NodeDown {
                    node: number(node),
                    incarnation: number(incarnation),
                };
                self.apply(&warren_proto::record::system(&command));
            }
            ["node-silent", node, incarnation] => {
                let command = Command::NodeSilent {
                    node: number(node),
                    incarnation: number(incarnation),
                };
                self.apply(&warren_proto::record::system(&command));
            }
            ["resync", who, ref consumers @ ..] => {
                let consumer = |word: &&str| {
                    let (consumer, next) = word.split_once('=').expect("CONSUMER=NEXT");
                    queue::ResyncConsumer {
                        consumer: number(consumer),
                        next: number(next),
                        ..queue::ResyncConsumer::default()
                    }
                };
                let SessionId { node, incarnation, id } = session(who);
                let consumers = consumers.iter().map(consumer).collect();
                self.machine.resync(
                    &queue::Resync {
                        node,
                        incarnation,
                        id,
                        consumers,
                        number: 7,
                    },
                    &mut self.effects,
                );
            }
            ["snapshot"] => {
                let chunks = self.machine.snapshot();
                let config = self.machine.declared().clone();
                self.machine = QueueMachine::restore(config, &chunks).expect("its own snapshot");
                assert_eq!(self.machine.snapshot(), chunks);
            }
            ["leader"] => self.machine.entered_leader(&mut self.effects),
            [who, "again", from, ref to @ ..] => {
                let (id, from): (_, usize) = (session(who), number(from));
                let to = to.first().map_or_else(|| self.sent[&id].len(), |to| number(to));
                let commands = self.sent[&id][from - 1..to].to_vec();
                self.send(id, from as u64, &commands);
            }
            [who, ..] => {
                let id = session(who);
                let commands = line.trim_start().strip_prefix(who).expect("it starts so");
                let mut commands: Vec<String> = commands.split(';').flat_map(expand).collect();
                let sent = self.sent.entry(id).or_default();
                if commands[0] == "skip" {
                    sent.push(commands.remove(0));
                }
                let first = sent.len() as u64 + 1;
                sent.extend(commands.iter().cloned());
                self.send(id, first, &commands);
            }
            [] => panic!("an empty line among commands"),
        }
        check(&self.machine);
        self.describe()
    }

    fn send(&mut self, session: SessionId, first_seq: u64, commands: &[String]) {
        let mut batch = BatchWriter::new(session, first_seq);
        let mut garbage = Vec::new();
        for command in commands {
            if command == "garbage" {
                garbage.push(batch.len());
                batch.push(&Command::Stat);
            } else {
                push(&mut batch, command);
            }
        }
        let mut bytes = batch.finish().to_vec();
        for kind_at in garbage {
            bytes[kind_at] = 0xEE;
        }
        self.apply(&bytes);
    }

    fn apply(&mut self, payload: &[u8]) {
        self.index += 1;
        self.time_ms += 1_000;
        let meta = Meta {
            time_ms: self.time_ms,
            ..meta(self.index)
        };
        self.machine.apply(&meta, payload, &mut self.effects);
    }

    fn describe(&mut self) -> String {
        let mut text = String::new();
        let effects = std::mem::take(&mut self.effects);
        for alike in effects.chunk_by(continues) {
            match alike {
                [first, .., last] if alike.len() > 5 => {
                    let dots = format!("... {} more ...", alike.len() - 2);
                    writeln!(text, "{}\n{dots}\n{}", describe(first), describe(last)).expect("a string grows");
                }
                _ => alike.iter().for_each(|effect| {
                    writeln!(text, "{}", describe(effect)).expect("a string grows");
                }),
            }
        }
        let mut freed = Vec::new();
        self.machine.take_freed(&mut freed);
        if !freed.is_empty() {
            writeln!(text, "freed {freed:?}").expect("a string grows");
        }
        let stats = self.machine.stats();
        let (ready, unacked, consumers) = (stats.ready, stats.unacked, stats.consumers);
        let ended = if stats.ended { ", ended" } else { "" };
        let dead = match stats.dead {
            0 => String::new(),
            dead => format!(", dead {dead}"),
        };
        let due = match self.machine.next_deadline() {
            None => String::new(),
            Some(due_ms) => format!(", due in {}", due_ms.saturating_sub(self.time_ms)),
        };
        writeln!(
            text,
            "= ready {ready}, unacked {unacked}, consumers {consumers}{dead}{due}{ended}"
        )
        .expect("a string grows");
        text
    }
}

fn push(batch: &mut BatchWriter, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let flag = |name| words.contains(&name);
    let settle = |batch: &mut BatchWriter, outcome| batch.settle(outcome, &runs(words[1]));
    match words[0] {
        "publish" => {
            let body = [Bytes::from(vec![b'x'; option(&words, "body").unwrap_or(0)])];
            let origin = option::<String>(&words, "origin").map(|text| {
                let parts: Vec<u64> = text.split(':').map(number).collect();
                Origin {
                    group: parts[0],
                    id: parts[1],
                    floor: parts[2],
                }
            });
            batch.publish(&Publish {
                ttl_ms: option(&words, "ttl"),
                priority: option(&words, "priority"),
                origin,
                body: &body,
                ..MESSAGE
            });
        }
        "heard" => {
            let upto = number(words[1]);
            batch.push(&Command::Heard(queue::Heard { upto }));
        }
        "ack" => settle(batch, Outcome::Ack),
        "discard" => settle(batch, Outcome::Discard),
        "reject" => settle(batch, Outcome::Reject),
        "release" => settle(batch, Outcome::Release),
        "get" => batch.push(&Command::Get(queue::Get { no_ack: flag("no-ack") })),
        "purge" => batch.push(&Command::Purge),
        "stat" => batch.push(&Command::Stat),
        "delete" => {
            let (if_unused, if_empty) = (flag("if-unused"), flag("if-empty"));
            batch.push(&Command::Delete(queue::Delete { if_unused, if_empty }));
        }
        "attach" => batch.push(&Command::Attach(queue::Attach {
            consumer: number(words[1]),
            tag: format!("ctag-{}", words[1]),
            no_ack: flag("no-ack"),
            exclusive: flag("exclusive"),
            prefetch: option(&words, "prefetch").unwrap_or(0),
            priority: option(&words, "priority").unwrap_or(0),
            timeout_ms: option(&words, "timeout").unwrap_or(0),
            ..queue::Attach::default()
        })),
        "cancel" => {
            batch.push(&Command::Cancel(queue::Cancel {
                consumer: number(words[1]),
                requeue: flag("requeue"),
            }));
        }
        "credit" => {
            batch.push(&Command::Credit(queue::Credit {
                consumer: number(words[1]),
                written: number(words[2]),
            }));
        }
        "down" => batch.push(&Command::SessionDown(session(words[1]))),
        unknown => panic!("no command {unknown:?}"),
    }
}

const MESSAGE: Publish<'static> = Publish {
    persistent: true,
    priority: None,
    ttl_ms: None,
    origin: None,
    bcc: &[],
    exchange: b"",
    routing_key: b"q",
    properties: &[0, 0],
    body: &[],
};

/// Whether `b` delivers the message after that of `a` to the same consumer, under the next number.
fn continues(a: &Effect, b: &Effect) -> bool {
    let key = |effect: &Effect, plus| {
        if let Effect::Deliver {
            session,
            consumer,
            delivery_id,
            seq,
            redelivered: false,
            at,
            ..
        } = effect
            && *consumer > 0
        {
            return Some((*session, *consumer, delivery_id + plus, seq + plus, at.index));
        }
        None
    };
    key(a, 1).is_some() && key(a, 1) == key(b, 0)
}

fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Applied { session, upto } => format!("{} applied {upto}", name(*session)),
        Effect::Refused { session, run } => {
            format!(
                "{} refused {}-{}",
                name(*session),
                run.first,
                run.first + u64::from(run.len) - 1
            )
        }
        Effect::Reply { session, seq, reply } => {
            let kind = reply.kind.as_ref().map(|kind| format!("{kind:?}")).unwrap_or_default();
            // The message's name says what the variant says.
            // Only a stream's readers are told where they begin.
            let kind = kind.replace("Attached { offset: None }", "Attached");
            let kind = kind
                .split_once('(')
                .map_or("", |(_, message)| message.trim_end_matches(')'));
            format!("{} reply {seq} {kind}", name(*session))
        }
        Effect::Deliver {
            session,
            consumer,
            delivery_id,
            get_seq,
            seq,
            redelivered,
            acquired,
            failed,
            at,
        } => {
            let whom = if *consumer == 0 {
                format!("get {get_seq}")
            } else {
                format!("{consumer}#{delivery_id}")
            };
            let mut text = format!("{} {whom} <- message {seq}, entry {}", name(*session), at.index);
            if *redelivered {
                write!(text, ", again, acquired {acquired}, failed {failed}").expect("a string grows");
            }
            text
        }
        Effect::Gap { session, expected } => format!("{} gap, expected {expected}", name(*session)),
        Effect::Ended { session } => format!("{} ended", name(*session)),
        Effect::ConsumerTimedOut { session, consumer } => format!("{} {consumer} timed out", name(*session)),
        Effect::Gone => "gone".to_owned(),
    }
}
