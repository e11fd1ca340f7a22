//! What the commands have in common in printing: results, errors, tables, an agent's own output.
//!
//! The only place of the program, beside `bb run`, that writes to the standard streams. It decides nothing but form.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use crate::error::{Error, Result};
use crate::launch::COLORS;
use crate::lua::errors::{Report, Sources};
use crate::lua::log::Output;
use crate::printable::{self, printable};

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

/// Writes a JSON value as a line of its own, which no terminal obeys.
///
/// # Errors
/// As [`print`].
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    print(&printable::json(&serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?))
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

    /// Makes each row one line of a window of so many columns: what does not fit is left out from the right, less the first
    /// `least`. The last column of all and the last that stays may be cut short.
    pub fn fit(mut self, columns: usize, least: usize) -> Table {
        let all = self.head.len();
        loop {
            let widths = self.widths();
            let Some((last, before)) = widths.split_last() else { return self };
            let before: usize = before.iter().map(|width| width + 2).sum();
            if before + last <= columns {
                return self;
            }
            let room = columns.saturating_sub(before);
            let stays = widths.len() <= least;
            if stays || widths.len() == all && room >= READABLE {
                for cell in self.rows.iter_mut().filter_map(|row| row.get_mut(widths.len() - 1)) {
                    *cell = cut(cell, room.max(if stays { LEAST } else { READABLE }));
                }
                return self;
            }
            self.head.pop();
            self.figures.pop();
            for row in &mut self.rows {
                row.truncate(widths.len() - 1);
            }
        }
    }

    fn widths(&self) -> Vec<usize> {
        let width = |(i, head): (usize, &&str)| {
            let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(head.chars().count())
        };
        self.head.iter().enumerate().map(width).collect()
    }

    /// Writes it, each line with its newline.
    pub fn render(&self, bold: bool) -> String {
        let head: Vec<String> = self.head.iter().map(|h| (*h).to_owned()).collect();
        let widths = self.widths();
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

/// Fewer characters of a reason say nothing.
const READABLE: usize = 12;

/// Fewer characters of a state say nothing.
const LEAST: usize = 6;

/// Cuts a text short, and shows that it was.
fn cut(text: &str, room: usize) -> String {
    match text.chars().count() > room {
        true => text.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// Gets the columns of the window that standard output is, if it is one.
pub fn columns() -> Option<usize> {
    let size = if io::stdout().is_terminal() { crate::terminal::size() } else { None };
    size.map(|size| usize::from(size.cols)).filter(|columns| *columns > 0)
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
    fn a_narrow_window_has_one_line_a_row_with_its_name_and_state() {
        let table = || {
            let mut table = Table::new(&["SLUG", "STATE", ">TOKENS", "REASON"]);
            table.row(vec![
                "fix-42".into(),
                "ended: exit 0, kept".into(),
                "1,234".into(),
                "its time of 30m was up".into(),
            ]);
            table.row(vec!["x".into(), "running".into(), "5".into(), String::new()]);
            table
        };
        let lines = |columns| table().fit(columns, 2).render(false).lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(table().fit(80, 2).render(false), table().render(false));
        assert_eq!(lines(50)[1], "fix-42  ended: exit 0, kept   1,234  its time of …");
        assert_eq!(
            lines(40),
            [
                "SLUG    STATE                TOKENS",
                "fix-42  ended: exit 0, kept   1,234",
                "x       running                   5"
            ]
        );
        assert_eq!(lines(20), ["SLUG    STATE", "fix-42  ended: exit…", "x       running"]);
        assert!(lines(5).iter().all(|line| line.contains(' ')), "{:?}", lines(5));
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
