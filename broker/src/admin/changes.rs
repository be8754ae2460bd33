//! Calls that change something: users, vhosts, permissions through the metadata, queues through their leaders.

use warren_proto::queue::{self, reply::Kind as Reply};
use warren_proto::record::Command;

use super::one_shot::ask_queue;
use super::protocol::{DeletedRow, Request, status};
use super::{Failure, Inner, Rows, json};
use crate::auth::{Algorithm, PasswordHash};
use crate::metadata::{AddUser, Change, DescribeVhost, Kind, Outcome, Permission, Queue, Refusal, SetPermissions};

impl Inner {
    pub(super) async fn change(&self, request: Request) -> Rows {
        match request {
            Request::AuthenticateUser { user, password } => {
                let known = self
                    .view
                    .user(&user)
                    .is_some_and(|user| user.verify_password(password.reveal().as_bytes()));
                if known {
                    Ok(Vec::new())
                } else {
                    Err(Failure::new(
                        status::DATA,
                        format!("failed to authenticate user \"{user}\""),
                    ))
                }
            }
            Request::PurgeQueue { vhost, queue } => self.purge(&vhost, &queue).await,
            Request::DeleteQueue {
                vhost,
                queue,
                if_unused,
                if_empty,
            } => self.delete(&vhost, &queue, queue::Delete { if_unused, if_empty }).await,
            Request::DeleteVhost { vhost } if !self.view.vhost_exists(&vhost) => Err(Failure::new(
                status::DATA,
                format!("virtual host '{vhost}' does not exist"),
            )),
            Request::AddVhost { ref vhost, .. } if self.view.vhost_exists(vhost) => Ok(Vec::new()),
            Request::AddVhost { ref vhost, .. } => {
                let room = self.view.picture().check_vhosts_max(vhost, self.facts.vhosts_max);
                room.map_err(|refusal| Failure::new(status::USAGE, refusal.to_string()))?;
                self.carry_out(request).await
            }
            Request::DeleteUser { ref user } if self.view.user(user).is_none() => Ok(Vec::new()),
            Request::AddUser { password, hashed, .. } | Request::ChangePassword { password, hashed, .. }
                if hashed && PasswordHash::of_any_algorithm(password.reveal()).is_none() =>
            {
                Err(Failure::new(
                    status::DATA,
                    "the password is no salted hash of sha256, sha512 or md5 in base64",
                ))
            }
            Request::SetPermissions {
                ref configure,
                ref write,
                ref read,
                ..
            } if let Err(refusal) = Permission::new(configure, write, read).check() => {
                Err(Failure::new(status::DATA, refusal.to_string()))
            }
            other => self.carry_out(other).await,
        }
    }

    /// Has the change made that is asked for.
    async fn carry_out(&self, request: Request) -> Rows {
        match self.setting(request.clone())?.or_else(|| change(request)) {
            Some(change) => self.submit(change).await,
            None => Err(Failure::new(status::USAGE, "the node does not know this call")),
        }
    }

    pub(super) async fn submit(&self, change: Change) -> Rows {
        match self.parts()?.metadata.submit(change).await {
            Ok(Outcome::Done | Outcome::Queue(_)) => Ok(Vec::new()),
            Ok(Outcome::Refused(refusal)) => {
                let code = match refusal {
                    Refusal::NoUser(_) => status::NO_USER,
                    Refusal::UserExists(_) | Refusal::NoParameter => status::SOFTWARE,
                    _ => status::DATA,
                };
                Err(Failure::new(code, refusal.to_string()))
            }
            Err(_) => Err(Failure::unavailable()),
        }
    }

    async fn purge(&self, vhost: &str, name: &str) -> Rows {
        let queue = self.queue(vhost, name, status::DATA)?;
        if queue.kind == Kind::Stream {
            let text = format!("queue.purge not supported by stream queues {}", queue.resource());
            return Err(Failure::new(status::SOFTWARE, text));
        }
        match ask_queue(self.directory.clone(), queue.group, &Command::Purge).await {
            Some(Reply::Purged(_)) => Ok(Vec::new()),
            _ => Err(Failure::unavailable()),
        }
    }

    /// Whether all replicas of the queue answer that they have lost what they held, and wait to be brought up by others.
    async fn is_held_by_nobody(&self, queue: &Queue) -> bool {
        let replicas = self.replicas_of(vec![queue.group]).await.remove(&queue.group);
        let replicas = replicas.unwrap_or_default();
        let is_fresh = |node: &u64| replicas.iter().any(|replica| replica.node == *node && replica.is_fresh);
        queue.replicas().iter().all(is_fresh)
    }

    async fn delete(&self, vhost: &str, name: &str, delete: queue::Delete) -> Rows {
        let queue = self.queue(vhost, name, status::USAGE)?;
        let picture = self.view.picture();
        let is_left = |node: &u64| !picture.is_gone(*node);
        let has_nobody = || queue.is_lost() || !queue.replicas().iter().any(is_left);
        if !queue.is_transient() && (has_nobody() || self.is_held_by_nobody(&queue).await) {
            // Nobody is left who could say how many messages it had.
            self.submit(Change::DeleteQueue { group: queue.group }).await?;
            return Ok(vec![json(&DeletedRow { messages: 0 })]);
        }
        match ask_queue(self.directory.clone(), queue.group, &Command::Delete(delete)).await {
            Some(Reply::Deleted(deleted)) => {
                self.submit(Change::DeleteQueue { group: queue.group }).await?;
                Ok(vec![json(&DeletedRow {
                    messages: deleted.count,
                })])
            }
            Some(Reply::DeleteRefused(refused)) => {
                let why = if refused.in_use { "in use" } else { "not empty" };
                Err(Failure::new(
                    status::SOFTWARE,
                    format!("queue '{name}' in vhost '{vhost}' {why}"),
                ))
            }
            _ => Err(Failure::unavailable()),
        }
    }
}

fn hash(password: &str, hashed: bool) -> Option<PasswordHash> {
    if hashed {
        return PasswordHash::of_any_algorithm(password);
    }
    Some(PasswordHash::new(
        Algorithm::Sha256,
        rand::random(),
        password.as_bytes(),
    ))
}

fn change(request: Request) -> Option<Change> {
    Some(match request {
        Request::AddUser { user, password, hashed } => Change::AddUser(AddUser {
            name: user.into(),
            password: hash(password.reveal(), hashed),
            tags: Vec::new(),
        }),
        Request::ChangePassword { user, password, hashed } => Change::ChangePassword {
            name: user.into(),
            password: hash(password.reveal(), hashed),
        },
        Request::DeleteUser { user } => Change::DeleteUser { name: user.into() },
        Request::SetUserTags { user, tags } => Change::SetTags {
            name: user.into(),
            tags,
        },
        Request::SetPermissions {
            vhost,
            user,
            configure,
            write,
            read,
        } => Change::SetPermissions(SetPermissions {
            user: user.into(),
            vhost: vhost.into(),
            configure,
            write,
            read,
        }),
        Request::ClearPermissions { vhost, user } => Change::ClearPermissions {
            user: user.into(),
            vhost: vhost.into(),
        },
        Request::AddVhost {
            vhost,
            description,
            tags,
            default_queue_type,
        } => Change::AddVhost(DescribeVhost {
            name: vhost.into(),
            description,
            tags,
            default_queue_type,
            is_protected: false,
        }),
        Request::DeleteVhost { vhost } => Change::DeleteVhost { name: vhost.into() },
        _ => return None,
    })
}
