//! Credentials from files that are there, that are not, and that change. The certificates are made here.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::*;

/// An authority, and the directory where it writes what it issues.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
    _guard: Guard,
}

struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        // What is left in the directory for temporary files is the system's to clean.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("warren-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join("ca.pem"), certificate.pem()).expect("written");
        Self {
            issuer: Issuer::new(params, key),
            _guard: Guard(dir.clone()),
            dir,
        }
    }

    /// Issues a certificate for `127.0.0.1` and writes it over what had that name before.
    pub(crate) fn issue(&self, name: &str) -> Files {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = self.files(name);
        std::fs::write(&files.cert, certificate.pem()).expect("written");
        std::fs::write(&files.key, key.serialize_pem()).expect("written");
        files
    }

    fn files(&self, name: &str) -> Files {
        Files {
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
            ca: Some(self.dir.join("ca.pem")),
        }
    }
}

/// The refusal, which must begin with that file's path.
fn refusal(files: Files, callers: Callers, blamed: &Path) -> String {
    let error = Credentials::read(files, callers)
        .expect_err("files that do not fit")
        .to_string();
    let path = blamed.display().to_string();
    assert!(error.starts_with(&path), "{error}");
    error[path.len()..].trim_start().to_owned()
}

#[test]
fn files_that_fit_serve_both_ends() {
    let authority = Authority::new("fits");
    let credentials = Credentials::read(authority.issue("a"), Callers::Verified).expect("they fit");
    assert!(credentials.client().is_some());
    let files = Files {
        ca: None,
        ..authority.issue("a")
    };
    let credentials = Credentials::read(files, Callers::Anyone).expect("they fit");
    assert!(credentials.client().is_none(), "nobody to believe");
}

#[test]
fn what_is_wrong_is_said_of_the_file() {
    let authority = Authority::new("wrong");
    let good = authority.issue("a");
    let other = authority.issue("b");

    let missing = authority.dir.join("nothing.pem");
    let files = Files {
        cert: missing.clone(),
        ..good.clone()
    };
    assert!(refusal(files, Callers::Anyone, &missing).starts_with("cannot be read: No such file"));

    let empty = authority.dir.join("empty.pem");
    std::fs::write(&empty, "nothing to see\n").expect("written");
    let files = Files {
        cert: empty.clone(),
        ..good.clone()
    };
    assert_eq!(refusal(files, Callers::Anyone, &empty), "holds no certificate in PEM");
    let files = Files {
        key: empty.clone(),
        ..good.clone()
    };
    assert!(refusal(files, Callers::Anyone, &empty).starts_with("holds no private key in PEM"));
    let files = Files {
        ca: Some(empty.clone()),
        ..good.clone()
    };
    assert_eq!(refusal(files, Callers::Verified, &empty), "holds no certificate in PEM");

    let files = Files {
        key: other.key.clone(),
        ..good.clone()
    };
    assert!(refusal(files, Callers::Anyone, &other.key).starts_with("is not the key of the certificate in "));

    let files = Files {
        ca: None,
        ..good.clone()
    };
    assert!(refusal(files, Callers::Verified, &good.cert).contains("without the authorities"));

    let huge = authority.dir.join("huge.pem");
    std::fs::write(&huge, vec![b'\n'; FILE_LEN_MAX as usize + 1]).expect("written");
    let files = Files {
        cert: huge.clone(),
        ..good
    };
    assert!(refusal(files, Callers::Anyone, &huge).starts_with("is longer than"));
}

#[test]
fn files_are_taken_anew_when_they_change_and_fit() {
    let authority = Authority::new("reload");
    let files = authority.issue("a");
    let credentials = Credentials::read(files.clone(), Callers::Verified).expect("they fit");
    let (first, used) = (credentials.certificate(), credentials.server());
    assert!(!credentials.reload().expect("they fit"), "nothing changed");

    authority.issue("a");
    assert!(credentials.reload().expect("they fit"));
    let second = credentials.certificate();
    assert_ne!(first, second);
    assert!(!Arc::ptr_eq(&used, &credentials.server()));

    // The certificate came, its key did not yet: the old pair goes on, and the complaint is made once.
    let other = authority.issue("b");
    std::fs::copy(&other.cert, &files.cert).expect("copied");
    assert!(credentials.reload().is_err());
    assert_eq!(credentials.certificate(), second);
    assert!(!credentials.reload().expect("said already"));
    std::fs::copy(&other.key, &files.key).expect("copied");
    assert!(credentials.reload().expect("they fit"));
    assert_ne!(credentials.certificate(), second);
}

#[test]
fn keys_do_not_show() {
    let authority = Authority::new("debug");
    let credentials = Credentials::read(authority.issue("a"), Callers::Verified).expect("they fit");
    assert!(!format!("{credentials:?}").contains("PRIVATE"));
}
