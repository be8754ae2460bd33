//! Readiness of a client's socket as a stream, with a gate to hold the client back.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
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
    /// Whether the last poll gave an item. Other events get their turn before the next.
    yielded: bool,
}

impl Readiness {
    pub(super) fn new(socket: Rc<TcpStream>, gate: Rc<Gate>) -> Self {
        Self {
            socket,
            gate,
            yielded: false,
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
        if std::mem::take(&mut self.yielded) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.socket.poll_read_ready(context) {
            // An error shows itself when reading.
            Poll::Ready(_) => {
                self.yielded = true;
                Poll::Ready(Some(()))
            }
            Poll::Pending => {
                self.gate.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}
