//! What the commands have in common in printing: results, errors, tables, an agent's own output.
//!
//! The only place of the program, beside `bb run`, that writes to the standard streams. It decides nothing but form.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::lua::errors::{Report, Sources};
use crate::lua::log::{Output, printable};

/// Runs a command's work to its exit code; an error is shown and decides the code.
pub fn block_on(work: impl Future<Output = Result<u8>>) -> u8 {
    // One thread is enough for a front end, and starts faster.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Error::internal(format!("no runtime: {e}"))),
    };
    let code = runtime.block_on(work).unwrap_or_else(|error| fail(&error));
    runtime.shutdown_background();
    code
}

/// Shows an error on standard error and gets its exit code.
pub fn fail(error: &Error) -> u8 {
    let colour = Output::of_process(false, false).colour_err;
    let _ = io::stderr().lock().write_all(rendered(error, colour).as_bytes());
    error.kind.exit_code()
}

/// Writes an error as people see it. It may quote what an agent chose, so it is made fit for a terminal.
fn rendered(error: &Error, colour: bool) -> String {
    let safe = |text: &String| printable(text, false);
    let error = Error {
        kind: error.kind,
        message: safe(&error.message),
        place: error.place.as_ref().map(safe),
        hint: error.hint.as_ref().map(safe),
    };
    Report::from(error).render(&Sources::new(), colour)
}

/// Writes a line for people to standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text, false));
}

/// Writes a line of results to standard output.
///
/// # Errors
/// `internal` where it cannot be written. A reader that went away is no error: it ends the process with 0.
pub fn print(line: &str) -> Result<()> {
    write(io::stdout().lock(), &format!("{line}\n"))
}

/// Writes a JSON value as a line of its own.
///
/// # Errors
/// As [`print`].
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    print(&serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?)
}

fn write(to: impl Write, text: &str) -> Result<()> {
    if written(to, text)? {
        return Ok(());
    }
    // `bb logs x | head` has got what it wanted.
    std::process::exit(0)
}

/// Writes; returns whether somebody reads it.
fn written(mut to: impl Write, text: impl AsRef<[u8]>) -> Result<bool> {
    match to.write_all(text.as_ref()).and_then(|()| to.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::internal(format!("the output cannot be written: {e}"))),
    }
}

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
    /// As [`print`].
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
    /// As [`print`].
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
    /// As [`print`].
    pub fn finish(mut self) -> Result<()> {
        write(io::stdout().lock(), &self.out.end())?;
        write(io::stderr().lock(), &self.err.end())
    }
}

/// A table for people: a head, columns as wide as their widest cell.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<&'static str>,
    /// Which columns are figures, written to the right.
    figures: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table; a column whose name begins with `>` holds figures.
    pub fn new(columns: &[&'static str]) -> Table {
        Table {
            head: columns.iter().map(|c| c.trim_start_matches('>')).collect(),
            figures: columns.iter().map(|c| c.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Cells may hold text of an agent: they are made one line each and fit for a terminal.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|c| printable(&c.replace(['\n', '\t'], " "), false)).collect());
    }

    /// Writes it, each line with its newline.
    pub fn render(&self, bold: bool) -> String {
        let head: Vec<String> = self.head.iter().map(|h| (*h).to_owned()).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|i| {
                let cells = std::iter::once(&head).chain(&self.rows).filter_map(|r| r.get(i));
                cells.map(|c| c.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).zip(&self.figures).map(|((cell, &width), &figure)| {
                if figure { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let head = line(&head);
        let mut text = if bold { format!("\x1b[1m{head}\x1b[0m\n") } else { format!("{head}\n") };
        for row in &self.rows {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }
}

/// Tells whether colours may be used on standard output.
pub fn colour() -> bool {
    Output::of_process(false, false).colour
}

/// Writes a figure with commas between its thousands.
pub fn grouped(figure: u64) -> String {
    let digits = figure.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

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

    #[test]
    fn tables_align_and_keep_one_row_on_one_line() {
        let mut table = Table::new(&["SLUG", ">TOKENS", "REASON"]);
        table.row(vec!["fix-42".into(), grouped(1_234_567), "a\nb\x1b[2J".into()]);
        table.row(vec!["x".into(), grouped(0), String::new()]);
        assert_eq!(
            table.render(false),
            "SLUG       TOKENS  REASON\nfix-42  1,234,567  a b\\x1b[2J\nx               0\n"
        );
    }

    #[test]
    fn figures_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 100_000, 1_000_000].map(grouped), ["0", "999", "1,000", "100,000", "1,000,000"]);
    }

    #[test]
    fn an_error_says_kind_place_and_remedy_and_is_no_way_to_a_terminal() {
        let error = Error::new(Kind::NoSuchBottle, "there is no bottle `\x1b]0;x\x07`").at("here").hint("look");
        assert_eq!(
            rendered(&error, false),
            "error[no_such_bottle]: there is no bottle `\\x1b]0;x\\x07`\n  = at: here\n  = hint: look\n"
        );
    }
}
