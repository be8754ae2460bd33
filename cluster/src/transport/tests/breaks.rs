//! Links that break again and again under load: what is lost is told, and nothing is shuffled.

use std::io::Write as _;
use std::net::Shutdown;

use super::*;

/// Passes bytes on, until its connections are cut.
struct Proxy {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&open);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Ok(to) = TcpStream::connect(to) else { continue };
                let mut kept = kept.lock().expect("no panic");
                for (mut source, mut sink) in [(&from, &to), (&to, &from)].map(|(a, b)| (clone(a), clone(b))) {
                    kept.push(clone(&sink));
                    std::thread::spawn(move || {
                        // Small pieces, so that a cut falls anywhere.
                        let mut buffer = vec![0; 7_777];
                        while let Ok(len @ 1..) = source.read(&mut buffer) {
                            if sink.write_all(&buffer[..len]).is_err() {
                                break;
                            }
                        }
                        // The other end may have closed it.
                        let _closed = (sink.shutdown(Shutdown::Both), source.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { address, open }
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("no panic").drain(..) {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a file descriptor")
}

#[test]
fn what_a_broken_link_loses_is_told_and_the_rest_stays_in_order() {
    let (at1, at2) = (free(), free());
    let proxy = Proxy::start(at2);
    let (h1, r1) = start(identity(1, 1, "s"), at1, vec![peer(2, proxy.address)], patient());
    let (_h2, r2) = start(identity(2, 1, "s"), at2, vec![peer(1, at1)], patient());
    r1.wait_for(&Seen::Writable(2));
    let mut to = 0;
    for _ in 0..10 {
        for _ in 0..500 {
            let next = Envelope {
                port: Port::QUEUE,
                to,
                payload: Bytes::from(vec![0; 20_000]),
            };
            h1.transport().send(2, next).expect("the link is open and has room");
            to += 1;
        }
        r2.wait(
            "some of them",
            |seen| matches!(seen.last(), Some(Seen::Envelope(_, envelope)) if envelope.to >= to - 500),
        );
        let before = r1.seen.lock().expect("no panic").len();
        proxy.cut();
        r1.wait("the link to break and come back", |seen| {
            let since = &seen[before..];
            let reset = since
                .iter()
                .position(|seen| *seen == Seen::Reset(2))
                .unwrap_or(since.len());
            since[reset..].contains(&Seen::Writable(2))
        });
    }
    // What is accepted after the last reset arrives.
    let last = Envelope {
        port: Port::QUEUE,
        to,
        payload: Bytes::new(),
    };
    h1.transport().send(2, last.clone()).expect("room");
    let seen = r2.wait_for(&Seen::Envelope(1, last));
    let arrived: Vec<u64> = seen
        .iter()
        .filter_map(|seen| {
            if let Seen::Envelope(1, envelope) = seen {
                Some(envelope.to)
            } else {
                None
            }
        })
        .collect();
    let gaps = arrived.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(arrived.windows(2).all(|pair| pair[0] < pair[1]), "shuffled or twice");
    let resets = |seen: &[Seen], node| seen.iter().filter(|seen| **seen == Seen::Reset(node)).count();
    let told = resets(&r1.seen.lock().expect("no panic"), 2);
    assert!(gaps > 0 && gaps <= told, "{gaps} gaps, {told} resets");
    assert!(told >= 10 && resets(&seen, 1) >= 10, "{told} resets");
    eprintln!("{} of {to} lost in {gaps} gaps", to + 1 - arrived.len() as u64);
    assert_eq!(h1.transport().peers(), [(2, PeerState::Up { incarnation: 1 })]);
}
