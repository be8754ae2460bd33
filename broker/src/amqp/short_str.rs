//! Short strings: UTF-8 of at most 255 bytes, a slice of whatever buffer they came in.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::str::FromStr;

use bytes::Bytes;

/// The most bytes a short string can hold: its length travels in one octet.
pub const LEN_MAX: usize = 255;

/// Valid UTF-8 of at most [`LEN_MAX`] bytes; a clone shares the bytes.
///
/// Reading it as `str` walks the bytes once more (safe Rust has no way to remember that they were checked), so code
/// that runs per message compares and copies [`ShortStr::as_bytes`].
#[derive(Clone, Default)]
pub struct ShortStr(Bytes);

/// Why some text or bytes are no short string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} bytes do not fit a short string of at most 255")]
    TooLong(usize),
    #[error("Malformed UTF-8 in shortstr")]
    MalformedUtf8,
}

impl ShortStr {
    pub const fn empty() -> Self {
        Self(Bytes::new())
    }

    /// Copies `text`.
    pub fn new(text: &str) -> Result<Self, Error> {
        check_len(text.len())?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// Copies as much of `text` as fits, cut at a character boundary.
    pub fn cut(text: &str) -> Self {
        Self(Bytes::copy_from_slice(cut_to(text, LEN_MAX).as_bytes()))
    }

    /// Takes bytes of any content: what is not UTF-8 becomes U+FFFD, what does not fit is cut off.
    pub(super) fn lossy(bytes: Bytes) -> Self {
        match Self::try_from(bytes.clone()) {
            Ok(valid) => valid,
            Err(_) => Self::cut(&String::from_utf8_lossy(&bytes)),
        }
    }

    pub fn as_str(&self) -> &str {
        // Every constructor has checked the bytes, so the default is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same text in an allocation of its own, for keeping: a slice of a read buffer holds all of that buffer.
    pub fn detach(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

/// The longest prefix of `text` that has at most `len_max` bytes and ends between characters.
pub(super) fn cut_to(text: &str, len_max: usize) -> &str {
    let mut end = text.len().min(len_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn check_len(len: usize) -> Result<(), Error> {
    if len > LEN_MAX {
        Err(Error::TooLong(len))
    } else {
        Ok(())
    }
}

impl Deref for ShortStr {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for ShortStr {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for ShortStr {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// For literals of the program itself; panics on one that does not fit.
impl From<&'static str> for ShortStr {
    fn from(text: &'static str) -> Self {
        assert!(
            text.len() <= LEN_MAX,
            "a literal of {} bytes is no short string",
            text.len()
        );
        Self(Bytes::from_static(text.as_bytes()))
    }
}

impl TryFrom<String> for ShortStr {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        check_len(text.len())?;
        Ok(Self(Bytes::from(text)))
    }
}

impl TryFrom<Bytes> for ShortStr {
    type Error = Error;

    fn try_from(bytes: Bytes) -> Result<Self, Error> {
        check_len(bytes.len())?;
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(Error::MalformedUtf8),
        }
    }
}

impl FromStr for ShortStr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl From<ShortStr> for String {
    fn from(text: ShortStr) -> Self {
        text.as_str().to_owned()
    }
}

impl From<ShortStr> for Bytes {
    fn from(text: ShortStr) -> Self {
        text.0
    }
}

impl PartialEq for ShortStr {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for ShortStr {}

impl PartialEq<str> for ShortStr {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for ShortStr {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialOrd for ShortStr {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bytewise, which for UTF-8 is also the order of `str`.
impl Ord for ShortStr {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// As `str` hashes, which `Borrow<str>` demands.
impl Hash for ShortStr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
