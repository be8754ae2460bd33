//! Certificates of clients, of nodes and between nodes: who gets in, what a bad file is called, and what a renewal does to
//! connections that are open.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Reader, Table, Wire};
use warren_tests::amqp::{Frame, PROTOCOL_HEADER};
use warren_tests::client::{End, Session};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

/// An authority that writes what it issues into a directory.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).expect("the directory can be written");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority = Self {
            issuer: Issuer::new(params, key),
            directory,
        };
        fs::write(authority.file("ca.pem"), certificate.pem()).expect("the directory can be written");
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes `label.pem` and `label.key`, for somebody of that name at this machine's address.
    fn issue(&self, label: &str, common_name: &str) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "warren");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        // The key first: a pair that does not fit together is not taken.
        fs::write(self.file(&format!("{label}.key")), key.serialize_pem()).expect("the directory can be written");
        fs::write(self.file(&format!("{label}.pem")), certificate.pem()).expect("the directory can be written");
    }

    /// What believes this authority and shows the certificate of that label.
    fn client(&self, label: Option<&str>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let read = |name: &str| fs::read(self.file(name)).expect("it was written");
        let ca = CertificateDer::from_pem_slice(&read("ca.pem")).expect("a certificate");
        roots.add(ca).expect("an authority");
        let config = ClientConfig::builder().with_root_certificates(roots);
        Arc::new(match label {
            None => config.with_no_client_auth(),
            Some(label) => {
                let certificate =
                    CertificateDer::from_pem_slice(&read(&format!("{label}.pem"))).expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(&read(&format!("{label}.key"))).expect("a key");
                config.with_client_auth_cert(vec![certificate], key).expect("a pair")
            }
        })
    }
}

/// The keys of a configuration file.
fn files(authority: &Authority, prefix: &str, label: &str) -> String {
    format!(
        "{prefix}cert_file = {:?}\n{prefix}key_file = {:?}\n{prefix}ca_file = {:?}",
        authority.file(&format!("{label}.pem")),
        authority.file(&format!("{label}.key")),
        authority.file("ca.pem"),
    )
}

/// A client with no more than a handshake.
struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Client {
    fn connect(address: &str, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let session = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        stream.write_all(&PROTOCOL_HEADER)?;
        Ok(Self { stream })
    }

    fn send<M: Method>(&mut self, method: &M) {
        let bytes = Frame::method(0, method).bytes();
        self.stream.write_all(&bytes).expect("the node takes it");
    }

    /// The next method, which must be an `M`.
    fn expect<M: Method>(&mut self) -> std::io::Result<M> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head)?;
        let len = u32::from_be_bytes(head[3..].try_into().expect("four bytes"));
        let mut rest = vec![0; len as usize + 1];
        self.stream.read_exact(&mut rest)?;
        let mut reader = Reader::new(&rest[..rest.len() - 1]);
        let id = (u16::take(&mut reader), u16::take(&mut reader));
        assert_eq!(id, (Some(M::ID.0), Some(M::ID.1)), "not {}", M::NAME);
        Ok(M::take(&mut reader).expect("well formed"))
    }

    /// Goes through the handshake with EXTERNAL.
    fn log_in(&mut self) {
        self.offer();
        let _open: ConnectionOpenOk = self.expect().expect("the user may");
    }

    /// The same up to connection.open, which waits for its answer.
    fn offer(&mut self) {
        let start: ConnectionStart = self.expect().expect("a start");
        let mechanisms = String::from_utf8_lossy(&start.mechanisms).into_owned();
        assert!(mechanisms.split(' ').any(|one| one == "EXTERNAL"), "{mechanisms}");
        self.send(&ConnectionStartOk {
            client_properties: Table::default(),
            mechanism: "EXTERNAL".into(),
            response: Vec::new(),
            locale: "en_US".into(),
        });
        let tune: ConnectionTune = self.expect().expect("the certificate names a user");
        self.send(&ConnectionTuneOk {
            channel_max: tune.channel_max,
            frame_max: tune.frame_max,
            heartbeat: 0,
        });
        self.send(&ConnectionOpen {
            vhost: "/".into(),
            ..Default::default()
        });
    }

    /// The node's certificate.
    fn certificate(&self) -> Vec<u8> {
        let chain = self.stream.conn.peer_certificates().expect("after the handshake");
        chain[0].to_vec()
    }

    fn close(mut self) {
        self.send(&ConnectionClose {
            code: 200,
            ..Default::default()
        });
        let _closed: ConnectionCloseOk = self.expect().expect("the connection was open all the time");
    }
}

#[test]
fn certificates_let_in_are_renewed_and_bad_ones_named() {
    let mut cluster = Cluster::prepare(&[]);
    let authority = Authority::new(cluster.path(0).join("tls"));
    authority.issue("node", "node");
    authority.issue("links", "links");
    authority.issue("client", "guest");
    for node in 0..NODES {
        cluster.configure(node, "cluster", &files(&authority, "tls_", "links"));
        let mut keys = files(&authority, "", "node");
        keys += &format!("\nlisten = [{:?}]\nverify_peer = true\n", cluster.tls_address(node));
        keys += "cert_login_from = \"common_name\"";
        cluster.configure(node, "tls", &keys);
        cluster.spawn(node);
    }
    cluster.await_whole();

    // The plain port goes on beside the other.
    let session = Session::open(&cluster.address(0), PATIENCE).expect("a whole cluster serves");
    session.close(PATIENCE).expect("a whole cluster closes");
    let mut client = Client::connect(&cluster.tls_address(1), authority.client(Some("client"))).expect("a connection");
    client.log_in();
    let rows = cluster.rows(
        0,
        &["list_connections", "user", "ssl", "peer_cert_subject", "auth_mechanism"],
    );
    let rows = rows.expect("a whole cluster answers");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (
            &rows[0]["ssl"],
            &rows[0]["peer_cert_subject"],
            &rows[0]["auth_mechanism"]
        ),
        (&true.into(), &"CN=guest,O=warren".into(), &"EXTERNAL".into())
    );

    // Without a certificate there is no EXTERNAL; with one of another authority nothing at all.
    let mut nameless = Client::connect(&cluster.tls_address(1), authority.client(None)).expect("a connection");
    let start: ConnectionStart = nameless.expect().expect("a start");
    assert_eq!(start.mechanisms, b"PLAIN AMQPLAIN");
    let strange = Authority::new(cluster.path(0).join("strange"));
    strange.issue("client", "guest");
    fs::copy(authority.file("ca.pem"), strange.file("ca.pem")).expect("copied");
    let refused = Client::connect(&cluster.tls_address(1), strange.client(Some("client")))
        .and_then(|mut client| client.expect::<ConnectionStart>());
    assert!(refused.is_err(), "a certificate of another authority was believed");

    // A renewal: at once on SIGHUP, and nobody who is connected notices.
    let before = client.certificate();
    for label in ["node", "links"] {
        authority.issue(label, label);
    }
    for node in 0..NODES {
        cluster.signal(node, "HUP");
    }
    let after = await_some("the new certificate is shown", PATIENCE, || {
        let client = Client::connect(&cluster.tls_address(1), authority.client(Some("client")));
        let mut client = client.map_err(|error| error.to_string())?;
        client.log_in();
        if client.certificate() == before {
            return Err("the old one".to_owned());
        }
        Ok(client)
    });
    println!("renewed on {}", name(1));
    client.close();
    // A node that comes back is believed by the others, and believes them.
    cluster.kill(2);
    cluster.start_node(2);
    cluster.await_whole();

    // What does not fit is not taken.
    let good = fs::read(authority.file("node.pem")).expect("it was written");
    fs::write(authority.file("node.pem"), "no certificate").expect("the directory can be written");
    let shown = after.certificate();
    let marks: Vec<usize> = (0..NODES).map(|node| cluster.log(node).len()).collect();
    cluster.signal(1, "HUP");
    await_some("it says what is wrong", PATIENCE, || {
        let log = cluster.log(1).split_off(marks[1]);
        let text = "node.pem holds no certificate in PEM";
        if log.contains(text) { Ok(()) } else { Err(log) }
    });
    let mut again = Client::connect(&cluster.tls_address(1), authority.client(Some("client"))).expect("a connection");
    again.log_in();
    assert_eq!(again.certificate(), shown);
    again.close();

    // At the start it is fatal, and named.
    cluster.kill(2);
    let failed = cluster.refused(2, &[]);
    assert_eq!(failed.status.code(), Some(78), "{}", failed.log);
    assert!(
        failed.log.contains("node.pem holds no certificate in PEM"),
        "{}",
        failed.log
    );
    fs::write(authority.file("node.pem"), good).expect("the directory can be written");
    let missing = authority.file("missing.key").display().to_string();
    let failed = cluster.refused(2, &[("WARREN_CLUSTER_TLS_KEY_FILE", &missing)]);
    assert_eq!(failed.status.code(), Some(78), "{}", failed.log);
    assert!(
        failed.log.contains(&format!("{missing} cannot be read")),
        "{}",
        failed.log
    );

    // A node without TLS is not talked to, and the others say so.
    let mark = cluster.log(0).len();
    let plain = [
        ("WARREN_CLUSTER_TLS_CERT_FILE", ""),
        ("WARREN_CLUSTER_TLS_KEY_FILE", ""),
        ("WARREN_CLUSTER_TLS_CA_FILE", ""),
    ];
    cluster.spawn_with(2, &plain);
    await_some("it is named", PATIENCE, || {
        let log = cluster.log(0).split_off(mark);
        let text = format!("has no TLS connection to \\\"{}\\\"", name(2));
        let plain = text.replace('\\', "");
        if log.contains(&text) || log.contains(&plain) {
            Ok(())
        } else {
            Err(log)
        }
    });
    cluster.kill(2);
    cluster.start_node(2);
    cluster.await_whole();
    after.close();
    cluster.finish();
}

#[test]
fn all_listeners_share_the_limit_and_an_alternative_name_logs_in() {
    let mut cluster = Cluster::prepare(&[("WARREN_AMQP_CONNECTIONS_MAX", "2")]);
    let authority = Authority::new(cluster.path(0).join("tls"));
    authority.issue("node", "node");
    // Its alternative name is the address.
    authority.issue("client", "nobody");
    for node in 0..NODES {
        let mut keys = files(&authority, "", "node");
        keys += &format!("\nlisten = [{:?}]\nverify_peer = true\n", cluster.tls_address(node));
        keys += "cert_login_from = \"subject_alternative_name\"\ncert_login_san_type = \"ip\"";
        cluster.configure(node, "tls", &keys);
        cluster.spawn(node);
    }
    cluster.await_whole();
    let ctl = |arguments: &[&str]| cluster.ctl(0, arguments).expect("a whole cluster obeys");
    ctl(&["add_user", "127.0.0.1", "no matter"]);
    ctl(&["set_permissions", "127.0.0.1", ".*", ".*", ".*"]);
    let secured = || Client::connect(&cluster.tls_address(0), authority.client(Some("client"))).expect("a connection");
    let plain = || Session::open(&cluster.address(0), PATIENCE);
    let session = plain().expect("the first");
    let mut client = secured();
    client.log_in();
    let text = "NOT_ALLOWED - connection refused: node connection limit (2) is reached";
    match plain().map(drop) {
        Err(End::Closed { code: 530, text: told }) => assert_eq!(told, text),
        other => panic!("a third connection: {other:?}"),
    }
    let mut third = secured();
    third.offer();
    let told: ConnectionClose = third.expect().expect("a third connection is told");
    assert_eq!((told.code, told.text.as_str()), (530, text));
    session.close(PATIENCE).expect("a whole cluster closes");
    // What was refused lingers for a moment.
    await_some("room again", PATIENCE, || match plain() {
        Ok(session) => session.close(PATIENCE).map_err(|end| end.to_string()),
        Err(end) => Err(end.to_string()),
    });
    client.close();
    cluster.finish();
}
