//! Connections that an operator closes, on whichever node they are.

use serde::{Deserialize, Serialize};

use super::local::Question;
use super::protocol::status;
use super::{Failure, Inner, Open, Rows};
use crate::amqp::ReplyCode;

/// Which connections are meant. What is not named does not matter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meant {
    /// As listings name it.
    pub(super) pid: Option<String>,
    pub(super) vhost: Option<String>,
    pub(super) user: Option<String>,
}

impl Inner {
    pub(super) async fn close_connection(&self, pid: &str, reason: &str) -> Rows {
        let meant = Meant {
            pid: Some(pid.to_owned()),
            ..Meant::default()
        };
        let reason = reason.to_owned();
        let closed = self.rows_of_all(Question::Close { meant, reason }).await;
        if closed.is_empty() {
            return Err(Failure::new(status::DATA, format!("connection {pid} does not exist")));
        }
        Ok(Vec::new())
    }

    pub(super) async fn close_connections(&self, vhost: Option<String>, user: Option<String>, reason: String) -> Rows {
        let meant = Meant { pid: None, vhost, user };
        self.rows_of_all(Question::Close { meant, reason }).await;
        Ok(Vec::new())
    }

    /// Closes those of this node; a row for each.
    pub(super) async fn close_here(&self, meant: &Meant, reason: &str) -> Vec<String> {
        let mut closed = Vec::new();
        for Open { registry, .. } in self.open_listeners() {
            for description in registry.describe().await {
                let connection = &description.connection;
                let pid = self.pid(connection.session);
                let is_meant = meant.pid.as_ref().is_none_or(|wanted| *wanted == pid)
                    && meant
                        .vhost
                        .as_ref()
                        .is_none_or(|vhost| connection.vhost == vhost.as_str())
                    && meant.user.as_ref().is_none_or(|user| connection.user == user.as_str());
                // Without a vhost it has not come that far; it is closed if everything is.
                if is_meant && registry.close(connection.session.id, ReplyCode::ConnectionForced, reason) {
                    closed.push(pid);
                }
            }
        }
        closed
    }
}
