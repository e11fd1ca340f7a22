//! What the commands have in common in printing: results, errors, tables, an agent's own output.
//!
//! The only place of the program, beside `bb run`, that writes to the standard streams. It decides nothing but form.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::error::{Error, Result};
use crate::launch::COLORS;
use crate::lua::errors::{Report, Sources};
use crate::lua::log::Output;
use crate::printable::printable;

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

pub use crate::lua::agent_output::AgentOutput;
use crate::lua::agent_output::written;

/// A table for people: a head, columns as wide as their widest cell.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<&'static str>,
    /// Which columns are figures, written to the right.
    figures: Vec<bool>,
    rows: Vec<Vec<String>>,
    /// How the first cell of a row is shown, by the number of the row: an SGR parameter.
    tints: BTreeMap<usize, u8>,
}

impl Table {
    /// Starts a table; a column whose name begins with `>` holds figures.
    pub fn new(columns: &[&'static str]) -> Table {
        Table {
            head: columns.iter().map(|c| c.trim_start_matches('>')).collect(),
            figures: columns.iter().map(|c| c.starts_with('>')).collect(),
            rows: Vec::new(),
            tints: BTreeMap::new(),
        }
    }

    /// Shows the first cell of the row that was added last in one of the sixteen ANSI colours (ECMA-48 SGR 30 to 37, and 90
    /// to 97 for the bright ones).
    pub fn tint(&mut self, color: &str) {
        let number = COLORS.iter().position(|known| *known == color).and_then(|at| u8::try_from(at).ok());
        if let (Some(number), Some(row)) = (number, self.rows.len().checked_sub(1)) {
            self.tints.insert(row, if number < 8 { 30 + number } else { 90 + number - 8 });
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
        for (number, row) in self.rows.iter().enumerate() {
            let written = line(row);
            match (self.tints.get(&number).filter(|_| bold), row.first()) {
                (Some(tint), Some(first)) if written.starts_with(first.as_str()) => {
                    text.push_str(&format!("\x1b[{tint}m{first}\x1b[0m{}\n", &written[first.len()..]));
                }
                _ => text.push_str(&format!("{written}\n")),
            }
        }
        text
    }
}

/// Tells whether colours may be used on standard output.
pub fn colour() -> bool {
    Output::of_process(false, false).colour
}

pub use crate::budget::grouped;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

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
