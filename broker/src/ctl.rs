//! The operator's command line, shaped as rabbitmqctl: what a line means, and how an answer is shown.
//!
//! Pure: the line, the environment and a node's rows go in, text and an exit status come out. `bin/warrenctl.rs` does
//! the calling. Output follows rabbitmqctl where scripts read it: a banner, a row of headings, fields apart by tabs;
//! `-q` leaves out the banner, `-s` the headings too; statuses are those of [`status`].

use std::{ffi::OsString, io, path::Path, time::Duration};

use clap::{Parser, error::ErrorKind};
use serde_json::Value;
use warren_cluster::tls::Files;

use crate::{
    admin::protocol::{CertificateRow, ClusterStatusRow, Request, status},
    auth::{Algorithm, PasswordHash},
    config::{self, Address, Config, Secret},
    recovery,
};

mod format;
mod line;
mod plan;
mod report;
#[cfg(test)]
mod tests;

use format::{Style, plain_lines};
use plan::{Plan, Show};

/// A line that was understood: whom to call, what to ask, and how to show what comes back.
#[derive(Debug)]
pub struct Invocation {
    /// `host:port`.
    pub node: String,
    pub cluster: String,
    pub secret: Secret,
    /// What to show the node, and to verify it by; `None`: it speaks without TLS.
    pub tls: Option<Files>,
    /// How long to wait for the answer; of one that waits for a state, how long to try.
    pub timeout: Duration,
    style: Style,
    plan: Plan,
    /// The node of this machine, if the line is about what it holds while it is stopped.
    stopped: Option<Config>,
}

/// How the tool ends: a text, for standard output if the status is 0 and standard error otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub status: u8,
    pub text: String,
}

/// A call that brought no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The node answered with an error.
    Refused {
        status: u8,
        text: String,
    },
    /// No connection, or no answer to it.
    Unreachable(String),
    TimedOut,
}

/// What to do after a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Exit(Exit),
    /// Not yet: pause, and call again until the time is over.
    Again(Exit),
}

impl Invocation {
    /// `args` with the program's name first. A line that calls no node (help, a fault) is the error.
    pub fn parse(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (String, String)>,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Exit> {
        let line = line::Line::try_parse_from(args).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit {
                status: 0,
                text: error.to_string(),
            },
            _ => Exit {
                status: status::USAGE,
                text: error.to_string(),
            },
        })?;
        let env: Vec<(String, String)> = env.into_iter().collect();
        let common = line.common;
        let style = Style::of(&common);
        let plan = plan::plan(line.command, common.vhost)?;
        match plan.show {
            Show::Text(text) => return Err(Exit { status: 0, text }),
            Show::Hash(Some(password)) => return Err(hashed(&password)),
            _ => {}
        }

        let wanted = common.node.or_else(|| variable(&env, "WARREN_NODE"));
        let config = Config::for_tool(common.config, env, read).map_err(|error: config::Error| Exit {
            status: error.exit_code(),
            text: error.to_string(),
        })?;
        let node = match plan.joins.clone().or(wanted) {
            Some(wanted) => address(&wanted, &config)?,
            None => local(&config.cluster.listen),
        };
        let is_here = plan.joins.is_some() || plan.recovers.is_some();
        let stopped = is_here.then(|| config.clone());
        let timeout = Duration::from_secs(common.timeout.unwrap_or(plan.timeout_s));
        Ok(Self {
            node,
            secret: Secret::new(config.cluster.link_secret()),
            tls: config.cluster.tls_files(),
            cluster: config.cluster.name,
            timeout,
            style,
            plan,
            stopped,
        })
    }

    /// The node that is to join a cluster, as it is configured, if that is what the line asks for. It must be stopped,
    /// and gets its number before the call.
    pub fn joins(&self) -> Option<&Config> {
        self.stopped.as_ref().filter(|_| self.plan.joins.is_some())
    }

    /// The end of a line that concerns the data of the stopped node of this machine only.
    pub fn ends_offline(&self) -> Option<Exit> {
        let (config, (survivors, accept_loss)) = (self.stopped.as_ref()?, self.plan.recovers.as_ref()?);
        let done = recovery::Plan::of(config, survivors).and_then(|plan| {
            let report = plan.report.clone();
            let answering = plan.answering(config)?;
            if !answering.is_empty() {
                anyhow::bail!(
                    "{report}These nodes are to be given up, and run: {}. Stop them first; or start them all, if they are a \
                     majority together.",
                    answering.join(", ")
                );
            }
            if !accept_loss {
                return Ok((false, report));
            }
            plan.carry_out(&config.node.data_dir).map(|()| (true, report))
        });
        Some(match done {
            Ok((true, report)) => Exit {
                status: 0,
                text: format!(
                    "{report}Done. Do the same on the other survivor, if there is one, and start them.\n\
                     Never start the removed nodes with the data that they have.\n"
                ),
            },
            Ok((false, report)) => Exit {
                status: status::SOFTWARE,
                text: format!("{report}Nothing was changed. To do this, call it again with --accept-loss.\n"),
            },
            Err(error) => Exit {
                status: status::SOFTWARE,
                text: format!("Error:\n{error:#}\n"),
            },
        })
    }

    /// What to ask for once the data directory of the node that [`Invocation::joins`] has its number.
    pub fn set_directory(&mut self, directory: u64) -> Result<(), crate::joining::Error> {
        if let Some(config) = self.joins() {
            self.plan.request = crate::joining::request(config, directory)?;
        }
        Ok(())
    }

    /// The call. A password that the line left out is still empty.
    pub fn request(&self) -> &Request {
        &self.plan.request
    }

    /// The document that must be read first: of a file, or of standard input if none is named.
    pub fn wants_document(&self) -> Option<Option<&str>> {
        self.plan.reads.as_ref().map(Option::as_deref)
    }

    /// Gives the document that [`Invocation::wants_document`].
    pub fn set_document(&mut self, text: String) {
        if let Request::ImportDefinitions { definitions, .. } = &mut self.plan.request {
            *definitions = text;
        }
    }

    /// Where the answer goes, if not to standard output.
    pub fn output_file(&self) -> Option<&str> {
        match &self.plan.show {
            Show::Document { file } => file.as_deref(),
            _ => None,
        }
    }

    /// The end of a line that needs only a password, and no node.
    pub fn ends_with(&self, password: &str) -> Option<Exit> {
        matches!(self.plan.show, Show::Hash(None)).then(|| hashed(password.trim_end_matches(['\r', '\n'])))
    }

    /// Whether a password must be read from standard input first.
    pub fn wants_password(&self) -> bool {
        matches!(self.plan.show, Show::Hash(None))
            || matches!(
                &self.plan.request,
                Request::AddUser { password, .. }
                | Request::ChangePassword { password, .. }
                | Request::AuthenticateUser { password, .. } if password.is_empty()
            )
    }

    /// Gives the password that [`Invocation::wants_password`], as a line of text.
    pub fn set_password(&mut self, text: &str) {
        if let Request::AddUser { password, .. }
        | Request::ChangePassword { password, .. }
        | Request::AuthenticateUser { password, .. } = &mut self.plan.request
        {
            *password = Secret::new(text.trim_end_matches(['\r', '\n']));
        }
    }

    /// What to show before the call.
    pub fn banner(&self) -> Option<String> {
        let banner = plain_lines(self.plan.banner.as_ref().filter(|_| self.style.banner)?);
        let seconds = self.timeout.as_secs();
        Some(match self.plan.request {
            Request::ListQueues { .. } => format!("Timeout: {seconds}.0 seconds ...\n{banner}\n"),
            _ => format!("{banner}\n"),
        })
    }

    /// What a call's outcome means.
    pub fn judge(&self, outcome: Result<Vec<Value>, Failure>) -> Next {
        match outcome {
            Ok(rows) => self.show(&rows),
            Err(Failure::Refused { status, text }) => self.failed(status, format!("Error:\n{}\n", plain_lines(&text))),
            Err(Failure::Unreachable(text)) => {
                let text = format!(
                    "Error: unable to perform an operation on node '{}'. {text}\n",
                    self.node
                );
                self.failed(status::UNAVAILABLE, text)
            }
            Err(Failure::TimedOut) => Next::Exit(self.timed_out()),
        }
    }

    fn failed(&self, status: u8, text: String) -> Next {
        let passing = matches!(status, status::UNAVAILABLE | status::TEMPORARY);
        let exit = Exit { status, text };
        if passing && self.plan.waits {
            Next::Again(exit)
        } else {
            Next::Exit(exit)
        }
    }

    fn timed_out(&self) -> Exit {
        let (node, seconds) = (&self.node, self.timeout.as_secs());
        let text = format!("Error: operation on node {node} timed out. Timeout value used: {seconds} s\n");
        Exit {
            status: status::TEMPORARY,
            text,
        }
    }

    fn show(&self, rows: &[Value]) -> Next {
        let first = || rows.first().cloned().unwrap_or(Value::Null);
        let text = match &self.plan.show {
            Show::Rows { columns } => self.style.rows(columns, rows),
            Show::ClusterStatus => self.style.report(&first(), report::cluster_status),
            Show::Status => self.style.report(&first(), report::status),
            Show::Done(message) => self.style.done(&self.node, message),
            Show::Deleted => {
                let messages = first().get("messages").and_then(Value::as_u64).unwrap_or(0);
                self.style.done(
                    &self.node,
                    &format!("Queue was successfully deleted with {messages} ready messages"),
                )
            }
            Show::Online(wanted) => {
                let row: ClusterStatusRow = serde_json::from_value(first()).unwrap_or_default();
                if row.running_nodes.len() < *wanted {
                    let text = format!("Error:\n{} of {wanted} nodes are online\n", row.running_nodes.len());
                    return Next::Again(Exit {
                        status: status::TEMPORARY,
                        text,
                    });
                }
                self.style.done(&self.node, "")
            }
            Show::Certificates(within) => {
                let rows = rows.iter().cloned();
                let rows = rows.filter_map(|row| serde_json::from_value::<CertificateRow>(row).ok());
                let late: Vec<String> = rows
                    .filter(|row| row.expires_in <= *within)
                    .map(|row| format!("{} ({}): {}\n", row.file, row.subject, row.validity))
                    .collect();
                if !late.is_empty() {
                    return Next::Exit(Exit {
                        status: status::UNAVAILABLE,
                        text: format!(
                            "Error:\nCertificates that are expired or expire soon:\n{}",
                            late.concat()
                        ),
                    });
                }
                self.style.done(&self.node, "No certificate expires soon")
            }
            Show::Document { .. } => rows.iter().filter_map(Value::as_str).collect::<String>() + "\n",
            Show::Imported => {
                let changed = first().get("changed").and_then(Value::as_u64).unwrap_or(0);
                self.style.done(
                    &self.node,
                    &format!("Successfully imported definitions: {changed} entries made or changed"),
                )
            }
            Show::Text(text) => text.clone(),
            Show::Hash(_) => String::new(),
        };
        Next::Exit(Exit { status: 0, text })
    }
}

/// The password's hash, with a salt of its own.
fn hashed(password: &str) -> Exit {
    let hash = PasswordHash::new(Algorithm::Sha256, rand::random(), password.as_bytes());
    Exit {
        status: 0,
        text: format!("{}\n", hash.to_base64()),
    }
}

fn variable(env: &[(String, String)], name: &str) -> Option<String> {
    env.iter()
        .find(|(own, value)| own == name && !value.is_empty())
        .map(|(_, value)| value.clone())
}

/// `wanted` is a member's name or an address.
fn address(wanted: &str, config: &Config) -> Result<String, Exit> {
    if let Some(address) = config.cluster.address_of(wanted) {
        return Ok(address.to_string());
    }
    let (_, wanted) = wanted.split_once('=').unwrap_or(("", wanted));
    wanted
        .parse::<Address>()
        .map(|address| address.to_string())
        .map_err(|_| Exit {
            status: status::USAGE,
            text: format!("Error (argument validation): node {wanted} is neither HOST:PORT nor one of cluster.seeds\n"),
        })
}

/// Where a node that listens on `listen` is reached from its own machine.
fn local(listen: &Address) -> String {
    match listen.host() {
        "0.0.0.0" => format!("127.0.0.1:{}", listen.port()),
        "::" => format!("[::1]:{}", listen.port()),
        _ => listen.to_string(),
    }
}
