//! The kinds of value an option can have, and how each is read from text.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// `host:port`, the host a name, an IPv4 address, or an IPv6 address in brackets. Not resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    pub(super) fn loopback(port: u16) -> Self {
        Self {
            host: "127.0.0.1".into(),
            port,
        }
    }

    /// Without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether no machine is meant, but every address of the one that listens.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// Whether only this machine can be meant.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if port == 0 {
            return Err(format!("{text}: the port must be 1 to 65535"));
        }
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(wrong()),
            None => host,
        };
        let bare_v6 = host.contains(':') && !text.starts_with('[');
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if host.is_empty() || host.len() > 253 || bare_v6 || !host.chars().all(legal) {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// One node of the cluster: `name=host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub address: Address,
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text
            .split_once('=')
            .ok_or_else(|| format!("{text} is not NAME=HOST:PORT"))?;
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            address: address.parse()?,
        })
    }
}

/// What a node's or a cluster's name may be.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
        return Err("a name has 1 to 64 letters, digits, and . _ @ -".into());
    }
    Ok(())
}

/// Text that shows nowhere; written out only where the operator's tool sends a password to a node.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself. Never to be logged.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "(none)" } else { "***" })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json".into()),
        }
    }
}

const WATERMARK_BYTES_MIN: u64 = 1_000_000;

/// How much memory is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watermark {
    /// Thousandths of what there is.
    Part(u16),
    Bytes(u64),
}

impl Watermark {
    /// In bytes, if `total` is known or not needed.
    pub fn bytes(self, total: impl FnOnce() -> Option<u64>) -> Option<u64> {
        match self {
            Self::Part(part) => Some(total()? / 1_000 * u64::from(part)),
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

impl FromStr for Watermark {
    type Err = String;

    /// A number with a point is a part: `0.6`, `1.0`.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('.') {
            // Whoever means 60 % does not mean 60 bytes. 0 holds publishers back for good, as an operator may want.
            return match size(text)? {
                1..WATERMARK_BYTES_MIN => Err("must be a part from 0.0 to 1.0, or a size of 1MB or more".into()),
                bytes => Ok(Self::Bytes(bytes)),
            };
        }
        let part = text.parse::<f64>().ok().filter(|part| (0.0..=1.0).contains(part));
        let part = part.ok_or("must be a part from 0.0 to 1.0, or a size such as 2GiB")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a thousand"
        )]
        Ok(Self::Part((part * 1_000.0).round() as u16))
    }
}

/// Bytes, or a number with KiB, MiB, GiB, TiB (powers of 1,024) or kB, MB, GB, TB (powers of 1,000).
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err("must be a number of bytes, or one with KiB, MiB, GiB, TiB, kB, MB, GB or TB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "must be a size such as 16MiB".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| "is too large".to_owned())
}
