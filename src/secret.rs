//! The value of a credential out of a file, or out of what a command prints. Bounded and timed.
//!
//! Must not show anything of a value, nor anything that a command printed: errors name the file or the program. Knows neither
//! settings nor launches.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFlags, PollTimeout};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::bottle::toolchain::find;
use crate::error::{Error, Kind, Result};
use crate::os::own_file::{self, Bounds};
use crate::os::process::Process;
use crate::os::ready::Waiting;

/// Longest value, with the end of its line.
const LONGEST: usize = 64 << 10;

/// How much is read at once.
const PIECE: usize = 8 << 10;

/// How long a command may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

fn missing(message: String, hint: String) -> Error {
    Error::new(Kind::CredentialMissing, message).hint(hint)
}

/// Reads a file that nobody but its owner may read: whoever runs this, or root.
///
/// # Errors
/// `credential_missing`.
pub fn of_file(path: &Path) -> Result<SecretString> {
    let shown = path.display();
    let bounds = Bounds { links: true, of_root: true, closed: 0o077, most: LONGEST };
    let (_, bytes) = own_file::read(path, bounds).map_err(|unfit| {
        let (what, hint) = match unfit {
            own_file::Unfit::Unread(e) => {
                (format!("cannot be read: {e}"), format!("put the credential into {shown}, then chmod 600 {shown}"))
            }
            own_file::Unfit::NoFile => ("is not a file".to_owned(), "name a file that holds the credential".to_owned()),
            own_file::Unfit::Owner(other) => {
                let me = nix::unistd::geteuid();
                (format!("belongs to another user ({other})"), format!("make it yours: chown {me} {shown}"))
            }
            own_file::Unfit::Open(mode) => {
                (format!("is open to others than its owner (mode {mode:o})"), format!("chmod 600 {shown}"))
            }
            own_file::Unfit::Large => return long(&shown.to_string()),
        };
        missing(format!("{shown} {what}"), hint)
    })?;
    value(&bytes, &shown.to_string())
}

/// Runs a command, with no shell and nothing to read, in `directory`, and gets what it prints.
///
/// # Errors
/// `credential_missing`: it is not there, takes longer than `patience`, prints too much or no credential, or ends with another
/// code than 0.
pub fn of_command(argv: &[String], directory: &Path, patience: Duration) -> Result<SecretString> {
    let Some((program, args)) = argv.split_first() else { return Err(Error::internal("a command without words")) };
    let by_hand =
        || format!("run `{program}` by hand: it has to print the credential and nothing else, and end with 0");
    let path = std::env::var("PATH").unwrap_or_default();
    let exe = find(program, &path).ok_or_else(|| {
        missing(
            format!("`{program}` is not on this machine"),
            "install it, or name it by its whole path; no shell reads the command".to_owned(),
        )
    })?;
    // Not where the agent works: many programs heed files of the directory that they are started in. What it says to people may
    // have the credential in it.
    let mut child = Command::new(exe)
        .args(args)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| missing(format!("`{program}` cannot be started: {e}"), by_hand()))?;
    let printed = printed(&mut child, Instant::now() + patience);
    if printed.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| Error::internal(format!("`{program}`: {e}")))?;
    let bytes = printed.map_err(|why| match why {
        Unfit::Late => missing(format!("`{program}` did not end within {} s", patience.as_secs_f32()), by_hand()),
        Unfit::Long => missing(format!("`{program}` prints more than 64 KiB"), by_hand()),
        Unfit::Unread(e) => Error::internal(format!("what `{program}` prints cannot be read: {e}")),
    })?;
    if !status.success() {
        return Err(missing(format!("`{program}` {}", ended(status)), by_hand()));
    }
    value(&bytes, &format!("what `{program}` prints"))
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not end well".to_owned(),
    }
}

/// Why what a command prints is not taken.
enum Unfit {
    Late,
    Long,
    Unread(io::Error),
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Unfit {
        Unfit::Unread(error)
    }
}

/// Reads what a command prints until it has ended; what it has left running may hold its output open, and is not waited for.
fn printed(child: &mut Child, until: Instant) -> std::result::Result<Zeroizing<Vec<u8>>, Unfit> {
    let mut out = child.stdout.take().ok_or_else(|| io::Error::from(ErrorKind::BrokenPipe))?;
    let process = Process::open(child.id().cast_signed())?;
    fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + PIECE));
    let mut piece = Zeroizing::new([0u8; PIECE]);
    let mut open = true;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unfit::Late);
        }
        let mut waiting = Waiting::default();
        if open {
            waiting.add("printed", out.as_fd(), PollFlags::POLLIN);
        }
        waiting.add("ended", process.as_fd(), PollFlags::POLLIN);
        let ended = waiting.wait(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).contains(&"ended");
        while open {
            match out.read(&mut piece[..]) {
                Ok(0) => open = false,
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            if bytes.len() > LONGEST {
                return Err(Unfit::Long);
            }
        }
        if ended {
            return Ok(bytes);
        }
    }
}

fn no_value(whose: &str, what: &str) -> Error {
    missing(format!("{whose} {what}"), "it has to be the credential, in one line, and nothing else".to_owned())
}

fn long(whose: &str) -> Error {
    no_value(whose, "has more than 64 KiB")
}

/// Takes the value out of what was read: one line, whose end does not belong to it.
fn value(bytes: &[u8], whose: &str) -> Result<SecretString> {
    let wrong = |what: &str| no_value(whose, what);
    if bytes.len() > LONGEST {
        return Err(long(whose));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("is no text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(wrong("is empty"));
    }
    // No header could hold it.
    if text.chars().any(char::is_control) {
        return Err(wrong("has more than one line, or a control character"));
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use secrecy::ExposeSecret;

    use super::*;
    use crate::os::own_file::tests::Scratch;

    /// Asserts how it is refused: never with anything of what was read.
    #[track_caller]
    fn refused(result: Result<SecretString>, what: &str, hint: &str) {
        let error = result.map(|_| "a value").unwrap_err();
        assert_eq!(error.kind, Kind::CredentialMissing, "{error}");
        assert!(error.message.contains(what), "{what}: {error}");
        assert!(error.hint.as_deref().unwrap().contains(hint), "{hint}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_file_is_read_where_only_its_owner_may_and_its_last_line_end_is_cut() {
        let scratch = Scratch::new();
        for (text, want) in [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), (" a b\n", " a b")]
        {
            assert_eq!(of_file(&scratch.file(text, 0o600)).unwrap().expose_secret(), want);
        }
        assert!(of_file(&scratch.file("s3cret", 0o400)).is_ok());
        for mode in [0o640, 0o604, 0o620, 0o644, 0o777] {
            refused(of_file(&scratch.file("s3cret", mode)), &format!("mode {mode:o}"), "chmod 600");
        }
        let link = scratch.0.join("link");
        symlink(scratch.file("s3cret\n", 0o600), &link).unwrap();
        assert!(of_file(&link).is_ok(), "what it leads to is looked at");
        scratch.file("s3cret\n", 0o644);
        refused(of_file(&link), "mode 644", "chmod 600");
        let path = scratch.file("s3cret", 0o600);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            refused(of_file(&path), "another user (12345)", "chown 0 ");
        }
        fs::remove_file(&path).unwrap();
        refused(of_file(&path), "cannot be read", "chmod 600");
        refused(of_file(&scratch.0), "is not a file", "name a file");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        refused(of_file(&path), "is not a file", "name a file");
    }

    #[test]
    fn what_is_no_credential_is_refused_without_being_shown() {
        let scratch = Scratch::new();
        for (text, what) in [
            (b"".to_vec(), "is empty"),
            (b" \n".to_vec(), "is empty"),
            (b"s3cret\nmore\n".to_vec(), "more than one line"),
            (b"s3cret\n\n".to_vec(), "more than one line"),
            (b"s3cret\0".to_vec(), "control character"),
            (vec![0xff, 0xfe], "is no text"),
            (vec![b'a'; LONGEST + 1], "more than 64 KiB"),
        ] {
            refused(of_file(&scratch.file(&text, 0o600)), what, "in one line");
        }
        let longest = of_file(&scratch.file(vec![b'a'; LONGEST], 0o600)).unwrap();
        assert_eq!(longest.expose_secret().len(), LONGEST);
    }

    fn sh(script: &str, patience: Duration) -> Result<SecretString> {
        of_command(&["/bin/sh".into(), "-c".into(), script.into()], Path::new("/"), patience)
    }

    #[test]
    fn a_command_is_run_without_a_shell_and_its_output_is_the_value() {
        let words = ["printf", "%s", "a b; $HOME"].map(str::to_owned);
        assert_eq!(of_command(&words, Path::new("/"), PATIENCE).unwrap().expose_secret(), "a b; $HOME");
        assert_eq!(sh("echo s3cret; echo noise >&2", PATIENCE).unwrap().expose_secret(), "s3cret");
        assert_eq!(sh("pwd", PATIENCE).unwrap().expose_secret(), "/", "where it is told to run");
        assert!(sh("cat; echo s3cret", PATIENCE).is_ok(), "there is nothing to read");
        // What it leaves running may keep its output open.
        assert_eq!(sh("sleep 100 & echo s3cret", PATIENCE).unwrap().expose_secret(), "s3cret");
    }

    #[test]
    fn a_command_that_fails_hangs_or_talks_too_much_is_named_and_its_output_is_not() {
        refused(sh("echo s3cret; echo s3cret >&2; exit 3", PATIENCE), "`/bin/sh` ended with exit code 3", "by hand");
        refused(sh("echo s3cret; kill -9 $$", PATIENCE), "signal 9", "by hand");
        refused(sh("true", PATIENCE), "is empty", "in one line");
        refused(sh("echo s3cret; exec sleep 600", Duration::from_millis(300)), "did not end within 0.3 s", "by hand");
        refused(sh("while :; do echo s3cret; done", PATIENCE), "more than 64 KiB", "by hand");
        for program in ["bb-no-such-program", "./here", "bin/here"] {
            refused(of_command(&[program.into()], Path::new("/"), PATIENCE), "not on this machine", "whole path");
        }
    }
}
