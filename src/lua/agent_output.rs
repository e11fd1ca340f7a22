//! An agent's own output on its way to this process's standard streams: escaped before a terminal, fenced before a CI log,
//! else as it came. It must never reach a terminal raw from here; only an attached terminal does that.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use super::log::Output;
use crate::error::{Error, Result};
use crate::printable::printable;

/// What has to be done to an agent's text on its way to one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Nothing: a file or a program reads it.
    Raw,
    /// A terminal would obey control sequences.
    Terminal { colour: bool },
    /// A CI runner takes some lines for commands of its own.
    Fenced,
}

/// One standard stream for untrusted text that comes in pieces.
#[derive(Debug)]
struct Guarded {
    form: Form,
    /// The end of what came, when only what comes next tells what it is.
    held: String,
    at_line_start: bool,
    /// A colour may still be on.
    coloured: bool,
}

impl Guarded {
    fn of(stream: &impl AsFd, terminal: bool, colour: bool, ci: bool) -> Guarded {
        let is_file = || {
            let fd = stream.as_fd().try_clone_to_owned();
            fd.and_then(|fd| File::from(fd).metadata()).is_ok_and(|m| m.is_file())
        };
        Guarded::new(match terminal {
            true => Form::Terminal { colour },
            // A pipe may be the log; a file certainly is none.
            false if ci && !is_file() => Form::Fenced,
            false => Form::Raw,
        })
    }

    fn new(form: Form) -> Guarded {
        Guarded { form, held: String::new(), at_line_start: true, coloured: false }
    }

    /// Takes a piece and gets what can be written of it and of what was held.
    fn feed(&mut self, piece: &str) -> String {
        if self.form == Form::Raw {
            return piece.to_owned();
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        if let Form::Terminal { colour } = self.form {
            let whole = whole_sequences(&text);
            self.held = text.split_off(whole);
            let text = printable(&text, colour);
            self.coloured |= text.contains('\x1b');
            return text;
        }
        let mut out = String::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let end = rest.find(['\n', '\r']).map(|at| at + 1);
            let line = &rest[..end.unwrap_or(rest.len())];
            if self.at_line_start {
                let start = line.trim_start_matches([' ', '\t']);
                if end.is_none() && ["::", "##["].iter().any(|c| c.len() > start.len() && c.starts_with(start)) {
                    self.held = line.to_owned();
                    break;
                }
                if start.starts_with("::") || start.starts_with("##[") {
                    out.push_str("| ");
                }
            }
            out.push_str(line);
            self.at_line_start = end.is_some();
            rest = &rest[line.len()..];
        }
        out
    }

    /// Gets what is still to be written when nothing more comes.
    fn end(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        match self.form {
            Form::Terminal { .. } if self.coloured => printable(&held, false) + "\x1b[0m",
            Form::Terminal { .. } => printable(&held, false),
            Form::Raw | Form::Fenced => held,
        }
    }
}

/// Gets the length of `text` without an end that may be the beginning of a colour sequence or of a line's end.
fn whole_sequences(text: &str) -> usize {
    if text.ends_with('\r') {
        return text.len() - 1;
    }
    match text.rfind('\x1b') {
        Some(at)
            if text.len() - at < 18
                && text[at + 1..]
                    .chars()
                    .enumerate()
                    .all(|(i, c)| if i == 0 { c == '[' } else { c.is_ascii_digit() || c == ';' }) =>
        {
            at
        }
        _ => text.len(),
    }
}

/// Standard output and error for what an agent or a command in a bottle writes.
#[derive(Debug)]
pub struct AgentOutput {
    out: Guarded,
    err: Guarded,
}

impl AgentOutput {
    /// Makes it for what the standard streams are: escaped before a terminal, fenced before a CI log, else as it came.
    pub fn of_process() -> AgentOutput {
        let colours = Output::of_process(false, false);
        let (out, err) = (io::stdout(), io::stderr());
        AgentOutput {
            out: Guarded::of(&out, out.is_terminal(), colours.colour, colours.fenced),
            err: Guarded::of(&err, err.is_terminal(), colours.colour_err, colours.fenced),
        }
    }

    /// Writes a piece of output; `stream` is the frame's. Returns whether somebody still reads.
    ///
    /// # Errors
    /// `internal` where it cannot be written.
    pub fn write(&mut self, stream: &str, text: &str) -> Result<bool> {
        if stream == "stderr" {
            written(io::stderr().lock(), self.err.feed(text))
        } else {
            written(io::stdout().lock(), self.out.feed(text))
        }
    }

    /// As [`AgentOutput::write`]; a program or a file gets the bytes themselves, where they are known.
    ///
    /// # Errors
    /// `internal` where it cannot be written.
    pub fn write_bytes(&mut self, stream: &str, text: &str, bytes: Option<&[u8]>) -> Result<bool> {
        let of_err = stream == "stderr";
        let form = if of_err { self.err.form } else { self.out.form };
        match bytes {
            Some(bytes) if form == Form::Raw && of_err => written(io::stderr().lock(), bytes),
            Some(bytes) if form == Form::Raw => written(io::stdout().lock(), bytes),
            _ => self.write(stream, text),
        }
    }

    /// Writes what was held back.
    ///
    /// # Errors
    /// `internal` where it cannot be written.
    pub fn finish(mut self) -> Result<()> {
        written(io::stdout().lock(), self.out.end())?;
        written(io::stderr().lock(), self.err.end()).map(|_| ())
    }
}

/// Writes; returns whether somebody reads it.
///
/// # Errors
/// `internal` where it cannot be written. A reader that went away is no error.
pub fn written(mut to: impl Write, text: impl AsRef<[u8]>) -> Result<bool> {
    match to.write_all(text.as_ref()).and_then(|()| to.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::internal(format!("the output cannot be written: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(form: Form, pieces: &[&str]) -> String {
        let mut stream = Guarded::new(form);
        let mut out: String = pieces.iter().map(|p| stream.feed(p)).collect();
        out.push_str(&stream.end());
        out
    }

    #[test]
    fn a_terminal_never_gets_what_it_would_obey_however_it_is_cut() {
        let colour = Form::Terminal { colour: true };
        assert_eq!(fed(colour, &["a\x1b", "[3", "1mb\r", "\nc"]), "a\x1b[31mb\nc\x1b[0m");
        assert_eq!(fed(colour, &["a\x1b", "[2Jb\x1b]0;t\x07"]), "a\\x1b[2Jb\\x1b]0;t\\x07");
        assert_eq!(fed(Form::Terminal { colour: false }, &["\x1b[1", "mx\x1b[0m \x1b["]), "x \\x1b[");
        let long = format!("\x1b[{}", "1;".repeat(40));
        assert_eq!(fed(colour, &[&long]), format!("\\x1b[{}", "1;".repeat(40)));
    }

    #[test]
    fn a_program_gets_every_byte() {
        assert_eq!(fed(Form::Raw, &["\x1b[2J", "::set-env\n", "\r"]), "\x1b[2J::set-env\n\r");
    }

    #[test]
    fn a_ci_runner_gets_no_commands_however_they_are_cut() {
        let pieces = ["a:", ":b\n ", " :", ":set-output x\n##", "[error]y\r::z\n:"];
        assert_eq!(fed(Form::Fenced, &pieces), "a::b\n|   ::set-output x\n| ##[error]y\r| ::z\n:");
    }
}
