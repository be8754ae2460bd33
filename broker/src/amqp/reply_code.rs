//! What the broker says when it refuses: reply codes, and faults that end a channel or a connection.

use std::fmt::Write as _;

use super::method::{self, Method};
use super::short_str::{LEN_MAX, ShortStr, cut_to};
use super::{frame, wire};

macro_rules! reply_codes {
    ($($name:ident = $code:literal $text:literal $hardness:ident;)*) => {
        /// The reply codes of AMQP 0-9-1.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ReplyCode {
            $($name = $code,)*
        }

        impl ReplyCode {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub const fn code(self) -> u16 {
                self as u16
            }

            /// As reply texts begin: `NOT_FOUND`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Whether it ends the connection wherever it was raised; otherwise it ends a channel.
            pub const fn is_hard(self) -> bool {
                match self {
                    $(Self::$name => reply_codes!(@$hardness),)*
                }
            }
        }
    };
    (@soft) => { false };
    (@hard) => { true };
}

reply_codes! {
    ReplySuccess = 200 "REPLY_SUCCESS" soft;
    ContentTooLarge = 311 "CONTENT_TOO_LARGE" soft;
    NoRoute = 312 "NO_ROUTE" soft;
    NoConsumers = 313 "NO_CONSUMERS" soft;
    ConnectionForced = 320 "CONNECTION_FORCED" hard;
    InvalidPath = 402 "INVALID_PATH" hard;
    AccessRefused = 403 "ACCESS_REFUSED" soft;
    NotFound = 404 "NOT_FOUND" soft;
    ResourceLocked = 405 "RESOURCE_LOCKED" soft;
    PreconditionFailed = 406 "PRECONDITION_FAILED" soft;
    FrameError = 501 "FRAME_ERROR" hard;
    SyntaxError = 502 "SYNTAX_ERROR" hard;
    CommandInvalid = 503 "COMMAND_INVALID" hard;
    ChannelError = 504 "CHANNEL_ERROR" hard;
    UnexpectedFrame = 505 "UNEXPECTED_FRAME" hard;
    ResourceError = 506 "RESOURCE_ERROR" hard;
    NotAllowed = 530 "NOT_ALLOWED" hard;
    NotImplemented = 540 "NOT_IMPLEMENTED" hard;
    InternalError = 541 "INTERNAL_ERROR" hard;
}

/// A refusal that ends a channel, or the connection if its code is hard or it was raised on channel 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} - {text}", code.name())]
pub struct Fault {
    pub code: ReplyCode,
    /// The explanation alone, without the code's name.
    pub text: String,
    /// With `method` the ids of the method that failed; 0 and 0 if it was none.
    pub class: u16,
    pub method: u16,
}

impl Fault {
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            class: 0,
            method: 0,
        }
    }

    /// The same fault, blamed on the method of that class and method id.
    #[must_use]
    pub fn of(mut self, (class, method): (u16, u16)) -> Self {
        (self.class, self.method) = (class, method);
        self
    }

    /// `NAME - explanation`; if that exceeds 255 bytes it is cut between characters and ends in `...`.
    pub fn reply_text(&self) -> ShortStr {
        const ELLIPSIS: &str = "...";
        let mut text = String::with_capacity(LEN_MAX);
        // Writing to a String cannot fail.
        let _ = write!(text, "{self}");
        if text.len() > LEN_MAX {
            text.truncate(cut_to(&text, LEN_MAX - ELLIPSIS.len()).len());
            text.push_str(ELLIPSIS);
        }
        ShortStr::cut(&text)
    }

    pub fn connection_close(&self) -> Method {
        Method::ConnectionClose {
            reply_code: self.code.code(),
            reply_text: self.reply_text(),
            class_id: self.class,
            method_id: self.method,
        }
    }

    pub fn channel_close(&self) -> Method {
        Method::ChannelClose {
            reply_code: self.code.code(),
            reply_text: self.reply_text(),
            class_id: self.class,
            method_id: self.method,
        }
    }
}

impl From<frame::Error> for Fault {
    fn from(error: frame::Error) -> Self {
        Self::new(ReplyCode::FrameError, error.to_string())
    }
}

impl From<method::Error> for Fault {
    fn from(error: method::Error) -> Self {
        match error {
            method::Error::Unknown { class, method } => {
                Self::new(ReplyCode::CommandInvalid, "unimplemented method").of((class, method))
            }
            _ => Self::new(ReplyCode::FrameError, error.to_string()),
        }
    }
}

/// For content headers and tables, which are undecodable arguments as those of a method are.
impl From<wire::Error> for Fault {
    fn from(error: wire::Error) -> Self {
        match error {
            wire::Error::MalformedUtf8 => Self::new(ReplyCode::FrameError, error.to_string()),
            _ => Self::new(ReplyCode::FrameError, format!("cannot decode: {error}")),
        }
    }
}
