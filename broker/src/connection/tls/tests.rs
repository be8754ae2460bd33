//! A client in a thread of its own, on a real socket.

use std::io::{Read as _, Write as _};
use std::thread::JoinHandle;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};
use tokio::net::TcpListener;

use super::*;

type Stream = StreamOwned<ClientConnection, std::net::TcpStream>;

/// The two ends of a connection; `client` runs in the thread.
async fn ends<T: Send + 'static>(
    version: &'static SupportedProtocolVersion,
    client: impl FnOnce(Stream) -> T + Send + 'static,
) -> (TcpStream, Tls, JoinHandle<T>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("known")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a pair");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("known")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session");
        client(StreamOwned::new(session, stream))
    });
    let (socket, _) = listener.accept().await.expect("it calls");
    (socket, Tls::new(Arc::new(server)).expect("a session"), thread)
}

/// Reads until so many bytes have come, or to the end; writes what has to be written meanwhile.
async fn read(socket: &TcpStream, tls: &mut Tls, input: &mut BytesMut, len: usize) -> io::Result<()> {
    while input.len() < len {
        match tls.read(socket, input) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                write(socket, tls, &mut Output::new()).await?;
                socket.readable().await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn write(socket: &TcpStream, tls: &mut Tls, output: &mut Output) -> io::Result<()> {
    loop {
        match tls.write(socket, output) {
            Ok(0) => return Ok(()),
            Ok(written) => output.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[actix::test]
async fn what_goes_in_comes_out_whatever_the_socket_takes_at_once() {
    for version in [&version::TLS12, &version::TLS13] {
        const LEN: usize = 5 << 20;
        let (socket, mut tls, client) = ends(version, |mut stream: Stream| {
            stream.write_all(&bytes(300_000)).expect("it listens");
            let mut answer = vec![0; LEN];
            stream.read_exact(&mut answer).expect("an answer");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("an orderly end");
            (answer, rest)
        })
        .await;
        assert_eq!(tls.agreed(), None, "nothing is agreed before the handshake");
        let mut input = BytesMut::new();
        read(&socket, &mut tls, &mut input, 300_000).await.expect("a client");
        assert_eq!(input, bytes(300_000));
        let agreed = tls.agreed().expect("agreed");
        assert_eq!(tls.agreed(), None, "said once");
        assert!(agreed.protocol == "tlsv1.2" || agreed.protocol == "tlsv1.3");
        assert!(!agreed.cipher.is_empty() && !agreed.key_exchange.is_empty());
        assert_eq!(agreed.peer, None);

        // Some pieces are shared, some run together.
        let mut output = Output::new();
        let all = bytes::Bytes::from(bytes(LEN));
        let mut at = 0;
        for step in [10, 5_000, 100, 70_000, 1].into_iter().cycle() {
            let end = (at + step).min(LEN);
            crate::amqp::output::Sink::share(&mut output, all.slice(at..end));
            at = end;
            if at == LEN {
                break;
            }
        }
        write(&socket, &mut tls, &mut output).await.expect("a client");
        assert!(output.is_empty());
        tls.close(&socket);
        drop(socket);
        let (answer, rest) = client.join().expect("no panic");
        assert!(answer == all, "bytes were changed on the way");
        assert_eq!(rest, b"");
    }
}

#[actix::test]
async fn the_clients_end_is_an_end() {
    let (socket, mut tls, client) = ends(&version::TLS13, |mut stream: Stream| {
        stream.write_all(b"bye").expect("it listens");
        stream.conn.send_close_notify();
        stream.flush().expect("it listens");
        stream
    })
    .await;
    let mut input = BytesMut::new();
    read(&socket, &mut tls, &mut input, usize::MAX)
        .await
        .expect("an orderly end");
    assert_eq!(&input[..], b"bye");
    assert_eq!(tls.read(&socket, &mut input).expect("an end"), 0, "and it stays one");
    drop(client.join().expect("no panic"));
}

#[actix::test]
async fn what_is_no_tls_is_told_as_such() {
    for text in ["AMQP\0\0\u{9}\u{1}", "GET / HTTP/1.1\r\n\r\n"] {
        let (socket, mut tls, client) = ends(&version::TLS13, move |stream: Stream| {
            let mut socket = stream.sock;
            socket.write_all(text.as_bytes()).expect("it listens");
            socket
        })
        .await;
        let mut input = BytesMut::new();
        let error = read(&socket, &mut tls, &mut input, 1).await.expect_err("no TLS");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(input.is_empty());
        tls.close(&socket);
        drop(client.join().expect("no panic"));
    }
}
