//! The handshake that opens every stream, as plain values: the format is in `transport.proto`.
//!
//! Both ends prove that they know the secret before anything else passes. What either end claims of itself
//! (names, ids, incarnation) is inside both proofs, and so are both challenges, the role and the purpose.

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use warren_proto::transport::{Hello, Welcome};

use super::{Identity, Met, Secret, Side};
use crate::NodeId;
use crate::liveness::Stale;
use crate::version::{self, Versions};

/// The only version of the protocol so far.
pub(super) const PROTOCOL: u32 = 1;
/// How an operator's tool names itself.
pub(super) const TOOL: &str = "warrenctl";

const CHALLENGE_LEN: usize = 32;
const NAME_LEN_MAX: usize = 255;

/// What a stream is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Link,
    Snapshot,
    Admin,
}

impl Purpose {
    fn text(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Snapshot => "snapshot",
            Self::Admin => "admin",
        }
    }
}

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Caller,
    Callee,
}

impl Role {
    fn text(self) -> &'static str {
        match self {
            Self::Caller => "warren caller",
            Self::Callee => "warren callee",
        }
    }
}

/// Why an end does not go on. Names the other end, as it calls itself or as it was called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0:?} broke the handshake: {1}")]
    Malformed(String, &'static str),
    #[error("{0:?} speaks version {1} of the protocol, not {PROTOCOL}")]
    Protocol(String, u32),
    #[error("{0:?} belongs to the cluster {1:?}, not {2:?}")]
    Cluster(String, String, String),
    #[error(
        "{0:?} is not part of the cluster any more: it was forgotten, and may join again with an empty data directory"
    )]
    Forgotten(String),
    #[error(
        "{0:?} obeys an earlier decision on who goes on without the majority: if it was given up, it may join again with \
         an empty data directory; if it survives, the decision is to be made on it as well"
    )]
    Behind(String),
    #[error("{0:?} obeys a later decision on who goes on without the majority")]
    Ahead(String),
    #[error("{0:?} is part of another cluster of that name")]
    Foreign(String),
    #[error("{0:?} (id {1}) is not part of the cluster: a new node has to join it")]
    Unknown(String, NodeId),
    #[error("{0:?} has the id {1}, which is that of {2:?}")]
    Duplicate(String, NodeId, String),
    #[error("{0:?} answered with the name {1:?} and the id {2}")]
    Other(String, String, NodeId),
    #[error("{0:?} has another cluster secret")]
    Secret(String),
    #[error("{0:?} supports version {1} of the log's entries, and the cluster has agreed on version {2}")]
    TooOld(String, u16, u16),
    #[error("{0:?}: {1}")]
    Stale(String, Stale),
}

/// Who may be at the other end.
pub(super) trait Book {
    /// The peer with this id.
    fn name_of(&self, node: NodeId) -> Option<String>;
    /// Whether the cluster has removed the node with that data directory for good.
    fn is_forgotten(&self, node: NodeId, directory: u64) -> bool;
    /// Refuses a run that is over.
    fn admit(&self, node: NodeId, incarnation: u64) -> Result<(), Stale>;
}

/// The other end, after it proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    /// The first run that had its data directory, as it says; 0: not known.
    pub(super) directory: u64,
    /// Where it stands, as it says.
    pub(super) met: Met,
}

/// The calling end.
#[derive(Debug)]
pub(super) struct Caller {
    secret: Secret,
    purpose: Purpose,
    hello: Hello,
    /// The node that was called; a tool takes whoever answers.
    called: Option<(String, NodeId)>,
    versions: Option<Versions>,
}

impl Caller {
    /// A node that calls another.
    pub(super) fn node(identity: &Identity, purpose: Purpose, name: &str, node: NodeId) -> Self {
        Self {
            secret: identity.secret.clone(),
            purpose,
            hello: hello(identity, node, challenge()),
            called: Some((name.to_owned(), node)),
            versions: Some(identity.versions.clone()),
        }
    }

    /// An operator's tool that calls some node of the cluster.
    pub(super) fn tool(cluster: &str, secret: Secret) -> Self {
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: cluster.to_owned(),
            name: TOOL.to_owned(),
            node: 0,
            incarnation: 0,
            challenge: challenge(),
            ..Hello::default()
        };
        Self {
            secret,
            purpose: Purpose::Admin,
            hello,
            called: None,
            versions: None,
        }
    }

    pub(super) fn hello(&self) -> Hello {
        self.hello.clone()
    }

    /// Judges the callee's answer, and answers its challenge.
    pub(super) fn welcome(self, welcome: Welcome) -> Result<(Proven, Bytes), Refusal> {
        let called = self.called.as_ref().map_or("the node", |(name, _)| name);
        let Some(theirs) = welcome.hello else {
            return Err(Refusal::Malformed(called.to_owned(), "no hello in its welcome"));
        };
        check(&theirs, &self.hello.cluster)?;
        if let Some((name, node)) = &self.called
            && (*name != theirs.name || *node != theirs.node)
        {
            return Err(Refusal::Other(name.clone(), theirs.name, theirs.node));
        }
        if !verify(
            &self.secret,
            Role::Callee,
            self.purpose,
            &self.hello,
            &theirs,
            &welcome.proof,
        ) {
            return Err(Refusal::Secret(theirs.name));
        }
        if let Some(versions) = &self.versions {
            check_version(&theirs, versions)?;
        }
        let proof = prove(&self.secret, Role::Caller, self.purpose, &self.hello, &theirs);
        Ok((proven(theirs), proof))
    }
}

/// The called end, which waits for the caller's proof.
#[derive(Debug)]
pub(super) struct Callee {
    secret: Secret,
    purpose: Purpose,
    /// Why the caller is not let in. It is told once it has proved itself, and what it says of its cluster is heard.
    refused: Option<Refusal>,
    /// None: the caller is a tool.
    versions: Option<Versions>,
    ours: Hello,
    theirs: Hello,
}

impl Callee {
    /// Judges what the caller says of itself, and answers its challenge.
    pub(super) fn new(
        identity: &Identity,
        purpose: Purpose,
        theirs: Hello,
        book: &dyn Book,
    ) -> Result<(Self, Welcome), Refusal> {
        check(&theirs, &identity.cluster)?;
        let tool = purpose == Purpose::Admin && theirs.node == 0;
        let mut refused = None;
        if !tool {
            if theirs.node == identity.node {
                return Err(Refusal::Duplicate(theirs.name, theirs.node, identity.name.clone()));
            }
            let name = book.name_of(theirs.node);
            match name {
                _ if book.is_forgotten(theirs.node, theirs.directory) => {
                    refused = Some(Refusal::Forgotten(theirs.name.clone()));
                }
                None if theirs.node == 0 => return Err(Refusal::Unknown(theirs.name, theirs.node)),
                None => refused = Some(Refusal::Unknown(theirs.name.clone(), theirs.node)),
                Some(name) if name != theirs.name => {
                    return Err(Refusal::Duplicate(theirs.name, theirs.node, name));
                }
                Some(_) => {}
            }
            if let Err(stale) = book.admit(theirs.node, theirs.incarnation) {
                return Err(Refusal::Stale(theirs.name, stale));
            }
        }
        let ours = hello(identity, theirs.node, challenge());
        let proof = prove(&identity.secret, Role::Callee, purpose, &theirs, &ours);
        let welcome = Welcome {
            hello: Some(ours.clone()),
            proof,
        };
        Ok((
            Self {
                secret: identity.secret.clone(),
                purpose,
                versions: (!tool).then(|| identity.versions.clone()),
                refused,
                ours,
                theirs,
            },
            welcome,
        ))
    }

    /// The caller, as it calls itself.
    pub(super) fn caller(&self) -> &str {
        &self.theirs.name
    }

    /// Judges the caller's proof: who it is, and why it is not let in all the same. Its run may have ended meanwhile: that
    /// is for the user to see.
    pub(super) fn proof(self, proof: &[u8]) -> Result<(Proven, Option<Refusal>), Refusal> {
        if verify(
            &self.secret,
            Role::Caller,
            self.purpose,
            &self.theirs,
            &self.ours,
            proof,
        ) {
            let is_old = self
                .versions
                .as_ref()
                .map(|versions| check_version(&self.theirs, versions));
            let refused = self.refused.or_else(|| is_old.and_then(Result::err));
            Ok((proven(self.theirs), refused))
        } else {
            Err(Refusal::Secret(self.theirs.name))
        }
    }
}

/// For that node; 0: a tool.
fn hello(identity: &Identity, to: NodeId, challenge: Bytes) -> Hello {
    let standing = identity.membership.standing();
    // Whoever was told of a decision may not have applied yet of which cluster it is.
    let knows = !standing.cluster_id.is_empty() || standing.reformed > 0;
    Hello {
        protocol: PROTOCOL,
        cluster: identity.cluster.clone(),
        name: identity.name.clone(),
        node: identity.node,
        incarnation: identity.incarnation,
        challenge,
        directory: identity.directory,
        version: identity.versions.supported().into(),
        cluster_id: standing.cluster_id.clone(),
        reformed: knows.then_some(standing.reformed),
        counts_you: standing.counts(to),
        address: identity.address.clone(),
    }
}

/// Whether the other end is on this one's side.
pub(super) fn check_side(identity: &Identity, theirs: &Proven) -> Result<(), Refusal> {
    let name = || theirs.name.clone();
    match identity.membership.standing().side_of(&theirs.met) {
        Side::Same => Ok(()),
        Side::Behind => Err(Refusal::Behind(name())),
        Side::Ahead => Err(Refusal::Ahead(name())),
        Side::Foreign => Err(Refusal::Foreign(name())),
    }
}

/// Whether the other end applies what the cluster has agreed on.
fn check_version(theirs: &Hello, versions: &Versions) -> Result<(), Refusal> {
    let supported = u16::try_from(theirs.version).unwrap_or(u16::MAX).max(version::FIRST);
    match versions.agreed() {
        agreed if supported < agreed => Err(Refusal::TooOld(theirs.name.clone(), supported, agreed)),
        _ => Ok(()),
    }
}

fn challenge() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; CHALLENGE_LEN]>())
}

fn proven(hello: Hello) -> Proven {
    let met = Met {
        node: hello.node,
        name: hello.name.clone(),
        address: hello.address,
        directory: hello.directory,
        cluster_id: hello.cluster_id,
        reformed: hello.reformed,
        counts_us: hello.counts_you,
    };
    Proven {
        met,
        name: hello.name,
        node: hello.node,
        incarnation: hello.incarnation,
        directory: hello.directory,
    }
}

fn check(theirs: &Hello, cluster: &str) -> Result<(), Refusal> {
    let texts = [&theirs.name, &theirs.cluster, &theirs.cluster_id, &theirs.address];
    if texts.iter().any(|text| text.len() > NAME_LEN_MAX) {
        return Err(Refusal::Malformed(
            theirs.name.chars().take(32).collect(),
            "a name is too long",
        ));
    }
    if theirs.protocol != PROTOCOL {
        return Err(Refusal::Protocol(theirs.name.clone(), theirs.protocol));
    }
    if theirs.cluster != cluster {
        return Err(Refusal::Cluster(
            theirs.name.clone(),
            theirs.cluster.clone(),
            cluster.to_owned(),
        ));
    }
    if theirs.challenge.len() != CHALLENGE_LEN {
        return Err(Refusal::Malformed(
            theirs.name.clone(),
            "a challenge of the wrong length",
        ));
    }
    Ok(())
}

fn prove(secret: &Secret, role: Role, purpose: Purpose, caller: &Hello, callee: &Hello) -> Bytes {
    let proof = mac(secret, role, purpose, caller, callee).finalize().into_bytes();
    Bytes::copy_from_slice(&proof)
}

/// Takes the same time whatever the proof is.
fn verify(secret: &Secret, role: Role, purpose: Purpose, caller: &Hello, callee: &Hello, proof: &[u8]) -> bool {
    mac(secret, role, purpose, caller, callee).verify_slice(proof).is_ok()
}

fn mac(secret: &Secret, role: Role, purpose: Purpose, caller: &Hello, callee: &Hello) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes a key of any length");
    text(&mut mac, role.text().as_bytes());
    text(&mut mac, purpose.text().as_bytes());
    for hello in [caller, callee] {
        mac.update(&hello.protocol.to_le_bytes());
        text(&mut mac, hello.cluster.as_bytes());
        text(&mut mac, hello.name.as_bytes());
        mac.update(&hello.node.to_le_bytes());
        mac.update(&hello.incarnation.to_le_bytes());
        text(&mut mac, &hello.challenge);
    }
    mac
}

fn text(mac: &mut Hmac<Sha256>, text: &[u8]) {
    mac.update(&(text.len() as u64).to_le_bytes());
    mac.update(text);
}

#[cfg(test)]
mod tests;
