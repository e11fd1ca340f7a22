//! A bottle's connection, with what was read of it ahead: bytes that came together with a `CONNECT` belong to what follows it.
//!
//! It knows nothing of what the bytes mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::through::writes_through;

/// A connection, whose first bytes may have been read already.
#[derive(Debug)]
pub struct Rewound {
    ahead: Bytes,
    tcp: TcpStream,
}

impl Rewound {
    /// Makes it of a connection that nothing was read of.
    pub fn new(tcp: TcpStream) -> Rewound {
        Rewound { ahead: Bytes::new(), tcp }
    }

    /// Puts back what was read of it.
    pub fn rewind(self, read: Bytes) -> Rewound {
        let ahead = if self.ahead.is_empty() { read } else { [read, self.ahead].concat().into() };
        Rewound { ahead, tcp: self.tcp }
    }

    /// Waits for the first byte and leaves it where it is. `None`: the connection has ended.
    pub async fn first(&self) -> io::Result<Option<u8>> {
        if let Some(first) = self.ahead.first() {
            return Ok(Some(*first));
        }
        let mut first = [0u8; 1];
        Ok((self.tcp.peek(&mut first).await? > 0).then_some(first[0]))
    }

    /// Has it closed by a reset.
    pub fn reset(&self) -> io::Result<()> {
        self.tcp.set_zero_linger()
    }

    /// Gets the connection, and what was read of it and not taken yet.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.tcp, self.ahead)
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let taken = self.ahead.len().min(buf.remaining());
            buf.put_slice(self.ahead.get(..taken).unwrap_or_default());
            self.ahead.advance(taken);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

writes_through!([] Rewound, tcp, |_, _| {});

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(b"cdef").await.unwrap();
        client.shutdown().await.unwrap();
        let stream = Rewound::new(stream);
        assert_eq!(stream.first().await.unwrap(), Some(b'c'));
        let mut stream = stream.rewind(Bytes::from_static(b"b")).rewind(Bytes::from_static(b"a"));
        assert_eq!(stream.first().await.unwrap(), Some(b'a'));
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!((&one, all.as_str()), (b"a", "bcdef"));
        assert_eq!(stream.first().await.unwrap(), None);
    }
}
