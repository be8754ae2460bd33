//! Channel 0: the handshake, tuning, opening, closing, and faults that become closes.

use bytes::{Buf as _, BytesMut};

use super::census::Count;
use super::{CLOSE_OK_MS, Certificate, Connection, Effect, FRAME_MAX_UNTUNED, Phase, REFUSED_MS, handshake, session};
use crate::amqp::frame::{self, Frame, Kind};
use crate::amqp::method::peek_id;
use crate::amqp::{Fault, Method, ReplyCode, Table};
use crate::directory::Deleted;
use crate::queue::client::ChannelId;

/// connection.open, for a fault that comes after it.
const OPEN: (u16, u16) = (10, 40);

impl Connection {
    pub(super) fn on_header(&mut self, current: bool, input: &mut BytesMut) {
        let legacy = input.starts_with(b"AMQP\x01\x01\x00\x09");
        input.advance(frame::PROTOCOL_HEADER.len());
        if current || legacy {
            self.phase = Phase::Start;
            self.session.frame_max = FRAME_MAX_UNTUNED.min(self.session.limits.frame_max);
            let is_certified = self.certificate().is_some();
            let start = handshake::start(&self.session.limits.cluster_name, is_certified);
            self.session.reply(0, &start);
        } else {
            self.session.output.put_slice(&frame::PROTOCOL_HEADER);
            self.close_now();
        }
    }

    /// A frame on channel 0.
    pub(super) fn on_control_frame(&mut self, frame: &Frame) {
        if frame.kind != Kind::Method {
            let fault = Fault::new(
                ReplyCode::UnexpectedFrame,
                "expected method frame, got non method frame instead",
            );
            return self.fault(0, fault);
        }
        let method = match Method::decode(&frame.payload) {
            Ok(method) => method,
            Err(error) => {
                let id = peek_id(&frame.payload).unwrap_or_default();
                return self.fault(0, Fault::from(error).of(id));
            }
        };
        let id = method.id();
        let result = match (self.phase, method) {
            (Phase::Closing { .. }, Method::ConnectionCloseOk {}) => {
                self.close_now();
                Ok(())
            }
            (Phase::Closing { .. }, Method::ConnectionClose { .. }) => {
                self.session.reply(0, &Method::ConnectionCloseOk {});
                Ok(())
            }
            (Phase::Closing { .. }, _) => Ok(()),
            (
                Phase::Start,
                Method::ConnectionStartOk {
                    client_properties,
                    mechanism,
                    response,
                    ..
                },
            ) => {
                self.start_ok(&client_properties, &mechanism, &response);
                Ok(())
            }
            (
                Phase::Tune,
                Method::ConnectionTuneOk {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => self.tune_ok(channel_max, frame_max, heartbeat),
            (Phase::Open, Method::ConnectionOpen { virtual_host }) => self.open(&virtual_host),
            (Phase::Tune | Phase::Open | Phase::Running, Method::ConnectionClose { reply_text, .. }) => {
                let (user, vhost) = (&self.session.user, &self.session.vhost);
                tracing::info!(peer = %self.ends.peer, %user, %vhost, %reply_text, "connection closed by its client");
                self.phase = Phase::Answering;
                self.begin_end();
                Ok(())
            }
            (Phase::Running, Method::ConnectionUpdateSecret { .. }) => self.update_secret(),
            (phase, _) => {
                let text = format!("unexpected method in connection state {}", phase.name());
                Err(Fault::new(ReplyCode::ChannelError, text))
            }
        };
        if let Err(fault) = result {
            self.fault(0, fault.of(id));
        }
    }

    /// Passwords are asked for at the login only, so any secret will do; but it is when rights are looked at again: the
    /// vhost's, and those of consumers, which are told if they end.
    fn update_secret(&mut self) -> Result<(), Fault> {
        let picture = self.session.picture();
        handshake::open(&picture, &self.session.user, &self.session.vhost)?;
        self.session.reply(0, &Method::ConnectionUpdateSecretOk {});
        let lost = self.session.unreadable_consumers();
        for id in lost {
            self.end_consumer(id);
        }
        Ok(())
    }

    /// The client's, which was verified.
    fn certificate(&self) -> Option<&Certificate> {
        self.tls.as_ref().and_then(|agreed| agreed.peer.as_ref())
    }

    pub(super) fn start_ok(&mut self, properties: &Table, mechanism: &str, response: &bytes::Bytes) {
        self.session.client = session::Capabilities::of(properties);
        self.client_properties = properties.detach();
        let picture = self.session.picture();
        let login = handshake::Login {
            mechanism,
            response,
            peer: self.ends.peer.ip(),
            certificate: self.certificate(),
        };
        match handshake::login(&login, &picture, &self.session.limits) {
            Ok((user, mechanism)) => {
                self.mechanism = mechanism;
                self.session.user = user;
                self.phase = Phase::Tune;
                let limits = &self.session.limits;
                self.session.frame_max = limits.frame_max;
                let (channel_max, frame_max, heartbeat) = (limits.channel_max, limits.frame_max, limits.heartbeat_s);
                self.session.reply(
                    0,
                    &Method::ConnectionTune {
                        channel_max,
                        frame_max,
                        heartbeat,
                    },
                );
            }
            Err(handshake::Refused::Login { reason, mechanism }) => {
                tracing::warn!(peer = %self.ends.peer, %reason, "a login was refused");
                if self.session.client.authentication_failure_close {
                    let text = format!(
                        "Login was refused using authentication mechanism {mechanism}. \
                         For details see the broker logfile."
                    );
                    let close = Fault::new(ReplyCode::AccessRefused, text).connection_close();
                    self.session.reply(0, &close);
                    self.phase = Phase::Closing {
                        until_ms: self.session.now_ms + REFUSED_MS,
                    };
                    self.begin_end();
                } else {
                    self.refuse();
                }
            }
            Err(handshake::Refused::Malformed(reason)) => {
                tracing::warn!(peer = %self.ends.peer, %reason, "a handshake was refused");
                self.refuse();
            }
        }
    }

    pub(super) fn tune_ok(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) -> Result<(), Fault> {
        let tuned = handshake::tune(&self.session.limits, channel_max, frame_max)?;
        self.session.frame_max = tuned.frame_max;
        self.channel_max = tuned.channel_max;
        self.heartbeat_ms = u64::from(heartbeat) * 1_000;
        self.phase = Phase::Open;
        Ok(())
    }

    pub(super) fn open(&mut self, vhost: &str) -> Result<(), Fault> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let picture = self.session.picture();
        let user = self.session.user.clone();
        let vhost = handshake::open(&picture, &user, vhost)?;
        self.session.vhost = vhost.clone();
        let seat = self.session.census.seat(vhost.clone(), user.clone());
        let own = seat.count();
        handshake::check_count(&picture, &user, &vhost, own)?;
        self.session.seat = Some(seat);
        if handshake::connections_max(&picture, &user, &vhost) == (None, None) {
            self.opened();
        } else {
            self.phase = Phase::Counting;
            self.session.effects.push(Effect::Count(None));
        }
        Ok(())
    }

    fn opened(&mut self) {
        self.phase = Phase::Running;
        self.session.reply(0, &Method::ConnectionOpenOk {});
        let (user, vhost) = (&self.session.user, &self.session.vhost);
        tracing::info!(peer = %self.ends.peer, %user, %vhost, "connection opened");
    }

    /// What the other nodes have, which [`Effect::Count`] asked for. What is in the input goes on then.
    pub fn on_count(&mut self, channel: Option<ChannelId>, others: Count) {
        let Some(seat) = &self.session.seat else { return };
        let count = seat.count() + others;
        let picture = self.session.picture();
        let user = self.session.user.clone();
        let Some(id) = channel else {
            if self.phase == Phase::Counting {
                self.phase = Phase::Open;
                match handshake::check_count(&picture, &user, &self.session.vhost, count) {
                    Ok(()) => self.opened(),
                    Err(fault) => self.fault(0, fault.of(OPEN)),
                }
            }
            return;
        };
        let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) else {
            return;
        };
        channel.counted();
        match handshake::check_channels(&picture, &user, count) {
            Ok(()) => {
                self.session.reply(id.number, &Method::ChannelOpenOk {});
                self.resumable.push(id.number);
            }
            Err(fault) => self.fault(0, fault),
        }
    }

    /// The one place where a fault becomes a close of the channel or the connection.
    pub(super) fn fault(&mut self, number: u16, fault: Fault) {
        if number != 0 && !fault.code.is_hard() {
            if let Some(channel) = self.channels.get_mut(&number) {
                tracing::debug!(peer = %self.ends.peer, channel = number, %fault, "channel closed");
                channel.abandon(&mut self.session);
                self.session.reply(number, &fault.channel_close());
                self.resumable.push(number);
            }
            return;
        }
        match self.phase {
            // What fails before tuning is not answered.
            Phase::Header | Phase::Start => self.refuse(),
            Phase::Tune | Phase::Open | Phase::Counting | Phase::Running => {
                tracing::warn!(peer = %self.ends.peer, channel = number, %fault, "connection closed");
                self.session.reply(0, &fault.connection_close());
                self.phase = Phase::Closing {
                    until_ms: self.session.now_ms + CLOSE_OK_MS,
                };
                self.begin_end();
            }
            Phase::Closing { .. } | Phase::Refused { .. } | Phase::Answering | Phase::Closed { .. } | Phase::Lost => {}
        }
    }

    /// The broker wants the connection closed.
    pub fn on_close(&mut self, code: ReplyCode, text: &str) {
        match self.phase {
            Phase::Header | Phase::Start => self.close_now(),
            _ => self.fault(0, Fault::new(code, text)),
        }
    }

    /// A user or a vhost was deleted: closes the connection if it is this one's.
    pub fn on_deleted(&mut self, deleted: &Deleted) {
        let text = match deleted {
            Deleted::User(name) if *name == self.session.user => format!("user '{name}' is deleted"),
            Deleted::Vhost(name) if *name == self.session.vhost => format!("vhost '{name}' is deleted"),
            Deleted::User(_) | Deleted::Vhost(_) => return,
        };
        self.on_close(ReplyCode::ConnectionForced, &text);
    }

    pub(super) fn refuse(&mut self) {
        self.phase = Phase::Refused {
            until_ms: self.session.now_ms + REFUSED_MS,
        };
        self.begin_end();
    }

    pub(super) fn close_now(&mut self) {
        self.phase = Phase::Closed {
            until_ms: self.session.now_ms + CLOSE_OK_MS,
        };
        self.begin_end();
    }
}
