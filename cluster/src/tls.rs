//! TLS credentials from files: read and checked at the start, and taken anew when the files change.
//!
//! What is in use is a pair of configurations that connections to come take from [`Credentials`]; those that are open
//! keep theirs. Files that no longer fit together change nothing: what was read last goes on.
//! Private keys stay in memory only, and show in no error.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The largest file that is read: a list of all public authorities has about 200 KiB.
const FILE_LEN_MAX: u64 = 4 << 20;

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, then those between it and its authority.
    pub cert: PathBuf,
    /// The certificate's private key: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
    /// The authorities whose certificates are believed; needed to verify anybody.
    pub ca: Option<PathBuf>,
}

/// What a listener wants of those who call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// No certificate.
    Anyone,
    /// A certificate of a known authority, if the caller has one.
    VerifiedIfKnown,
    /// A certificate of a known authority.
    Verified,
}

/// Why credentials cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system does not let it be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{} {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn unfit(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Unfit {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    files: Files,
    callers: Callers,
    current: ArcSwap<Current>,
    /// The files' contents as they were last looked at, whether they are in use or not.
    seen: Mutex<Contents>,
}

/// The files' bytes: certificate, key, authorities.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

struct Current {
    server: Arc<ServerConfig>,
    client: Option<Arc<ClientConfig>>,
    /// The certificate itself, without those that vouch for it.
    own: CertificateDer<'static>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("files", &self.inner.files)
            .field("callers", &self.inner.callers)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files. With authorities they also serve to call others, which are verified.
    pub fn read(files: Files, callers: Callers) -> Result<Self, Error> {
        let contents = Contents::read(&files)?;
        let current = Current::new(&files, callers, &contents)?;
        Ok(Self {
            inner: Arc::new(Inner {
                files,
                callers,
                current: ArcSwap::from_pointee(current),
                seen: Mutex::new(contents),
            }),
        })
    }

    /// For the next connection that is accepted.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.inner.current.load().server)
    }

    /// For the next connection that is made; `None` without authorities.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.inner.current.load().client.clone()
    }

    /// The certificate in use, in DER.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.inner.current.load().own.clone()
    }

    /// Where they come from.
    pub fn files(&self) -> &Files {
        &self.inner.files
    }

    /// Reads the files again and takes them if they changed. Says whether it did; after an error nothing has changed,
    /// and the same contents are not complained about again. Blocks while it reads.
    pub fn reload(&self) -> Result<bool, Error> {
        let contents = Contents::read(&self.inner.files)?;
        {
            let mut seen = self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == contents {
                return Ok(false);
            }
            seen.clone_from(&contents);
        }
        let current = Current::new(&self.inner.files, self.inner.callers, &contents)?;
        self.inner.current.store(Arc::new(current));
        Ok(true)
    }
}

impl Contents {
    fn read(files: &Files) -> Result<Self, Error> {
        Ok(Self {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            ca: files.ca.as_deref().map(read).transpose()?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(unfit(path, format_args!("is longer than {FILE_LEN_MAX} bytes")));
    }
    Ok(bytes)
}

impl Current {
    fn new(files: &Files, callers: Callers, contents: &Contents) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&files.cert, &contents.cert)?;
        let own = chain[0].clone();
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| unfit(&files.key, "holds no private key in PEM that is not encrypted"))?;
        let roots = match (&files.ca, &contents.ca) {
            (Some(path), Some(bytes)) => Some((path, roots(path, bytes)?)),
            _ => None,
        };
        let pair = |error: rustls::Error| match error {
            rustls::Error::InvalidCertificate(_) => unfit(&files.cert, format_args!("cannot be used: {error}")),
            rustls::Error::InconsistentKeys(_) => unfit(
                &files.key,
                format_args!("is not the key of the certificate in {}", files.cert.display()),
            ),
            error => unfit(&files.key, format_args!("cannot be used: {error}")),
        };
        let versions = |error: rustls::Error| unfit(&files.cert, format_args!("cannot be used: {error}"));

        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(versions)?;
        let server = match callers {
            Callers::Anyone => server.with_no_client_auth(),
            Callers::VerifiedIfKnown | Callers::Verified => {
                let (path, roots) = roots
                    .clone()
                    .ok_or_else(|| unfit(&files.cert, "is given without the authorities that callers need"))?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
                let verifier = match callers {
                    Callers::VerifiedIfKnown => verifier.allow_unauthenticated(),
                    Callers::Anyone | Callers::Verified => verifier,
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| unfit(path, format_args!("cannot be used: {error}")))?;
                server.with_client_cert_verifier(verifier)
            }
        };
        let server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(pair)?;
        let client = roots
            .map(|(_, roots)| client(provider, roots, chain, key).map_err(pair))
            .transpose()?;
        Ok(Self {
            server: Arc::new(server),
            client: client.map(Arc::new),
            own,
        })
    }
}

fn client(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
}

/// One or more.
fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(unfit(path, "holds no certificate in PEM")),
    }
}

fn roots(path: &Path, bytes: &[u8]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, bytes)? {
        roots
            .add(certificate)
            .map_err(|error| unfit(path, format_args!("holds what is no authority's certificate: {error}")))?;
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
pub(crate) mod tests;
