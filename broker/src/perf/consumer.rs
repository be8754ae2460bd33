//! One connection that consumes.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Error,
    connection::{Connection, Stop, rare},
    meter::{Meter, now_ns},
    wire::{CHANNEL, Hot, body_size, hot, stamp_of},
};
use crate::amqp::{Method, frame::Kind};

pub(super) struct Consumer {
    pub(super) connection: Connection,
    /// How many consumers of queues it has asked for.
    pub(super) asked: usize,
    /// Acknowledges every so many messages; `None`: never.
    pub(super) ack_every: Option<u32>,
    pub(super) is_stamped: bool,
    pub(super) meter: Arc<Meter>,
    /// Told when the server has accepted all of `asked`.
    pub(super) ready: Option<oneshot::Sender<()>>,
    pub(super) stop: Stop,
}

/// Where in the sequence of a delivery's frames the stream is.
enum Expect {
    Method,
    Header,
    /// So many bytes of the body are missing, and whether none has come.
    Body(u64, bool),
}

impl Consumer {
    /// Consumes until told to stop, and acknowledges what it has.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut progress = Progress {
            expect: Expect::Method,
            tag: 0,
            unacked: 0,
        };
        while !self.stop.is_asked() {
            self.connection.turn(Some(&mut self.stop)).await?;
            self.read(&mut progress)?;
        }
        if progress.unacked > 0 {
            let (delivery_tag, multiple) = (progress.tag, true);
            self.connection
                .output
                .put(CHANNEL, &Method::BasicAck { delivery_tag, multiple });
        }
        self.connection.close().await
    }

    fn read(&mut self, progress: &mut Progress) -> Result<(), Error> {
        let Connection { input, output, .. } = &mut self.connection;
        let now = now_ns();
        let (mut consumed, mut redeliveries) = (0, 0);
        let mut recorder = self.is_stamped.then(|| self.meter.deliver_latencies.open(now));
        while let Some(frame) = input.frame()? {
            match (&mut progress.expect, frame.kind) {
                (Expect::Method, Kind::Method) => match hot(frame.payload) {
                    Some(Hot::Deliver { tag, redelivered }) => {
                        progress.expect = Expect::Header;
                        progress.tag = tag;
                        redeliveries += u64::from(redelivered);
                    }
                    Some(_) => return Err(Error::Unexpected("a confirm")),
                    None => match rare(frame.payload, output)? {
                        Some(Method::BasicConsumeOk { .. }) => {
                            self.asked = self.asked.saturating_sub(1);
                            if self.asked == 0
                                && let Some(ready) = self.ready.take()
                            {
                                // If nobody waits for it, it was not needed.
                                let _unheard = ready.send(());
                            }
                        }
                        Some(Method::ChannelFlow { .. }) | None => {}
                        Some(other) => return Err(Error::Unexpected(other.name())),
                    },
                },
                (Expect::Header, Kind::Header) => {
                    let size = body_size(frame.payload).ok_or(Error::Unexpected("a short content header"))?;
                    progress.expect = Expect::Body(size, true);
                }
                (Expect::Body(left, is_first), Kind::Body) => {
                    if *is_first
                        && let Some(recorder) = &mut recorder
                        && let Some(stamp) = stamp_of(frame.payload)
                    {
                        recorder.record(stamp);
                    }
                    *is_first = false;
                    *left = (*left)
                        .checked_sub(frame.payload.len() as u64)
                        .ok_or(Error::Unexpected("more body than announced"))?;
                }
                (_, Kind::Heartbeat) => {}
                (_, Kind::Method) => {
                    // A connection may be closed in the midst of a delivery; nothing else may happen there.
                    rare(frame.payload, output)?;
                    return Err(Error::Unexpected("a method instead of a body"));
                }
                (_, Kind::Header) => return Err(Error::Unexpected("a content header")),
                (_, Kind::Body) => return Err(Error::Unexpected("a body")),
            }
            if let Expect::Body(0, _) = progress.expect {
                progress.expect = Expect::Method;
                consumed += 1;
                if let Some(every) = self.ack_every {
                    progress.unacked += 1;
                    if progress.unacked >= every {
                        progress.unacked = 0;
                        let (delivery_tag, multiple) = (progress.tag, every > 1);
                        output.put(CHANNEL, &Method::BasicAck { delivery_tag, multiple });
                    }
                }
            }
        }
        self.meter.consumed.add(consumed, now);
        self.meter.redelivered.add(redeliveries, now);
        Ok(())
    }
}

struct Progress {
    expect: Expect,
    /// Of the last delivery.
    tag: u64,
    /// Consumed and to be acknowledged.
    unacked: u32,
}
