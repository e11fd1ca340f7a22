//! The log of what a bottle wrote: frames in two files that take turns, so that it stays bounded.
//!
//! The keeper writes, the controller reads; each frame has a number, so a reader can go on where it stopped. The text
//! is untrusted: this file neither escapes nor interprets it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Size at which the files take turns. Both together bound a log to twice this.
const TURN: u64 = 8 << 20;

/// Length of a frame's head: number, time, exec, stream, length.
const HEAD: usize = 8 + 8 + 4 + 1 + 4;

/// Longest text of one frame.
pub const MAX_FRAME: usize = 64 * 1024;

/// Which of an exec's streams a frame is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// Gets the name used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number, from 1, without holes.
    pub n: u64,
    /// Milliseconds since the epoch.
    pub ts: i64,
    /// Exec it is from; 0 = the agent.
    pub exec: u32,
    /// Stream it is from.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The writing side, held by the keeper.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    /// Bytes in `file`.
    length: u64,
    /// Number of the newest frame.
    n: u64,
}

/// The path of the older half of the log at `path`.
fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

impl Writer {
    /// Starts a new log at `path`.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn create(path: &Path) -> io::Result<Writer> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
        Ok(Writer { path: path.to_owned(), file, length: 0, n: 0 })
    }

    /// Appends a frame and returns its number.
    ///
    /// # Errors
    /// Those of writing; the frame is then lost, later ones may succeed.
    pub fn append(&mut self, exec: u32, stream: Stream, bytes: &[u8]) -> io::Result<u64> {
        if self.length >= TURN {
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&self.path)?;
            self.length = 0;
        }
        let mut frame = Vec::with_capacity(HEAD + bytes.len());
        frame.extend_from_slice(&(self.n + 1).to_le_bytes());
        frame.extend_from_slice(&now_ms().to_le_bytes());
        frame.extend_from_slice(&exec.to_le_bytes());
        frame.push(u8::from(stream == Stream::Err));
        frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        frame.extend_from_slice(bytes);
        if let Err(e) = self.file.write_all(&frame) {
            // Half a frame would end every reader's view of the file.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(io::SeekFrom::Start(self.length));
            return Err(e);
        }
        self.n += 1;
        self.length += frame.len() as u64;
        Ok(self.n)
    }
}

/// Where a reader stopped: a file and the beginning of its next frame. It is held open, so that no other gets its number.
#[derive(Debug, Default)]
pub struct Place {
    file: Option<File>,
    at: u64,
}

impl Place {
    /// Gets where to begin in `file`.
    fn in_file(&self, file: &File) -> Option<u64> {
        let id = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).ok();
        (id(self.file.as_ref()?)? == id(file)?).then_some(self.at)
    }
}

/// Reads on after number `since`, at most `max_bytes` of text, from where `place` says that the last reading stopped. What of
/// the log has been written over meanwhile is missing.
///
/// # Errors
/// As [`read`].
pub fn read_on(path: &Path, place: &mut Place, since: u64, max_bytes: usize) -> io::Result<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut left = max_bytes;
    let mut newer = File::open(path).map(Some).or_else(none_is_fine)?;
    if newer.as_ref().is_none_or(|file| place.in_file(file).is_none()) {
        if let Some(mut file) = File::open(older(path)).map(Some).or_else(none_is_fine)? {
            let start = place.in_file(&file).unwrap_or(0);
            let at = read_file(&mut file, start, since, &mut left, &mut frames)?;
            *place = Place { file: Some(file), at };
            if left == 0 {
                return Ok(frames);
            }
        }
        // What was the newer one a moment ago may be the older one now.
        newer = File::open(path).map(Some).or_else(none_is_fine)?;
    }
    if let Some(mut file) = newer {
        let start = place.in_file(&file).unwrap_or(0);
        let at = read_file(&mut file, start, since, &mut left, &mut frames)?;
        *place = Place { file: Some(file), at };
    }
    frames.dedup_by_key(|f| f.n);
    Ok(frames)
}

fn none_is_fine(e: io::Error) -> io::Result<Option<File>> {
    if e.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(e) }
}

/// Gets the number of the frame before the last `bytes` that `exec` (or anybody) wrote; 0 where it did not write as much.
pub fn before_last(path: &Path, exec: Option<u32>, bytes: usize) -> u64 {
    let mut lengths = std::collections::VecDeque::new();
    let (mut sum, mut before, mut since, mut place) = (0, 0, 0, Place::default());
    while let Ok(frames) = read_on(path, &mut place, since, 1 << 20) {
        let Some(last) = frames.last() else { break };
        since = last.n;
        for frame in frames.iter().filter(|f| exec.is_none_or(|exec| f.exec == exec)) {
            lengths.push_back((frame.n, frame.bytes.len()));
            sum += frame.bytes.len();
            while sum > bytes
                && let Some((n, length)) = lengths.pop_front()
            {
                sum -= length;
                before = n;
            }
        }
    }
    before
}

/// Reads the frames after number `since`, at most `max_bytes` of text of them.
///
/// # Errors
/// Those of reading; a log that does not exist has no frames.
pub fn read(path: &Path, since: u64, max_bytes: usize) -> io::Result<Vec<Frame>> {
    read_on(path, &mut Place::default(), since, max_bytes)
}

/// Reads one of the two files from the frame at `at` on; returns where it stopped. A frame that is not whole yet ends it.
fn read_file(file: &mut File, mut at: u64, since: u64, left: &mut usize, frames: &mut Vec<Frame>) -> io::Result<u64> {
    let end = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(at))?;
    let mut reader = io::BufReader::with_capacity(64 * 1024, file);
    let mut head = [0u8; HEAD];
    while *left > 0 && at + HEAD as u64 <= end {
        reader.read_exact(&mut head)?;
        let field = |range: std::ops::Range<usize>| {
            let mut bytes = [0u8; 8];
            bytes[..range.len()].copy_from_slice(&head[range]);
            u64::from_le_bytes(bytes)
        };
        let (n, ts, exec, stream, length) = (field(0..8), field(8..16), field(16..20), head[20], field(21..25));
        if length as usize > MAX_FRAME || at + HEAD as u64 + length > end {
            break;
        }
        at += HEAD as u64 + length;
        if n <= since {
            reader.seek_relative(length as i64)?;
            continue;
        }
        let mut bytes = vec![0; length as usize];
        reader.read_exact(&mut bytes)?;
        *left = left.saturating_sub(bytes.len().max(1));
        let stream = if stream == 1 { Stream::Err } else { Stream::Out };
        frames.push(Frame { n, ts: ts as i64, exec: exec as u32, stream, bytes });
    }
    Ok(at)
}

/// Gets the last bytes that exec 0 wrote to its standard output, at most `max`, cut at a line where possible.
pub fn tail(path: &Path, max: usize) -> String {
    let mut bytes = Vec::new();
    let mut since = 0;
    while let Ok(frames) = read(path, since, 1 << 20) {
        let Some(last) = frames.last() else { break };
        since = last.n;
        for frame in frames.into_iter().filter(|f| f.exec == 0) {
            bytes.extend_from_slice(&frame.bytes);
        }
        if bytes.len() > 4 * max {
            bytes.drain(..bytes.len() - 2 * max);
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let start = text.len().saturating_sub(max);
    let start = (start..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    text[start..].trim_end().to_owned()
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Gets the length of the newer file, for tests of the bound.
#[cfg(test)]
fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bb-output-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir.join("output.log")
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped() {
        let path = scratch("resume");
        let mut log = Writer::create(&path).unwrap();
        log.append(0, Stream::Out, b"one\n").unwrap();
        let n = log.append(0, Stream::Err, b"two\n").unwrap();
        log.append(1, Stream::Out, b"three\n").unwrap();
        assert_eq!(read(&path, 0, 1 << 20).unwrap().len(), 3);
        let rest = read(&path, n, 1 << 20).unwrap();
        assert_eq!((rest.len(), rest[0].exec, rest[0].bytes.as_slice()), (1, 1, b"three\n".as_slice()));
        assert_eq!(tail(&path, 100), "one\ntwo");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_reader_goes_on_in_its_place_whatever_the_files_do_meanwhile() {
        let path = scratch("place");
        let mut log = Writer::create(&path).unwrap();
        let (mut place, mut seen, mut next) = (Place::default(), 0, 1);
        let block = vec![b'x'; MAX_FRAME];
        for round in 0..(5 * TURN / MAX_FRAME as u64) {
            log.append(0, Stream::Out, &block).unwrap();
            if round % 3 == 0 {
                for frame in read_on(&path, &mut place, seen, 1 << 20).unwrap() {
                    assert_eq!(frame.n, next, "no hole and nothing twice");
                    (seen, next) = (frame.n, next + 1);
                }
            }
        }
        let whole = read(&path, 0, usize::MAX).unwrap();
        assert_eq!(before_last(&path, None, usize::MAX), 0);
        assert_eq!(before_last(&path, None, 3 * MAX_FRAME), whole.last().unwrap().n - 3);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_disk_that_was_full_loses_only_what_did_not_fit() {
        // The bound is the whole process's, so it gets one of its own.
        if std::env::var_os("BB_TEST_FULL_DISK").is_none() {
            let name = "bottle::output::tests::a_disk_that_was_full_loses_only_what_did_not_fit";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let child = child.args(["--exact", name]).env("BB_TEST_FULL_DISK", "1").output().unwrap();
            return assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        }
        let path = scratch("full");
        let mut log = Writer::create(&path).unwrap();
        log.append(0, Stream::Out, b"before\n").unwrap();
        // The kernel's bound on a file's size stands for the disk: half of the frame fits.
        let limit = nix::sys::resource::Resource::RLIMIT_FSIZE;
        let (soft, hard) = nix::sys::resource::getrlimit(limit).unwrap();
        // SAFETY: ignoring the signal has no handler; the write then fails with EFBIG.
        let old = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) };
        nix::sys::resource::setrlimit(limit, log.length + 100, hard).unwrap();
        let full = log.append(0, Stream::Out, &[b'x'; 1000]);
        nix::sys::resource::setrlimit(limit, soft, hard).unwrap();
        // SAFETY: as it was.
        unsafe { nix::sys::signal::signal(nix::sys::signal::SIGXFSZ, old.unwrap()) }.unwrap();
        assert!(full.is_err());
        log.append(0, Stream::Out, b"after\n").unwrap();
        assert_eq!(tail(&path, 100), "before\nafter");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_chatty_agent_cannot_fill_the_disk() {
        let path = scratch("bounded");
        let mut log = Writer::create(&path).unwrap();
        let block = vec![b'x'; MAX_FRAME];
        for _ in 0..(3 * TURN / MAX_FRAME as u64) {
            log.append(0, Stream::Out, &block).unwrap();
        }
        assert!(size(&path) + size(&older(&path)) < 2 * TURN + 2 * MAX_FRAME as u64);
        let frames = read(&path, 0, usize::MAX).unwrap();
        assert!(frames.windows(2).all(|w| w[1].n == w[0].n + 1), "the newest frames are whole and in order");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
