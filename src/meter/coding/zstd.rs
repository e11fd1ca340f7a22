//! Zstandard as a writer (RFC 8878): whole blocks are decoded as they come.
//!
//! The decoder holds back as much as later blocks may point at: the last 8 MiB at most (RFC 9659), which is the whole of most answers.
//! So figures come with the end of a frame, and of one that is cut short nothing is known. Model APIs are asked for plain bodies; this
//! is for those that do as they like.

use std::io::{self, Write};

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Furthest that a frame may point back (RFC 9659, 3). Unit: bytes.
const WINDOW: u64 = 8 << 20;

/// What is taken from the decoder at once. Unit: bytes.
const PIECE: usize = 32 << 10;

/// Longest block (RFC 8878, 3.1.1.2.4), with its head and the sum after the last. Unit: bytes.
const MOST_PENDING: usize = (128 << 10) + 3 + 4;

/// Length of a block without content. Unit: bytes.
const EMPTY: usize = 3;
/// Blocks without content that are taken: they cost time and give nothing.
const MOST_EMPTY: u32 = 1024;

/// Decodes frames into `W`.
pub(super) struct Zstd<W> {
    out: W,
    frame: FrameDecoder,
    at: At,
    /// What has come and is no whole header or block yet; and how much of its beginning is done with.
    pending: Vec<u8>,
    done: usize,
    /// Blocks without content so far.
    empty: u32,
}

/// What comes next.
enum At {
    Header,
    /// Blocks; whether a sum follows the last.
    Blocks(bool),
    /// So many bytes of a frame that is to be skipped.
    Skip(usize),
}

impl<W: Write> Zstd<W> {
    /// Makes a decoder.
    pub(super) fn new(out: W) -> Zstd<W> {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(WINDOW);
        Zstd { out, frame, at: At::Header, pending: Vec::new(), done: 0, empty: 0 }
    }

    pub(super) fn get_ref(&self) -> &W {
        &self.out
    }

    pub(super) fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Takes one step with what is pending; gets how many bytes of it that took, `None` where more must come.
    fn step(&mut self) -> io::Result<Option<usize>> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let pending = self.pending.get(self.done..).unwrap_or_default();
        match self.at {
            At::Header => match header(pending) {
                Some(Header::Skip(length)) => {
                    self.at = At::Skip(length);
                    Ok(Some(8))
                }
                Some(Header::Frame { length, sum }) if pending.len() >= length => {
                    self.frame.reset(&pending[..length]).map_err(io::Error::other)?;
                    self.at = At::Blocks(sum);
                    Ok(Some(length))
                }
                Some(Header::Frame { .. }) | None if pending.len() < 18 => Ok(None),
                _ => Err(damaged("no frame")),
            },
            At::Skip(length) => {
                let now = length.min(pending.len());
                self.at = if now == length { At::Header } else { At::Skip(length - now) };
                Ok((now > 0 || length == 0).then_some(now))
            }
            At::Blocks(sum) => {
                let Some(length) = block(pending, sum) else { return Ok(None) };
                if length > MOST_PENDING {
                    return Err(damaged("a block that is too long"));
                }
                let Some(whole) = pending.get(..length) else { return Ok(None) };
                self.empty += u32::from(length <= EMPTY);
                if self.empty > MOST_EMPTY {
                    return Err(damaged("very many blocks of nothing"));
                }
                let one = BlockDecodingStrategy::UptoBlocks(1);
                if self.frame.decode_blocks(whole, one).map_err(io::Error::other)? {
                    self.at = At::Header;
                }
                self.drain()?;
                Ok(Some(length))
            }
        }
    }

    /// Passes on what the decoder gives.
    fn drain(&mut self) -> io::Result<()> {
        if self.frame.can_collect() == 0 {
            return Ok(());
        }
        let mut piece = [0; PIECE];
        while self.frame.can_collect() > 0 {
            let read = io::Read::read(&mut self.frame, &mut piece)?;
            self.out.write_all(&piece[..read])?;
        }
        Ok(())
    }
}

impl<W: Write> Write for Zstd<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        while let Some(taken) = self.step()? {
            self.done += taken;
        }
        self.pending.drain(..std::mem::take(&mut self.done).min(self.pending.len()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Header {
    /// A frame, the length of its header, and whether a sum follows its last block.
    Frame { length: usize, sum: bool },
    /// A frame to be skipped, and its length without the eight bytes that say so.
    Skip(usize),
}

/// Reads as much of a frame's header as says how long it is; `None` where it has not come.
fn header(bytes: &[u8]) -> Option<Header> {
    let magic = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    if magic & 0xffff_fff0 == 0x184d_2a50 {
        let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
        return usize::try_from(length).ok().map(Header::Skip);
    }
    let descriptor = *bytes.get(4)?;
    let single = descriptor & 0x20 != 0;
    let window = usize::from(!single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    Some(Header::Frame { length: 5 + window + dictionary + size, sum: descriptor & 4 != 0 })
}

/// Reads how long the block at the start of `bytes` is, with its head and, behind the last, the sum; `None` where that has not come.
fn block(bytes: &[u8], sum: bool) -> Option<usize> {
    let head = bytes.get(..3)?;
    let head = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
    let (last, kind, size) = (head & 1 != 0, head >> 1 & 3, head >> 3);
    // A block that repeats one byte has that byte alone.
    let content = if kind == 1 { 1 } else { size };
    Some(3 + content + if last && sum { 4 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a frame of raw blocks by hand; with a sum where it is `Some`, which no decoder here checks.
    fn frame(text: &[u8], each: usize, sum: Option<u32>) -> Vec<u8> {
        let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, if sum.is_some() { 4 } else { 0 }, 5 << 3];
        let chunks: Vec<&[u8]> = text.chunks(each).collect();
        for (index, chunk) in chunks.iter().enumerate() {
            let head = (chunk.len() as u32) << 3 | u32::from(index + 1 == chunks.len());
            out.extend_from_slice(&head.to_le_bytes()[..3]);
            out.extend_from_slice(chunk);
        }
        out.extend(sum.iter().flat_map(|sum| sum.to_le_bytes()));
        out
    }

    #[test]
    fn frames_are_decoded_wherever_they_are_cut() {
        let mut bytes = frame(b"hello, ", 3, None);
        bytes.extend_from_slice(&[0x53, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
        bytes.extend(frame(b"world", 5, Some(7)));
        for cut in 0..=bytes.len() {
            let mut zstd = Zstd::new(Vec::new());
            zstd.write_all(&bytes[..cut]).unwrap();
            zstd.write_all(&bytes[cut..]).unwrap();
            assert_eq!(zstd.out, b"hello, world", "{cut}");
        }
    }

    #[test]
    fn very_many_blocks_of_nothing_are_an_error_and_some_are_not() {
        let of = |n: usize| [&frame(b"x", 1, None)[..6], &vec![0; 3 * n], &[1 << 3 | 1, 0, 0, b'y']].concat();
        let mut zstd = Zstd::new(Vec::new());
        zstd.write_all(&of(1000)).unwrap();
        assert_eq!(zstd.out, b"y");
        assert!(Zstd::new(Vec::new()).write_all(&of(200_000)).is_err());
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        assert!(Zstd::new(Vec::new()).write_all(&[7; 32]).is_err());
        let mut long = frame(b"x", 1, None);
        // A block that says it has 2 MiB.
        long.truncate(6);
        long.extend_from_slice(&[0xf0, 0xff, 0xff]);
        assert!(Zstd::new(Vec::new()).write_all(&long).is_err());
    }
}
