//! `amqp://user:password@host:port/vhost`, as RabbitMQ documents it: every part but the scheme and the host is optional,
//! and a vhost's slashes are written `%2f`.

use std::str::FromStr;

#[derive(Clone, PartialEq, Eq)]
pub struct Uri {
    pub user: String,
    pub password: String,
    pub host: String,
    pub port: u16,
    pub vhost: String,
}

impl Uri {
    /// `host:port`, a host with colons in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Without the password.
impl std::fmt::Debug for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "amqp://{}@{}/{}", self.user, self.address(), self.vhost)
    }
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("amqp://").ok_or("a URI begins with amqp://")?;
        let (authority, vhost) = match rest.split_once('/') {
            None => (rest, "/".to_owned()),
            Some((authority, vhost)) => (authority, decode(vhost)?),
        };
        let (credentials, place) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or("a bracket is not closed")?;
                (host, after.strip_prefix(':'))
            }
            None => match place.split_once(':') {
                None => (place, None),
                Some((host, port)) => (host, Some(port)),
            },
        };
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }
        let port = match port {
            None => 5672,
            Some(port) => port.parse().map_err(|_| format!("{port:?} is no port"))?,
        };
        Ok(Self {
            user: decode(user)?,
            password: decode(password)?,
            host: host.to_owned(),
            port,
            vhost,
        })
    }
}

/// Percent-decoding.
fn decode(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(bad)?;
        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}
