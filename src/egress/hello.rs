//! The beginning of a TLS connection: its bytes are kept until it is decided who ends it, and it is asked whether it hides
//! another name than the one it shows.
//!
//! Reads what a bottle sent: every length is checked, nothing is believed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::through::writes_through;

/// Most that is kept. A greeting is far below; rustls gives up at 64 KiB.
pub(super) const MOST: usize = 80 * 1024;
/// Encrypted Client Hello (RFC 9849): the name that is shown is not the name that is meant.
const ECH: u16 = 0xfe0d;
/// The server name (RFC 6066, 3).
const SERVER_NAME: u16 = 0;

/// A stream whose first bytes are kept.
#[derive(Debug)]
pub struct Kept<IO> {
    io: IO,
    bytes: Option<Vec<u8>>,
}

impl<IO> Kept<IO> {
    /// Begins to keep what is read.
    pub fn new(io: IO) -> Self {
        Kept { io, bytes: Some(Vec::with_capacity(2048)) }
    }

    /// Keeps nothing from now on, and forgets what it has.
    pub fn forget(mut self) -> Self {
        self.bytes = None;
        self
    }

    /// Gets what was read so far.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }

    /// Gets the stream and what was read of it.
    pub fn into_parts(self) -> (IO, Vec<u8>) {
        (self.io, self.bytes.unwrap_or_default())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Kept<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let result = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some(bytes) = &mut this.bytes {
            let new = buf.filled().get(before..).unwrap_or_default();
            if bytes.len() + new.len() > MOST {
                buf.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            bytes.extend_from_slice(new);
        }
        result
    }
}

writes_through!([<IO: AsyncWrite + Unpin>] Kept<IO>, io, |_, _| {});

/// Tells whether a greeting is known to hide no other name: it can be read to its last byte, shows one server name in the one
/// form that it may have, and has no Encrypted Client Hello. Browsers send one of random content too; nothing tells it from a
/// real one, so it counts as one.
pub fn hides_nothing(bytes: &[u8]) -> bool {
    let Some(hello) = handshake(bytes) else { return false };
    let Some(list) = extensions(&hello) else { return false };
    let mut names = list.iter().filter(|(kind, _)| *kind == SERVER_NAME).map(|(_, value)| *value);
    let one = names.next().is_some_and(is_one_name) && names.next().is_none();
    one && list.iter().all(|(kind, _)| *kind != ECH)
}

/// Tells whether a server name extension has one name and nothing else: where there is more, who reads it may take either.
fn is_one_name(value: &[u8]) -> bool {
    let whole = |bytes| taken(bytes, 2).filter(|(_, rest)| rest.is_empty()).map(|(inner, _)| inner);
    match whole(value) {
        Some([0, name @ ..]) => whole(name).is_some_and(|name| !name.is_empty()),
        _ => false,
    }
}

/// Puts the handshake message together from its records (RFC 8446, 5.1: a message may be cut anywhere).
fn handshake(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while let [0x16, 3, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        message.extend_from_slice(rest.get(..length)?);
        bytes = rest.get(length..)?;
        if let [1, a, b, c, body @ ..] = message.as_slice() {
            let whole = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).ok()?;
            if body.len() >= whole {
                return body.get(..whole).map(<[u8]>::to_vec);
            }
        }
    }
    None
}

/// Gets the extensions of a ClientHello (RFC 8446, 4.1.2): types and values.
fn extensions(hello: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let rest = hello.get(2 + 32..)?;
    // Session id, cipher suites, compression methods.
    let (_, rest) = taken(rest, 1)?;
    let (_, rest) = taken(rest, 2)?;
    let (_, rest) = taken(rest, 1)?;
    let (mut list, rest) = taken(rest, 2)?;
    if !rest.is_empty() {
        return None;
    }
    let mut all = Vec::new();
    while !list.is_empty() {
        let (kind, after) = list.split_first_chunk::<2>()?;
        let (value, rest) = taken(after, 2)?;
        all.push((u16::from_be_bytes(*kind), value));
        list = rest;
    }
    Some(all)
}

/// Gets a vector whose length stands before it in `prefix` bytes, and what follows.
fn taken(bytes: &[u8], prefix: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(prefix)?;
    rest.split_at_checked(length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(extensions: &[u16]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        let value = |kind: u16| if kind == SERVER_NAME { &b"\0\x0e\0\x0c\0\0\x09a.example"[..] } else { b"\0\x01\x09" };
        let list: Vec<u8> = extensions.iter().flat_map(|kind| [&kind.to_be_bytes(), value(*kind)].concat()).collect();
        body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend(list);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1, length[1], length[2], length[3]], body.as_slice()].concat()
    }

    fn records(message: &[u8], cut: usize) -> Vec<u8> {
        let parts = message.chunks(cut);
        parts
            .flat_map(|part| [&[0x16, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat())
            .collect()
    }

    #[test]
    fn a_hidden_name_is_seen_however_the_greeting_is_cut() {
        for cut in [1, 3, 40, 60, 4000] {
            assert!(hides_nothing(&records(&hello(&[0, 43]), cut)), "{cut}");
            assert!(!hides_nothing(&records(&hello(&[0, ECH, 43]), cut)), "{cut}");
        }
    }

    #[test]
    fn a_greeting_shows_one_name_or_is_not_believed() {
        assert!(!hides_nothing(&records(&hello(&[43]), 4000)), "none");
        assert!(!hides_nothing(&records(&hello(&[0, 43, 0]), 4000)), "two");
        for (value, good) in [
            (&b"\0\x04\0\0\x01a"[..], true),
            (b"\0\x08\0\0\x01a\0\0\x01b", false),
            (b"\0\x08\0\0\x01a\x01\0\x01b", false),
            (b"\0\x05\0\0\x01ab", false),
            (b"\0\x04\x01\0\x01a", false),
            (b"\0\x03\0\0\0", false),
            (b"\0\0", false),
            (b"", false),
        ] {
            assert_eq!(is_one_name(value), good, "{value:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_believed() {
        let whole = records(&hello(&[0, 43]), 4000);
        for end in 0..whole.len() {
            assert!(!hides_nothing(&whole[..end]), "{end}");
        }
        assert!(!hides_nothing(b"GET / HTTP/1.1\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn no_greeting_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..120, with in any::<u8>()) {
            hides_nothing(&bytes);
            let mut damaged = records(&hello(&[0, 10, 43]), 30);
            let place = at % damaged.len();
            damaged[place] = with;
            hides_nothing(&damaged);
        }
    }

    #[tokio::test]
    async fn what_is_read_is_kept_until_it_is_forgotten() {
        use tokio::io::AsyncReadExt;
        let mut kept = Kept::new(&b"hello world"[..]);
        let mut five = [0; 5];
        kept.read_exact(&mut five).await.unwrap();
        assert_eq!(kept.bytes(), b"hello");
        let mut kept = kept.forget();
        kept.read_exact(&mut five).await.unwrap();
        assert!(kept.bytes().is_empty());
        let much = vec![0u8; MOST + 1];
        let mut kept = Kept::new(&much[..]);
        let mut all = Vec::new();
        assert_eq!(kept.read_to_end(&mut all).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
