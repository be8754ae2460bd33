//! From a command to what is asked of the node and how its answer is shown.

use super::{Exit, line::Command};

use crate::{
    admin::protocol::{
        BindingRow, ChannelRow, ConnectionRow, ConsumerRow, ExchangeRow, FeatureFlag, PermissionRow, QueueRow,
        ReplicaRow, Request, Row, UserRow, VhostRow, status,
    },
    config::Secret,
};

mod members;
mod settings;

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) request: Request,
    pub(super) banner: Option<String>,
    pub(super) show: Show,
    /// Whether to call again while the node is away or not ready.
    pub(super) waits: bool,
    /// Unless the line says otherwise.
    pub(super) timeout_s: u64,
    /// A document is to be read first: from a file, or from standard input if none is named.
    pub(super) reads: Option<Option<String>>,
    /// The node of this machine, which is stopped, joins the cluster of that one.
    pub(super) joins: Option<String>,
    /// The stopped node of this machine goes on with these survivors; whether the loss is accepted.
    pub(super) recovers: Option<(Vec<String>, bool)>,
}

#[derive(Debug)]
pub(super) enum Show {
    Rows {
        columns: Columns,
    },
    Status,
    ClusterStatus,
    /// A message, or none.
    Done(String),
    Deleted,
    /// Pieces of a document, for that file or standard output.
    Document {
        file: Option<String>,
    },
    /// How much was imported.
    Imported,
    /// Done once so many nodes run.
    Online(usize),
    /// Done unless a certificate expires within so many seconds.
    Certificates(i64),
    /// Known without a call.
    Text(String),
    /// The hash of a password, which is read from standard input if it is none.
    Hash(Option<String>),
}

#[derive(Debug)]
pub(super) struct Columns {
    pub(super) names: Vec<String>,
    /// Shown with a frame unless another formatter is asked for.
    pub(super) framed: bool,
    /// Of queues: only those with (true) or without (false) a leader.
    pub(super) online: Option<bool>,
}

const TIMEOUT_S: u64 = 60;
const AWAIT_TIMEOUT_S: u64 = 300;

/// The plan for `command`, in the virtual host that the line named.
pub(super) fn plan(command: Command, named: Option<String>) -> Result<Plan, Exit> {
    if named.is_some() && !takes_vhost(&command) {
        return Err(usage("--vhost means nothing to this command".to_owned()));
    }
    let vhost = named.clone().unwrap_or_else(|| "/".to_owned());
    Ok(match command {
        Command::Setting(setting) => settings::plan(setting, named)?,
        Command::HashPassword { password } => Plan {
            show: Show::Hash(password),
            ..Plan::done(Request::Ping, "")
        },
        Command::Ping => Plan::done(Request::Ping, "Ping succeeded").with_banner("Will ping the node ...".to_owned()),
        Command::Version => Plan {
            show: Show::Text(format!("{}\n", env!("CARGO_PKG_VERSION"))),
            ..Plan::done(Request::Ping, "")
        },
        Command::Status => Plan {
            show: Show::Status,
            ..Plan::done(Request::Status, "")
        },
        Command::AwaitStartup => Plan {
            waits: true,
            timeout_s: AWAIT_TIMEOUT_S,
            ..Plan::done(Request::AwaitStartup, "")
        },
        Command::AwaitOnlineNodes { count } => Plan {
            waits: true,
            timeout_s: AWAIT_TIMEOUT_S,
            show: Show::Online(count),
            ..Plan::done(Request::ClusterStatus, "")
        }
        .with_banner(format!(
            "Will wait for at least {count} nodes of the cluster to run ..."
        )),
        Command::ClusterStatus => Plan {
            show: Show::ClusterStatus,
            ..Plan::done(Request::ClusterStatus, "")
        },
        Command::CheckCertificateExpiration { within, unit } => Plan {
            show: Show::Certificates(i64::from(within) * unit.seconds()),
            ..Plan::done(Request::ListCertificates, "")
        },
        Command::ListFeatureFlags { columns } => {
            Plan::rows::<FeatureFlag>(Request::ListFeatureFlags, columns, &["name", "state"])?
                .with_banner("Listing feature flags ...".to_owned())
        }
        Command::EnableFeatureFlag { name } => {
            let banner = match name.as_str() {
                "all" => "Enabling all feature flags ...".to_owned(),
                _ => format!("Enabling feature flag \"{name}\" ..."),
            };
            Plan::done(Request::EnableFeatureFlag { name }, "").with_banner(banner)
        }
        Command::QuorumStatus { queue } => {
            let banner = format!("Status of queue {queue} ...");
            let plan = Plan::rows::<ReplicaRow>(Request::QuorumStatus { vhost, queue }, Vec::new(), &[])?;
            plan.framed().with_banner(banner)
        }
        Command::Membership(command) => members::plan(command, vhost)?,
        Command::ListQueues {
            online,
            offline,
            columns,
        } => {
            let banner = format!("Listing queues for vhost {vhost} ...");
            let request = Request::ListQueues {
                vhost,
                columns: Vec::new(),
            };
            let mut plan = Plan::rows::<QueueRow>(request, columns, &["name", "messages"])?.with_banner(banner);
            if let (Show::Rows { columns: shown }, Request::ListQueues { columns: asked, .. }) =
                (&mut plan.show, &mut plan.request)
            {
                shown.online = if online { Some(true) } else { offline.then_some(false) };
                asked.clone_from(&shown.names);
            }
            plan
        }
        Command::ListExchanges { columns } => {
            let banner = format!("Listing exchanges for vhost {vhost} ...");
            let request = Request::ListExchanges {
                vhost,
                columns: Vec::new(),
            };
            let mut plan = Plan::rows::<ExchangeRow>(request, columns, &["name", "type"])?.with_banner(banner);
            if let (Show::Rows { columns: shown }, Request::ListExchanges { columns: asked, .. }) =
                (&plan.show, &mut plan.request)
            {
                asked.clone_from(&shown.names);
            }
            plan
        }
        Command::ListBindings { columns } => {
            // Without a space, as rabbitmqctl has it.
            let banner = format!("Listing bindings for vhost {vhost}...");
            Plan::rows::<BindingRow>(Request::ListBindings { vhost }, columns, &[])?.with_banner(banner)
        }
        Command::ListConsumers { columns } => {
            let banner = format!("Listing consumers in vhost {vhost} ...");
            let usual = [
                "queue_name",
                "channel_pid",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
                "active",
                "arguments",
            ];
            Plan::rows::<ConsumerRow>(Request::ListConsumers { vhost }, columns, &usual)?.with_banner(banner)
        }
        Command::ListConnections { columns } => {
            let usual = ["user", "peer_host", "peer_port", "state"];
            Plan::rows::<ConnectionRow>(Request::ListConnections, columns, &usual)?
                .with_banner("Listing connections ...".to_owned())
        }
        Command::ListChannels { columns } => {
            let usual = ["pid", "user", "consumer_count", "messages_unacknowledged"];
            Plan::rows::<ChannelRow>(Request::ListChannels, columns, &usual)?
                .with_banner("Listing channels ...".to_owned())
        }
        Command::ListUsers => Plan::rows::<UserRow>(Request::ListUsers, Vec::new(), &["user", "tags"])?
            .with_banner("Listing users ...".to_owned()),
        Command::ListVhosts { columns } => Plan::rows::<VhostRow>(Request::ListVhosts, columns, &["name"])?
            .with_banner("Listing vhosts ...".to_owned()),
        Command::ListPermissions => {
            let banner = format!("Listing permissions for vhost \"{vhost}\" ...");
            let usual = ["user", "configure", "write", "read"];
            Plan::rows::<PermissionRow>(Request::ListPermissions { vhost }, Vec::new(), &usual)?.with_banner(banner)
        }
        Command::ListUserPermissions { user } => {
            let banner = format!("Listing permissions for user \"{user}\" ...");
            let usual = ["vhost", "configure", "write", "read"];
            Plan::rows::<PermissionRow>(Request::ListUserPermissions { user }, Vec::new(), &usual)?.with_banner(banner)
        }
        Command::AddUser {
            user,
            password,
            pre_hashed_password: hashed,
        } => {
            let banner = format!("Adding user \"{user}\" ...");
            let request = Request::AddUser {
                user,
                password: secret(password),
                hashed,
            };
            let message = "Done. Don't forget to grant the user permissions to some virtual hosts! \
                See 'warrenctl help set_permissions' to learn more.";
            Plan::done(request, message).with_banner(banner)
        }
        Command::ChangePassword {
            user,
            password,
            pre_hashed_password: hashed,
        } => {
            let banner = format!("Changing password for user \"{user}\" ...");
            Plan::done(
                Request::ChangePassword {
                    user,
                    password: secret(password),
                    hashed,
                },
                "",
            )
            .with_banner(banner)
        }
        Command::AuthenticateUser { user, password } => {
            let banner = format!("Authenticating user \"{user}\" ...");
            Plan::done(
                Request::AuthenticateUser {
                    user,
                    password: secret(password),
                },
                "Success",
            )
            .with_banner(banner)
        }
        Command::DeleteUser { user } => {
            let banner = format!("Deleting user \"{user}\" ...");
            Plan::done(Request::DeleteUser { user }, "").with_banner(banner)
        }
        Command::SetUserTags { user, tags } => {
            let banner = format!("Setting tags for user \"{user}\" to [{}] ...", tags.join(", "));
            Plan::done(Request::SetUserTags { user, tags }, "").with_banner(banner)
        }
        Command::SetPermissions {
            user,
            configure,
            write,
            read,
        } => {
            let banner = format!("Setting permissions for user \"{user}\" in vhost \"{vhost}\" ...");
            Plan::done(
                Request::SetPermissions {
                    vhost,
                    user,
                    configure,
                    write,
                    read,
                },
                "",
            )
            .with_banner(banner)
        }
        Command::ClearPermissions { user } => {
            let banner = format!("Clearing permissions for user \"{user}\" in vhost \"{vhost}\" ...");
            Plan::done(Request::ClearPermissions { vhost, user }, "").with_banner(banner)
        }
        Command::AddVhost {
            vhost_name: vhost,
            description,
            tags,
            default_queue_type,
        } => {
            let banner = format!("Adding vhost \"{vhost}\" ...");
            Plan::done(
                Request::AddVhost {
                    vhost,
                    description,
                    tags,
                    default_queue_type,
                },
                "",
            )
            .with_banner(banner)
        }
        Command::DeleteVhost { vhost_name: vhost } => {
            let banner = format!("Deleting vhost \"{vhost}\" ...");
            Plan::done(Request::DeleteVhost { vhost }, "").with_banner(banner)
        }
        Command::PurgeQueue { queue } => {
            let banner = format!("Purging queue '{queue}' in vhost '{vhost}' ...");
            Plan::done(Request::PurgeQueue { vhost, queue }, "").with_banner(banner)
        }
        Command::DeleteQueue {
            queue,
            if_empty,
            if_unused,
        } => {
            let banner = format!("Deleting queue '{queue}' on vhost '{vhost}' ...");
            let request = Request::DeleteQueue {
                vhost,
                queue,
                if_unused,
                if_empty,
            };
            Plan {
                show: Show::Deleted,
                ..Plan::done(request, "")
            }
            .with_banner(banner)
        }
    })
}

impl Plan {
    fn done(request: Request, message: &str) -> Self {
        let show = Show::Done(message.to_owned());
        Self {
            request,
            banner: None,
            show,
            waits: false,
            timeout_s: TIMEOUT_S,
            reads: None,
            joins: None,
            recovers: None,
        }
    }

    /// Shows `wanted`, or `usual` if the line names no columns, or all if `usual` is empty.
    fn rows<R: Row>(request: Request, wanted: Vec<String>, usual: &[&str]) -> Result<Self, Exit> {
        let all = R::columns();
        let wanted: Vec<String> = wanted
            .iter()
            .flat_map(|word| word.split(','))
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let unknown: Vec<&str> = wanted
            .iter()
            .filter(|name| !all.contains(name))
            .map(String::as_str)
            .collect();
        if !unknown.is_empty() {
            let text = format!(
                "Info key(s) {} are not supported; there are {}",
                unknown.join(","),
                all.join(" ")
            );
            return Err(usage(text));
        }
        let names = if !wanted.is_empty() {
            wanted
        } else if !usual.is_empty() {
            usual.iter().map(|name| (*name).to_owned()).collect()
        } else {
            all
        };
        let columns = Columns {
            names,
            framed: false,
            online: None,
        };
        Ok(Self {
            show: Show::Rows { columns },
            ..Self::done(request, "")
        })
    }

    fn framed(mut self) -> Self {
        if let Show::Rows { columns } = &mut self.show {
            columns.framed = true;
        }
        self
    }

    fn with_banner(self, banner: String) -> Self {
        Self {
            banner: Some(banner),
            ..self
        }
    }
}

fn takes_vhost(command: &Command) -> bool {
    match command {
        Command::Membership(command) => members::takes_vhost(command),
        Command::Setting(setting) => settings::takes_vhost(setting),
        Command::HashPassword { .. } => false,
        Command::QuorumStatus { .. }
        | Command::ListQueues { .. }
        | Command::ListExchanges { .. }
        | Command::ListBindings { .. }
        | Command::ListConsumers { .. }
        | Command::ListPermissions
        | Command::SetPermissions { .. }
        | Command::ClearPermissions { .. }
        | Command::PurgeQueue { .. }
        | Command::DeleteQueue { .. } => true,
        Command::Ping
        | Command::Status
        | Command::Version
        | Command::AwaitStartup
        | Command::AwaitOnlineNodes { .. }
        | Command::ClusterStatus
        | Command::ListFeatureFlags { .. }
        | Command::EnableFeatureFlag { .. }
        | Command::CheckCertificateExpiration { .. }
        | Command::ListConnections { .. }
        | Command::ListChannels { .. }
        | Command::ListUsers
        | Command::ListVhosts { .. }
        | Command::ListUserPermissions { .. }
        | Command::AddUser { .. }
        | Command::ChangePassword { .. }
        | Command::AuthenticateUser { .. }
        | Command::DeleteUser { .. }
        | Command::SetUserTags { .. }
        | Command::AddVhost { .. }
        | Command::DeleteVhost { .. } => false,
    }
}

fn secret(password: Option<String>) -> Secret {
    password.map_or_else(Secret::default, |text| Secret::new(&text))
}

fn usage(text: String) -> Exit {
    Exit {
        status: status::USAGE,
        text: format!("Error (argument validation): {text}\n"),
    }
}
