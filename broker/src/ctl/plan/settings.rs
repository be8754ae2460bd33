//! Plans of the commands that set, clear and list what queues, users and connections are to obey.

use super::{Plan, Show};
use crate::admin::protocol::{ParameterRow, PolicyRow, Request, TopicPermissionRow, UserLimitsRow, VhostLimitsRow};
use crate::ctl::Exit;
use crate::ctl::line::{PolicyLine, Setting};

/// Whether `-p` means something to the command.
pub(super) fn takes_vhost(setting: &Setting) -> bool {
    !matches!(
        setting,
        Setting::SetUserLimits { .. }
            | Setting::ClearUserLimits { .. }
            | Setting::ListUserLimits { .. }
            | Setting::ListUserTopicPermissions { .. }
            | Setting::SetVhostTags { .. }
            | Setting::UpdateVhostMetadata { .. }
            | Setting::SetGlobalParameter { .. }
            | Setting::ClearGlobalParameter { .. }
            | Setting::ListGlobalParameters
            | Setting::CloseConnection { .. }
            | Setting::CloseAllUserConnections { .. }
    )
}

fn done(request: Request, banner: String) -> Plan {
    Plan::done(request, "").with_banner(banner)
}

/// A file as banners name it.
fn named_file(file: Option<&str>, standard: &str) -> String {
    match file {
        Some(file) => format!("a file at \"{file}\""),
        None => format!("standard {standard}"),
    }
}

fn set_policy(vhost: String, line: PolicyLine, operator: bool) -> Plan {
    let PolicyLine {
        name,
        pattern,
        definition,
        priority,
        apply_to,
    } = line;
    let what = if operator { "operator policy override" } else { "policy" };
    let banner = format!(
        "Setting {what} \"{name}\" for pattern \"{pattern}\" to \"{definition}\" with priority \"{priority}\" \
         for vhost \"{vhost}\" ..."
    );
    let request = Request::SetPolicy {
        vhost,
        name,
        operator,
        pattern,
        apply_to,
        priority,
        definition,
    };
    done(request, banner)
}

fn protect(vhost: String, protected: bool) -> Request {
    Request::UpdateVhost {
        vhost,
        description: None,
        tags: None,
        default_queue_type: None,
        protected: Some(protected),
    }
}

/// `named` is the virtual host if the line names one.
pub(super) fn plan(setting: Setting, named: Option<String>) -> Result<Plan, Exit> {
    let vhost = named.clone().unwrap_or_else(|| "/".to_owned());
    Ok(match setting {
        Setting::SetPolicy(line) => set_policy(vhost, line, false),
        Setting::SetOperatorPolicy(line) => set_policy(vhost, line, true),
        Setting::ClearPolicy { name } => {
            let banner = format!("Clearing policy \"{name}\" on vhost \"{vhost}\" ...");
            let operator = false;
            done(Request::ClearPolicy { vhost, name, operator }, banner)
        }
        Setting::ClearOperatorPolicy { name } => {
            let banner = format!("Clearing operator policy \"{name}\" on vhost \"{vhost}\" ...");
            let operator = true;
            done(Request::ClearPolicy { vhost, name, operator }, banner)
        }
        Setting::ListPolicies => {
            let banner = format!("Listing policies for vhost \"{vhost}\" ...");
            let operator = false;
            Plan::rows::<PolicyRow>(Request::ListPolicies { vhost, operator }, Vec::new(), &[])?.with_banner(banner)
        }
        Setting::ListOperatorPolicies => {
            let banner = format!("Listing operator policy overrides for vhost \"{vhost}\" ...");
            let operator = true;
            Plan::rows::<PolicyRow>(Request::ListPolicies { vhost, operator }, Vec::new(), &[])?.with_banner(banner)
        }
        Setting::SetVhostLimits { definition } => {
            let banner = format!("Setting vhost limits to \"{definition}\" for vhost \"{vhost}\" ...");
            let limits = definition;
            done(Request::SetVhostLimits { vhost, limits }, banner)
        }
        Setting::ClearVhostLimits => {
            let banner = format!("Clearing vhost \"{vhost}\" limits ...");
            let limits = "{}".to_owned();
            done(Request::SetVhostLimits { vhost, limits }, banner)
        }
        Setting::ListVhostLimits { global: true } => {
            let request = Request::ListVhostLimits { vhost: None };
            Plan::rows::<VhostLimitsRow>(request, Vec::new(), &[])?
                .with_banner("Listing limits for all vhosts ...".to_owned())
        }
        Setting::ListVhostLimits { global: false } => {
            let banner = format!("Listing limits for vhost \"{vhost}\" ...");
            let request = Request::ListVhostLimits { vhost: Some(vhost) };
            Plan::rows::<VhostLimitsRow>(request, Vec::new(), &["limits"])?.with_banner(banner)
        }
        Setting::SetUserLimits { user, definition } => {
            let banner = format!("Setting user limits to \"{definition}\" for user \"{user}\" ...");
            let limits = definition;
            done(Request::SetUserLimits { user, limits }, banner)
        }
        Setting::ClearUserLimits { user, limit } => {
            let banner = format!("Clearing \"{limit}\" limits for user \"{user}\" ...");
            done(Request::ClearUserLimits { user, limit }, banner)
        }
        Setting::ListUserLimits { user: Some(user), .. } => {
            let banner = format!("Listing limits for user \"{user}\" ...");
            let request = Request::ListUserLimits { user: Some(user) };
            Plan::rows::<UserLimitsRow>(request, Vec::new(), &["limits"])?.with_banner(banner)
        }
        Setting::ListUserLimits { user: None, .. } => {
            let request = Request::ListUserLimits { user: None };
            Plan::rows::<UserLimitsRow>(request, Vec::new(), &[])?
                .with_banner("Listing limits for all users ...".to_owned())
        }
        Setting::SetTopicPermissions {
            user,
            exchange,
            write,
            read,
        } => {
            let banner =
                format!("Setting topic permissions on \"{exchange}\" for user \"{user}\" in vhost \"{vhost}\" ...");
            let request = Request::SetTopicPermissions {
                vhost,
                user,
                exchange,
                write,
                read,
            };
            done(request, banner)
        }
        Setting::ClearTopicPermissions { user, exchange } => {
            let on = exchange.as_ref().map(|exchange| format!(" on \"{exchange}\""));
            let on = on.unwrap_or_default();
            let banner = format!("Clearing topic permissions{on} for user \"{user}\" in vhost \"{vhost}\" ...");
            done(Request::ClearTopicPermissions { vhost, user, exchange }, banner)
        }
        Setting::ListTopicPermissions => {
            let banner = format!("Listing topic permissions for vhost \"{vhost}\" ...");
            let usual = ["user", "exchange", "write", "read"];
            let request = Request::ListTopicPermissions { vhost };
            Plan::rows::<TopicPermissionRow>(request, Vec::new(), &usual)?.with_banner(banner)
        }
        Setting::ListUserTopicPermissions { user } => {
            let banner = format!("Listing topic permissions for user \"{user}\" ...");
            let usual = ["vhost", "exchange", "write", "read"];
            let request = Request::ListUserTopicPermissions { user };
            Plan::rows::<TopicPermissionRow>(request, Vec::new(), &usual)?.with_banner(banner)
        }
        Setting::SetVhostTags {
            vhost_name: vhost,
            tags,
        } => {
            let banner = format!("Setting tags for vhost \"{vhost}\" to [{}] ...", tags.join(", "));
            let request = Request::UpdateVhost {
                vhost,
                description: None,
                tags: Some(tags),
                default_queue_type: None,
                protected: None,
            };
            done(request, banner)
        }
        Setting::UpdateVhostMetadata {
            vhost_name: vhost,
            description,
            tags,
            default_queue_type,
            protected,
        } => {
            let banner = format!("Updating metadata of vhost \"{vhost}\" ...");
            let request = Request::UpdateVhost {
                vhost,
                description,
                tags,
                default_queue_type,
                protected,
            };
            done(request, banner)
        }
        Setting::EnableVhostDeletionProtection { vhost_name: vhost } => {
            let banner = format!("Protecting virtual host \"{vhost}\" from removal by updating its metadata...");
            done(protect(vhost, true), banner)
        }
        Setting::DisableVhostDeletionProtection { vhost_name: vhost } => {
            let banner =
                format!("Removing deletion protection from virtual host \"{vhost}\" by updating its metadata...");
            done(protect(vhost, false), banner)
        }
        Setting::SetParameter { component, name, value } => {
            let banner = format!(
                "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{value}\" in vhost \
                 \"{vhost}\" ..."
            );
            let request = Request::SetParameter {
                vhost,
                component,
                name,
                value,
            };
            done(request, banner)
        }
        Setting::ClearParameter { component, name } => {
            let banner =
                format!("Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \"{vhost}\" ...");
            done(Request::ClearParameter { vhost, component, name }, banner)
        }
        Setting::ListParameters => {
            let banner = format!("Listing runtime parameters for vhost \"{vhost}\" ...");
            Plan::rows::<ParameterRow>(Request::ListParameters { vhost }, Vec::new(), &[])?.with_banner(banner)
        }
        Setting::SetGlobalParameter { name, value } => {
            let banner = format!("Setting global runtime parameter \"{name}\" to \"{value}\" ...");
            let request = Request::SetParameter {
                vhost: String::new(),
                component: String::new(),
                name,
                value,
            };
            done(request, banner)
        }
        Setting::ClearGlobalParameter { name } => {
            let banner = format!("Clearing global runtime parameter \"{name}\" ...");
            let request = Request::ClearParameter {
                vhost: String::new(),
                component: String::new(),
                name,
            };
            done(request, banner)
        }
        Setting::ListGlobalParameters => {
            let request = Request::ListParameters { vhost: String::new() };
            Plan::rows::<ParameterRow>(request, Vec::new(), &["name", "value"])?
                .with_banner("Listing global runtime parameters ...".to_owned())
        }
        Setting::CloseConnection { pid, reason } => {
            let banner = format!("Closing connection {pid}, reason: {reason}...");
            done(Request::CloseConnection { pid, reason }, banner)
        }
        Setting::CloseAllConnections { global, reason } => {
            let vhost = (!global).then_some(vhost);
            let of = vhost.as_ref().map(|vhost| format!(" in vhost {vhost}"));
            let banner = format!(
                "Closing all connections{} (reason: {reason}) ...",
                of.unwrap_or_default()
            );
            let user = None;
            done(Request::CloseConnections { vhost, user, reason }, banner)
        }
        Setting::CloseAllUserConnections { user, reason } => {
            let banner = format!("Closing all connections of user \"{user}\" (reason: {reason}) ...");
            let (vhost, user) = (None, Some(user));
            done(Request::CloseConnections { vhost, user, reason }, banner)
        }
        Setting::ExportDefinitions { file } => {
            let file = file.filter(|file| file != "-");
            let banner = format!(
                "Exporting definitions in JSON to {} ...",
                named_file(file.as_deref(), "output")
            );
            let plan = done(Request::ExportDefinitions { vhost: named }, banner);
            Plan {
                // What goes to standard output is the document alone.
                banner: plan.banner.filter(|_| file.is_some()),
                show: Show::Document { file },
                ..plan
            }
        }
        Setting::ImportDefinitions { file } => {
            let file = file.filter(|file| file != "-");
            let banner = format!(
                "Importing definitions in JSON from {} ...",
                named_file(file.as_deref(), "input")
            );
            let request = Request::ImportDefinitions {
                vhost: named,
                definitions: String::new(),
            };
            Plan {
                show: Show::Imported,
                reads: Some(file),
                timeout_s: 300,
                ..done(request, banner)
            }
        }
    })
}
