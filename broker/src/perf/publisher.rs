//! One connection that publishes.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{task::yield_now, time::timeout};

use super::{
    Error,
    connection::{Connection, Stop, rare},
    meter::{Meter, now_ns},
    pace::Pace,
    window::Window,
    wire::{Hot, Template, hot},
};
use crate::amqp::{Method, frame::Kind};

/// Bytes written at once. Less costs more calls, more delays the stamps' messages behind each other.
const BATCH_LEN: usize = 64 * 1024;

pub(super) struct Publisher {
    pub(super) connection: Connection,
    /// One per queue or routing key, used in turn; not empty.
    pub(super) templates: Vec<Template>,
    /// Messages still to be sent; `None`: until stopped.
    pub(super) left: Option<u64>,
    /// `None`: without confirms.
    pub(super) window: Option<Window>,
    /// Messages per second.
    pub(super) rate: Option<f64>,
    pub(super) meter: Arc<Meter>,
    pub(super) stop: Stop,
}

impl Publisher {
    /// Publishes until told to stop or all is sent, then waits for the confirms that are missing.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut next = 0;
        let mut number = 0;
        let mut flowing = true;
        let mut pace = self.rate.map(|rate| Pace::new(rate, now_ns()));
        loop {
            let now = now_ns();
            let mut room = if self.stop.is_asked() {
                0
            } else {
                self.left.unwrap_or(u64::MAX)
            };
            let is_over = room == 0;
            if let Some(window) = &self.window {
                room = room.min(window.room() as u64);
            }
            if !flowing {
                room = 0;
            }
            let mut wait = None;
            if let Some(pace) = &mut pace
                && room > 0
            {
                room = room.min(pace.due(now));
                if room == 0 {
                    wait = Some(Duration::from_nanos(pace.next().saturating_sub(now)));
                }
            }

            let out = &mut self.connection.output.bytes;
            let mut batch = 0;
            if out.is_empty() {
                while batch < room && out.len() < BATCH_LEN {
                    let template = &self.templates[next];
                    next = (next + 1) % self.templates.len();
                    out.reserve(template.len());
                    template.put(out, now, number);
                    number += 1;
                    batch += 1;
                }
            }
            if batch > 0 {
                self.meter.published.add(batch, now);
                if let Some(left) = &mut self.left {
                    *left -= batch;
                }
                if let Some(pace) = &mut pace {
                    pace.sent(batch);
                }
                if let Some(window) = &mut self.window {
                    window.sent(batch as usize, now);
                    self.meter.unconfirmed.store(window.unconfirmed(), Relaxed);
                }
            }
            let unconfirmed = self.window.as_ref().map_or(0, Window::unconfirmed);
            if is_over && unconfirmed == 0 && self.connection.output.is_empty() {
                return self.connection.close().await;
            }

            let turn = self.connection.turn(Some(&mut self.stop));
            match wait {
                // It is time for the next message if nothing happened before.
                Some(wait) => timeout(wait, turn).await.unwrap_or(Ok(()))?,
                None => turn.await?,
            }
            self.read(&mut flowing)?;
            if room > batch {
                // The consumers have their turn, even if this could go on.
                yield_now().await;
            }
        }
    }

    fn read(&mut self, flowing: &mut bool) -> Result<(), Error> {
        let Connection { input, output, .. } = &mut self.connection;
        let mut now = 0;
        let (mut confirmed, mut nacked) = (0, 0);
        let mut recorder = None;
        while let Some(frame) = input.frame()? {
            if frame.kind != Kind::Method {
                continue;
            }
            let (tag, multiple, count) = match hot(frame.payload) {
                Some(Hot::Ack { tag, multiple }) => (tag, multiple, &mut confirmed),
                Some(Hot::Nack { tag, multiple }) => (tag, multiple, &mut nacked),
                Some(Hot::Deliver { .. }) => return Err(Error::Unexpected("basic.deliver")),
                None => {
                    match rare(frame.payload, output)? {
                        None => {}
                        Some(Method::ChannelFlow { active }) => *flowing = active,
                        Some(other) => return Err(Error::Unexpected(other.name())),
                    }
                    continue;
                }
            };
            let window = self.window.as_mut().ok_or(Error::Unexpected("basic.ack"))?;
            let recorder = recorder.get_or_insert_with(|| {
                now = now_ns();
                self.meter.confirm_latencies.open(now)
            });
            *count += window
                .settle(tag, multiple, |stamp| recorder.record(stamp))
                .map_err(|_| Error::Unexpected("a confirm of what was never published"))?;
        }
        self.meter.confirmed.add(confirmed, now);
        self.meter.nacked.add(nacked, now);
        if let Some(window) = &self.window {
            self.meter.unconfirmed.store(window.unconfirmed(), Relaxed);
        }
        Ok(())
    }
}
