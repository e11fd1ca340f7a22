//! An engine's answer that comes piece by piece: what a build or a pull says of its progress, a line at a time.
//!
//! Knows nothing of what the lines mean. Each is bounded, and so is the wait for it.

use std::io::{self, BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::http::{self, Request};

/// Longest line.
const LONGEST: u64 = 4 << 20;

/// What is left of the body.
enum Left {
    /// So many bytes of this chunk.
    Chunk(u64),
    /// So many bytes.
    Bytes(u64),
    /// Until the engine closes.
    All,
    Nothing,
}

/// The lines.
pub struct Lines {
    body: BufReader<Body>,
    hold: UnixStream,
    /// The status of the answer.
    pub status: u16,
}

struct Body {
    reader: BufReader<UnixStream>,
    left: Left,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Left::Chunk(0) = self.left {
            let size = http::line(&mut self.reader, &mut 1024)?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| http::invalid("a chunk without a length"))?;
            self.left = if size == 0 { Left::Nothing } else { Left::Chunk(size) };
        }
        let most = match self.left {
            Left::Chunk(n) | Left::Bytes(n) => n,
            Left::All => u64::MAX,
            Left::Nothing => 0,
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.reader.read(&mut buffer[..most])?;
        match &mut self.left {
            Left::Chunk(left) => {
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= n as u64;
                if *left == 0 {
                    http::line(&mut self.reader, &mut 16)?;
                }
            }
            Left::Bytes(left) => *left -= n as u64,
            Left::All | Left::Nothing => {}
        }
        Ok(n)
    }
}

impl Lines {
    /// Sends a request; returns when the engine has begun to answer. `patience` bounds each wait for it. The connection is
    /// shown to `keep` before the answer is waited for, so that somebody else may end it.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` for what is no HTTP.
    pub fn of(
        socket: &Path,
        request: Request<'_>,
        patience: Duration,
        keep: &mut dyn FnMut(UnixStream),
    ) -> io::Result<Lines> {
        let mut reader = http::send(socket, request, patience, "close")?;
        keep(reader.get_ref().try_clone()?);
        let head = http::head(&mut reader)?;
        let left = match head.length {
            _ if head.chunked => Left::Chunk(0),
            Some(length) => Left::Bytes(length),
            None => Left::All,
        };
        let hold = reader.get_ref().try_clone()?;
        Ok(Lines { body: BufReader::new(Body { reader, left }), hold, status: head.status })
    }

    /// Gets the next line; `None` at the end.
    ///
    /// # Errors
    /// Those of the socket, and `InvalidData` for a line that is too long or no text.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        let n = self.body.by_ref().take(LONGEST).read_until(b'\n', &mut bytes)?;
        if n == 0 {
            return Ok(None);
        }
        if n as u64 == LONGEST {
            return Err(http::invalid("a line is too long"));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| http::invalid("a line is no text"))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Whoever leaves early wants the work ended: the engine does so when it sees the connection closed.
        let _ = self.hold.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(answer: &'static [u8]) -> io::Result<Vec<String>> {
        let dir = std::env::temp_dir().join(format!("bb-lines-{}-{:p}", std::process::id(), answer));
        let listener = std::os::unix::net::UnixListener::bind(&dir).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0u8; 4096];
            let _ = stream.read(&mut asked);
            stream.write_all(answer).unwrap();
        });
        let request = Request { method: "POST", path: "/x", content_type: "text/plain", body: b"" };
        let mut kept = 0;
        let lines = Lines::of(&dir, request, Duration::from_secs(20), &mut |_| kept += 1);
        std::fs::remove_file(&dir).unwrap();
        let mut lines = lines?;
        let mut all = Vec::new();
        let end = loop {
            match lines.line() {
                Ok(Some(line)) => all.push(line.trim_end().to_owned()),
                Ok(None) => break Ok(all),
                Err(e) => break Err(e),
            }
        };
        server.join().unwrap();
        assert_eq!(kept, 1);
        end
    }

    #[test]
    fn lines_of_each_form_of_body_are_told_apart() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{\"a\":1\r\n4\r\n}\n{}\r\n0\r\n\r\n";
        assert_eq!(lines(chunked).unwrap(), ["{\"a\":1}", "{}"]);
        assert_eq!(lines(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na\nb").unwrap(), ["a", "b"]);
        assert_eq!(lines(b"HTTP/1.1 200 OK\r\n\r\na\n").unwrap(), ["a"]);
        assert_eq!(lines(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap(), [""; 0]);
    }

    #[test]
    fn one_that_breaks_off_is_an_error() {
        assert!(lines(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{}").is_err());
        assert!(lines(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n").is_err());
    }
}
