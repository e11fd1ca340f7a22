//! The beginning of a TLS connection: its bytes are kept until it is decided who ends it, and it is asked whether it hides
//! another name than the one it shows.
//!
//! Reads what a bottle sent: every length is checked, nothing is believed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most that is kept. A greeting is far below; rustls gives up at 64 KiB.
pub(super) const MOST: usize = 80 * 1024;
/// Encrypted Client Hello (RFC 9849): the name that is shown is not the name that is meant.
const ECH: u16 = 0xfe0d;

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

impl<IO: AsyncWrite + Unpin> AsyncWrite for Kept<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// Tells whether a greeting is known to hide no other name: it can be read, and has no Encrypted Client Hello. Browsers send
/// one of random content too; nothing tells it from a real one, so it counts as one.
pub fn hides_nothing(bytes: &[u8]) -> bool {
    handshake(bytes).and_then(|hello| extensions(&hello)).is_some_and(|types| !types.contains(&ECH))
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

/// Gets the types of the extensions of a ClientHello (RFC 8446, 4.1.2).
fn extensions(hello: &[u8]) -> Option<Vec<u16>> {
    let mut rest = hello.get(2 + 32..)?;
    // Session id, cipher suites, compression methods.
    rest = skip(rest, 1)?;
    rest = skip(rest, 2)?;
    rest = skip(rest, 1)?;
    let mut list = rest.get(2..)?;
    let mut types = Vec::new();
    while !list.is_empty() {
        let (kind, after) = list.split_first_chunk::<2>()?;
        types.push(u16::from_be_bytes(*kind));
        list = skip(after, 2)?;
    }
    Some(types)
}

/// Skips a vector whose length stands before it in `prefix` bytes.
fn skip(bytes: &[u8], prefix: usize) -> Option<&[u8]> {
    let length = bytes.get(..prefix)?.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    bytes.get(prefix + length..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(extensions: &[u16]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        let list: Vec<u8> =
            extensions.iter().flat_map(|kind| [kind.to_be_bytes(), [0, 1]].concat().into_iter().chain([9])).collect();
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
