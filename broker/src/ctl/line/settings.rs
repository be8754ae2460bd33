//! Commands that set, clear and list policies, limits, permissions for topics, parameters and definitions, and that
//! close connections.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(in crate::ctl) struct PolicyLine {
    pub(in crate::ctl) name: String,
    /// A regular expression that is looked for in names
    pub(in crate::ctl) pattern: String,
    /// A JSON object
    pub(in crate::ctl) definition: String,
    /// The highest of those that match applies
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(in crate::ctl) priority: i64,
    /// all, queues, classic_queues, quorum_queues, streams or exchanges
    #[arg(long = "apply-to", default_value = "all")]
    pub(in crate::ctl) apply_to: String,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub(in crate::ctl) enum Setting {
    /// Sets a policy: settings for all queues and exchanges of the virtual host whose names match
    SetPolicy(PolicyLine),
    /// Removes a policy
    ClearPolicy { name: String },
    /// Policies of the virtual host
    ListPolicies,
    /// Sets a policy that holds beside the others, and wins where it is stricter
    SetOperatorPolicy(PolicyLine),
    /// Removes an operator policy
    ClearOperatorPolicy { name: String },
    /// Operator policies of the virtual host
    ListOperatorPolicies,
    /// Replaces the limits of the virtual host: max-connections, max-queues
    SetVhostLimits {
        /// A JSON object; a number below 0 is no limit
        definition: String,
    },
    /// Removes all limits of the virtual host
    ClearVhostLimits,
    /// Limits of the virtual host
    ListVhostLimits {
        /// Of all virtual hosts
        #[arg(long)]
        global: bool,
    },
    /// Adds to the limits of a user: max-connections, max-channels
    SetUserLimits {
        user: String,
        /// A JSON object; a number below 0 is no limit
        definition: String,
    },
    /// Removes a limit of a user, or all
    ClearUserLimits { user: String, limit: String },
    /// Limits of a user, or of all
    ListUserLimits {
        #[arg(long)]
        user: Option<String>,
        /// Of all users
        #[arg(long)]
        global: bool,
    },
    /// Sets with which routing keys a user may publish to a topic exchange, and bind to it
    SetTopicPermissions {
        user: String,
        exchange: String,
        write: String,
        read: String,
    },
    /// Takes a user's permissions for topics, of one exchange or of all
    ClearTopicPermissions { user: String, exchange: Option<String> },
    /// Permissions for topics in the virtual host
    ListTopicPermissions,
    /// A user's permissions for topics, in all virtual hosts
    ListUserTopicPermissions { user: String },
    /// Replaces the tags of a virtual host
    SetVhostTags {
        #[arg(value_name = "VHOST")]
        vhost_name: String,
        tags: Vec<String>,
    },
    /// Changes what a virtual host says about itself
    UpdateVhostMetadata {
        #[arg(value_name = "VHOST")]
        vhost_name: String,
        #[arg(long)]
        description: Option<String>,
        /// Separated by commas
        #[arg(long, value_delimiter = ',')]
        tags: Option<Vec<String>>,
        #[arg(long = "default-queue-type")]
        default_queue_type: Option<String>,
        #[arg(long = "protected-from-deletion")]
        protected: Option<bool>,
    },
    /// A virtual host cannot be deleted from now on
    EnableVhostDeletionProtection {
        #[arg(value_name = "VHOST")]
        vhost_name: String,
    },
    /// A virtual host can be deleted again
    DisableVhostDeletionProtection {
        #[arg(value_name = "VHOST")]
        vhost_name: String,
    },
    /// Keeps a value of a component in the virtual host
    SetParameter {
        component: String,
        name: String,
        /// JSON
        value: String,
    },
    /// Removes a component's value
    ClearParameter { component: String, name: String },
    /// Values of components in the virtual host
    ListParameters,
    /// Keeps a value of the cluster
    SetGlobalParameter {
        name: String,
        /// JSON
        value: String,
    },
    /// Removes a value of the cluster
    ClearGlobalParameter { name: String },
    /// Values of the cluster
    ListGlobalParameters,
    /// Closes a connection, by its pid in list_connections
    CloseConnection { pid: String, reason: String },
    /// Closes the connections of the virtual host, or all
    CloseAllConnections {
        /// Of all virtual hosts
        #[arg(long)]
        global: bool,
        reason: String,
    },
    /// Closes the connections of a user
    CloseAllUserConnections { user: String, reason: String },
    /// Writes users, vhosts, permissions, policies, queues, exchanges and bindings to a file, or to standard output
    ExportDefinitions {
        /// - is standard output
        file: Option<String>,
    },
    /// Adds what a file, or standard input, describes
    ImportDefinitions {
        /// - is standard input
        file: Option<String>,
    },
}
