//! Readiness of a client's socket as a stream, with a gate to hold the client back.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use tokio::net::TcpStream;

/// Opens and closes the way to a socket's input.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Shut,
    Ended,
}

impl Gate {
    /// Lets the client's bytes come in, or not.
    pub(super) fn set_open(&self, open: bool) {
        if self.state.get() != State::Ended {
            self.set(if open { State::Open } else { State::Shut });
        }
    }

    /// No more is read, ever; the stream lets go of the socket.
    pub(super) fn end(&self) {
        self.set(State::Ended);
    }

    fn set(&self, state: State) {
        if self.state.replace(state) != state
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

/// Gives an item whenever the socket may have something to read.
#[derive(Debug)]
pub(super) struct Readiness {
    socket: Rc<TcpStream>,
    gate: Rc<Gate>,
    /// Whether the last poll gave an item.
    yielded: bool,
    /// Whether others have their turn before the next item.
    rests: bool,
    others: Arc<Others>,
}

/// Those that share the thread with a client who sends without end: all that have something to do, and all whose sockets
/// become ready meanwhile. As long as anybody has something to do the runtime looks for these only now and then, and each
/// of the client's turns is long.
#[derive(Debug, Default)]
struct Others {
    had_their_turn: AtomicBool,
    client: AtomicWaker,
}

impl Wake for Others {
    fn wake(self: Arc<Self>) {
        self.had_their_turn.store(true, Ordering::Relaxed);
        self.client.wake();
    }
}

impl Others {
    /// Wakes itself when nobody has anything to do, and the runtime has looked at the sockets.
    fn begin(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        // Polled once, it has the waker called then.
        let _yields = std::pin::pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    }

    fn poll_turn(&self, context: &Context<'_>) -> Poll<()> {
        self.client.register(context.waker());
        match self.had_their_turn.swap(false, Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Readiness {
    pub(super) fn new(socket: Rc<TcpStream>, gate: Rc<Gate>) -> Self {
        Self {
            socket,
            gate,
            yielded: false,
            rests: false,
            others: Arc::default(),
        }
    }
}

impl Stream for Readiness {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<()>> {
        match self.gate.state.get() {
            State::Open => {}
            State::Shut => {
                self.gate.waker.replace(Some(context.waker().clone()));
                return Poll::Pending;
            }
            State::Ended => return Poll::Ready(None),
        }
        if self.rests {
            ready!(self.others.poll_turn(context));
            self.rests = false;
        }
        match self.socket.poll_read_ready(context) {
            Poll::Ready(_) if self.yielded => {
                self.yielded = false;
                self.rests = true;
                self.others.client.register(context.waker());
                self.others.begin();
                Poll::Pending
            }
            // An error shows itself when reading.
            Poll::Ready(_) => {
                self.yielded = true;
                Poll::Ready(Some(()))
            }
            Poll::Pending => {
                self.yielded = false;
                self.gate.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures_util::StreamExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    async fn pair() -> (TcpStream, Rc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connected"), Rc::new(accepted.expect("accepted").0))
    }

    /// One client's bytes are never all read; another one sends a byte at a time, and is answered.
    #[tokio::test]
    async fn a_client_that_sends_without_end_waits_for_others_between_its_turns() {
        const ROUNDS: u64 = 200;
        let set = LocalSet::new();
        let turns = set.run_until(async {
            let (endless, socket) = pair().await;
            endless.writable().await.expect("a new socket");
            endless.try_write(b"more").expect("room for it");
            let turns = Rc::new(Cell::new(0_u64));
            let counter = turns.clone();
            spawn_local(async move {
                let mut ready = Readiness::new(socket, Rc::default());
                while ready.next().await.is_some() {
                    counter.set(counter.get() + 1);
                }
            });
            let (other, socket) = pair().await;
            other.writable().await.expect("a new socket");
            let mut ready = Readiness::new(socket.clone(), Rc::default());
            turns.set(0);
            for _ in 0..ROUNDS {
                other.try_write(b"x").expect("room for a byte");
                while socket.try_read(&mut [0; 2]).is_err() {
                    ready.next().await.expect("the gate is open");
                }
                // Only what is found to be empty is waited for.
                assert!(socket.try_read(&mut [0; 2]).is_err());
            }
            turns.get()
        });
        let turns = turns.await;
        assert!(
            turns <= 3 * ROUNDS,
            "{turns} turns of the one while the other had {ROUNDS}"
        );
    }
}
