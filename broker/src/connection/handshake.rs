//! The handshake's decisions: what is offered, who may log in, which limits hold, which vhost opens.

use std::net::IpAddr;

use bytes::Bytes;

use super::census::Count;
use super::{Certificate, Limits};
use crate::amqp::frame::FRAME_MIN_SIZE;
use crate::amqp::{Fault, Method, ReplyCode, Table, Value};
use crate::auth::{Credentials, Mechanism, may_connect_from};
use crate::metadata::Picture;
use crate::name::{UserName, VhostName};

/// Client libraries switch features by product and version: this is the RabbitMQ whose behaviour they will find.
const COMPATIBLE_VERSION: &str = "4.3.0";

/// Characters of a user name that did not log in, in the log: no real one is longer.
const SHOWN_MAX: usize = 255;

/// connection.start. A client that showed a certificate may log in by it.
pub(super) fn start(cluster_name: &str, is_certified: bool) -> Method {
    let mechanisms = if is_certified {
        Mechanism::OFFER_TO_CERTIFIED
    } else {
        Mechanism::OFFER
    };
    let text = |text: &str| Value::LongStr(Bytes::copy_from_slice(text.as_bytes()));
    let mut capabilities = Table::new();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        capabilities.insert(name, Value::Bool(true));
    }
    let mut server_properties = Table::new();
    server_properties.insert("capabilities", Value::Table(capabilities));
    server_properties.insert("cluster_name", text(cluster_name));
    server_properties.insert("copyright", text("The Warren authors"));
    let information = concat!(
        "Warren ",
        env!("CARGO_PKG_VERSION"),
        ", an AMQP 0-9-1 broker; Apache-2.0"
    );
    server_properties.insert("information", text(information));
    server_properties.insert("platform", text(concat!("Warren ", env!("CARGO_PKG_VERSION"))));
    server_properties.insert("product", text("RabbitMQ"));
    server_properties.insert("version", text(COMPATIBLE_VERSION));
    Method::ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties,
        mechanisms: Bytes::from_static(mechanisms.as_bytes()),
        locales: Bytes::from_static(b"en_US"),
    }
}

/// What connection.start-ok says of who the client is.
pub(super) struct Login<'a> {
    pub(super) mechanism: &'a str,
    pub(super) response: &'a Bytes,
    pub(super) peer: IpAddr,
    /// The client's, which was verified.
    pub(super) certificate: Option<&'a Certificate>,
}

/// Why nobody is logged in. The reasons are for the log, not for the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Login { reason: String, mechanism: &'static str },
    Malformed(String),
}

/// Who the client is, and the mechanism that proved it.
pub(super) fn login(
    login: &Login<'_>,
    picture: &Picture,
    limits: &Limits,
) -> Result<(UserName, &'static str), Refused> {
    let offered = |mechanism: &Mechanism| *mechanism != Mechanism::External || login.certificate.is_some();
    let Some(mechanism) = Mechanism::from_name(login.mechanism).filter(offered) else {
        return Err(Refused::Malformed(format!(
            "unsupported authentication mechanism '{}'",
            login.mechanism
        )));
    };
    let refused = |reason: String| Refused::Login {
        reason,
        mechanism: mechanism.name(),
    };
    let shown = |name: &str| -> String { name.chars().take(SHOWN_MAX).collect() };
    let user = match login.certificate.filter(|_| mechanism == Mechanism::External) {
        Some(certificate) => {
            let Some(name) = certificate.login(limits.cert_name) else {
                return Err(refused("the client's certificate names nobody".to_owned()));
            };
            let Some(user) = picture.user(name) else {
                return Err(refused(format!("user '{}' - not found", shown(name))));
            };
            user
        }
        None => {
            let credentials =
                Credentials::parse(mechanism, login.response).map_err(|error| Refused::Malformed(error.to_string()))?;
            let name = &credentials.user;
            let user = picture
                .user(name)
                .filter(|user| user.verify_password(&credentials.password));
            let Some(user) = user else {
                return Err(refused(format!("user '{}' - invalid credentials", shown(name))));
            };
            user
        }
    };
    if !may_connect_from(&user.name, login.peer, &limits.loopback_users) {
        return Err(refused(format!("user '{}' can only connect via localhost", user.name)));
    }
    Ok((user.name.clone(), mechanism.name()))
}

/// Limits that both sides agreed to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tuned {
    pub(super) channel_max: u16,
    pub(super) frame_max: u32,
}

/// Checks connection.tune-ok against what connection.tune offered.
pub(super) fn tune(limits: &Limits, channel_max: u16, frame_max: u32) -> Result<Tuned, Fault> {
    negotiated("frame_max", frame_max, FRAME_MIN_SIZE, limits.frame_max)?;
    negotiated("channel_max", u32::from(channel_max), 1, u32::from(limits.channel_max))?;
    let channel_max = if channel_max == 0 { u16::MAX } else { channel_max };
    let frame_max = if frame_max == 0 { u32::MAX } else { frame_max };
    Ok(Tuned { channel_max, frame_max })
}

/// An offer of 0 means no limit.
fn negotiated(name: &str, value: u32, lowest: u32, offered: u32) -> Result<(), Fault> {
    let refused = |relation: &str, bound: &str, limit: u32| {
        let detail = if value == 0 {
            "0 (no limit)".to_owned()
        } else {
            value.to_string()
        };
        let text = format!("negotiated {name} = {detail} is {relation} than the {bound} allowed value ({limit})");
        Err(Fault::new(ReplyCode::NotAllowed, text))
    };
    if value != 0 && value < lowest {
        refused("lower", "minimum", lowest)
    } else if offered != 0 && (value == 0 || value > offered) {
        refused("higher", "maximum", offered)
    } else {
        Ok(())
    }
}

/// Whether there is a limit of the vhost or the user that so many connections, this one among them, exceed.
pub(super) fn check_count(picture: &Picture, user: &str, vhost: &str, count: Count) -> Result<(), Fault> {
    let refused = |text| Err(Fault::new(ReplyCode::NotAllowed, text));
    let (of_vhost, of_user) = connections_max(picture, user, vhost);
    if let Some(max) = of_vhost.filter(|max| count.vhost > *max) {
        return refused(format!(
            "access to vhost '{vhost}' refused for user '{user}': connection limit ({max}) is reached"
        ));
    }
    if let Some(max) = of_user.filter(|max| count.user > *max) {
        return refused(format!(
            "connection refused for user '{user}': user connection limit ({max}) is reached"
        ));
    }
    Ok(())
}

/// The limits of connections of the vhost and of the user.
pub(super) fn connections_max(picture: &Picture, user: &str, vhost: &str) -> (Option<u64>, Option<u64>) {
    let of_vhost = picture.vhost(vhost).and_then(|vhost| vhost.limits.connections_max());
    let of_user = picture.user(user).and_then(|user| user.limits.connections_max());
    (of_vhost, of_user)
}

/// The same for channels of the user.
pub(super) fn check_channels(picture: &Picture, user: &str, count: Count) -> Result<(), Fault> {
    let max = picture.user(user).and_then(|user| user.limits.channels_max());
    match max.filter(|max| count.channels > *max) {
        None => Ok(()),
        Some(max) => Err(Fault::new(
            ReplyCode::NotAllowed,
            format!("number of channels opened for user '{user}' has reached the maximum allowed user limit of {max}"),
        )),
    }
}

/// The vhost of connection.open.
pub(super) fn open(picture: &Picture, user: &str, vhost: &str) -> Result<VhostName, Fault> {
    let refused = |text| Err(Fault::new(ReplyCode::NotAllowed, text));
    let Some(known) = picture.vhost(vhost) else {
        return refused(format!("vhost {vhost} not found"));
    };
    if picture.permission(user, vhost).is_none() {
        return refused(format!("access to vhost '{vhost}' refused for user '{user}'"));
    }
    Ok(known.name.clone())
}
