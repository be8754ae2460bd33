//! Who somebody is: password hashes in RabbitMQ's format, SASL responses, and who may come only from this machine.
//!
//! Pure: salts are drawn and users looked up elsewhere.

use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq as _;

use crate::amqp::{Table, Value};

/// How a password is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    Sha256,
    Sha512,
    /// For hashes of old: new ones are better made otherwise.
    Md5,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha512, Self::Md5];

    /// As definition files and the HTTP API spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// The algorithm that `name` spells.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => digest::<Sha256>(salt, password),
            Self::Sha512 => digest::<Sha512>(salt, password),
            Self::Md5 => digest::<Md5>(salt, password),
        }
    }

    fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Md5 => 16,
        }
    }
}

fn digest<D: Digest>(salt: &[u8], password: &[u8]) -> Vec<u8> {
    let digest = D::new().chain_update(salt).chain_update(password);
    digest.finalize().to_vec()
}

const SALT_LEN: usize = 4;

/// A salted password: four octets of salt, then the digest of salt and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordHash {
    algorithm: Algorithm,
    salted: Bytes,
}

impl PasswordHash {
    /// Hashes `password`; `salt` must be random.
    pub fn new(algorithm: Algorithm, salt: [u8; SALT_LEN], password: &[u8]) -> Self {
        let mut salted = salt.to_vec();
        salted.extend_from_slice(&algorithm.digest(&salt, password));
        Self {
            algorithm,
            salted: salted.into(),
        }
    }

    /// Takes salt and digest as stored; `None` if they have not the algorithm's length.
    pub fn from_bytes(algorithm: Algorithm, salted: Bytes) -> Option<Self> {
        (salted.len() == SALT_LEN + algorithm.digest_len()).then_some(Self { algorithm, salted })
    }

    /// Takes salt and digest as definition files have them.
    pub fn from_base64(algorithm: Algorithm, text: &str) -> Option<Self> {
        Self::from_bytes(algorithm, BASE64.decode(text).ok()?.into())
    }

    /// The same of whichever algorithm makes hashes of that length.
    pub fn of_any_algorithm(text: &str) -> Option<Self> {
        Algorithm::ALL
            .into_iter()
            .find_map(|algorithm| Self::from_base64(algorithm, text))
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Salt and digest.
    pub fn as_bytes(&self) -> &Bytes {
        &self.salted
    }

    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.salted)
    }

    /// Whether `password` is the one that was hashed. Takes the same time wherever the digests differ.
    pub fn verify(&self, password: &[u8]) -> bool {
        let (salt, digest) = self.salted.split_at(SALT_LEN);
        self.algorithm.digest(salt, password).ct_eq(digest).into()
    }
}

/// The SASL mechanisms on offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Amqplain,
    /// The client's certificate says who it is.
    External,
}

impl Mechanism {
    /// What connection.start offers, in order of preference.
    pub const OFFER: &str = "PLAIN AMQPLAIN";
    /// The same to a client that showed a certificate.
    pub const OFFER_TO_CERTIFIED: &str = "PLAIN AMQPLAIN EXTERNAL";

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Amqplain => "AMQPLAIN",
            Self::External => "EXTERNAL",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::Amqplain, Self::External]
            .into_iter()
            .find(|mechanism| mechanism.name() == name)
    }
}

/// Which part of a client's certificate is the user's name, as `ssl_cert_login_from` of RabbitMQ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertLogin {
    /// The subject as RFC 4514 writes it.
    #[default]
    DistinguishedName,
    /// The subject's common name; several are joined with commas.
    CommonName,
    /// A subject alternative name, of a type and at a place that are options of their own.
    SubjectAlternativeName,
}

/// Which subject alternative name is the user's, as `ssl_cert_login_san_type` of RabbitMQ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SanType {
    #[default]
    Dns,
    Email,
    Ip,
    Uri,
}

impl FromStr for SanType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dns" => Ok(Self::Dns),
            "email" => Ok(Self::Email),
            "ip" => Ok(Self::Ip),
            "uri" => Ok(Self::Uri),
            _ => Err("must be dns, email, ip or uri".into()),
        }
    }
}

/// Where in a client's certificate the user's name is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertName {
    pub from: CertLogin,
    pub san_type: SanType,
    /// From 0, among the names of that type.
    pub san_index: usize,
}

impl FromStr for CertLogin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "distinguished_name" => Ok(Self::DistinguishedName),
            "common_name" => Ok(Self::CommonName),
            "subject_alternative_name" => Ok(Self::SubjectAlternativeName),
            _ => Err("must be distinguished_name, common_name or subject_alternative_name".into()),
        }
    }
}

/// A user name and the password that shall prove it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: Bytes,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A response that does not follow its mechanism's grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed response for mechanism {}", .0.name())]
pub struct Malformed(pub Mechanism);

impl Credentials {
    /// Reads the response of connection.start-ok. That of EXTERNAL holds none.
    pub fn parse(mechanism: Mechanism, response: &Bytes) -> Result<Self, Malformed> {
        let credentials = match mechanism {
            Mechanism::Plain => Self::plain(response),
            Mechanism::Amqplain => Self::amqplain(response),
            Mechanism::External => None,
        };
        credentials.ok_or(Malformed(mechanism))
    }

    /// NUL, user, NUL, password: the identity to act as, which would come first, must be empty.
    fn plain(response: &Bytes) -> Option<Self> {
        let mut parts = response.splitn(3, |byte| *byte == 0);
        let (authzid, user, password) = (parts.next()?, parts.next()?, parts.next()?);
        if !authzid.is_empty() || password.contains(&0) {
            return None;
        }
        Some(Self {
            user: std::str::from_utf8(user).ok()?.to_owned(),
            password: Bytes::copy_from_slice(password),
        })
    }

    /// The fields of a table without its length: LOGIN and PASSWORD.
    fn amqplain(response: &Bytes) -> Option<Self> {
        let table = Table::decode_fields(response).ok()?;
        let text = |name| match table.get(name) {
            Some(Value::LongStr(text)) => Some(text),
            _ => None,
        };
        let user = std::str::from_utf8(text("LOGIN")?).ok()?.to_owned();
        Some(Self {
            user,
            password: Bytes::copy_from_slice(text("PASSWORD")?),
        })
    }
}

/// Whether `user` may connect from `peer`, where `loopback_users` may only from this machine.
pub fn may_connect_from<N: AsRef<str>>(user: &str, peer: IpAddr, loopback_users: &[N]) -> bool {
    peer.to_canonical().is_loopback() || !loopback_users.iter().any(|name| name.as_ref() == user)
}

#[cfg(test)]
mod tests;
