//! Questions at a terminal: pick one of a list, choose several in an order, type a line, yes or no.
//!
//! Asks on standard error and reads standard input, both of which must be terminals: without one nothing is ever asked.
//! Esc and Ctrl-C are an answer, `interrupted`. Whatever happens, the terminal is left as it was. Knows nothing of what
//! is asked.

mod fuzzy;
mod list;

use std::io::{self, IsTerminal, Write};

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

pub use list::{Item, choose, pick, size};

use crate::error::{Error, Kind, Result};
use crate::printable::printable;

/// Longest line that may be typed, characters.
const LONGEST_LINE: usize = 4096;

/// Tells whether somebody can be asked.
pub fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Checks that somebody can be asked `question`.
///
/// # Errors
/// `approval`.
fn need_somebody(question: &str) -> Result<()> {
    if somebody_is_there() {
        return Ok(());
    }
    Err(Error::new(Kind::Approval, format!("nobody is there to be asked: {}", printable(question, false)))
        .hint("run it at a terminal, or give the answer on the command line"))
}

/// Asks for a line; an empty one is `default`.
///
/// # Errors
/// `approval` without a terminal, `interrupted` on Esc or Ctrl-C.
pub fn line(question: &str, default: &str) -> Result<String> {
    need_somebody(question)?;
    let shown = if default.is_empty() { String::new() } else { format!(" [{}]", printable(default, false)) };
    let label = format!("{}{shown}: ", printable(question, false));
    let typed = typed(&label)?;
    Ok(if typed.is_empty() { default.to_owned() } else { typed })
}

/// Asks for yes or no; anything but `y` and `yes` is no.
///
/// # Errors
/// As [`line`].
pub fn confirm(question: &str) -> Result<bool> {
    need_somebody(question)?;
    let answer = typed(&format!("{} [y/N] ", printable(question, false)))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Reads a line, key by key.
fn typed(label: &str) -> Result<String> {
    let raw = Raw::enter()?;
    let mut text = String::new();
    loop {
        show(&format!("\r\x1b[J{label}{}", printable(&text, false)))?;
        match next_key()? {
            Key::Char(c) if text.chars().count() < LONGEST_LINE => text.push(c),
            Key::Backspace => {
                text.pop();
            }
            Key::Clear => text.clear(),
            Key::Enter => break,
            Key::Away => {
                show("\r\n")?;
                return Err(away());
            }
            _ => {}
        }
    }
    show("\r\n")?;
    drop(raw);
    Ok(text)
}

/// What a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Char(char),
    Backspace,
    Clear,
    Enter,
    Up,
    Down,
    Tab,
    /// Esc, Ctrl-C, or the terminal is gone.
    Away,
    /// The window changed its size, or something else that only asks for a new picture.
    Other,
}

fn away() -> Error {
    Error::new(Kind::Interrupted, "the question was not answered")
}

/// Waits for the next key.
fn next_key() -> Result<Key> {
    loop {
        let event = match crossterm::event::read() {
            Ok(event) => event,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(Key::Away),
        };
        let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else { return Ok(Key::Other) };
        if kind == KeyEventKind::Release {
            continue;
        }
        let control = modifiers.contains(KeyModifiers::CONTROL);
        return Ok(match code {
            KeyCode::Char('c' | 'd') if control => Key::Away,
            KeyCode::Char('u') if control => Key::Clear,
            KeyCode::Char('n') if control => Key::Down,
            KeyCode::Char('p') if control => Key::Up,
            KeyCode::Char('h') if control => Key::Backspace,
            KeyCode::Char('j' | 'm') if control => Key::Enter,
            KeyCode::Char(c) if !control && !modifiers.contains(KeyModifiers::ALT) => Key::Char(c),
            KeyCode::Backspace => Key::Backspace,
            KeyCode::Enter => Key::Enter,
            KeyCode::Up => Key::Up,
            KeyCode::Down => Key::Down,
            KeyCode::Tab => Key::Tab,
            KeyCode::Esc => Key::Away,
            _ => Key::Other,
        });
    }
}

/// Writes to the person.
fn show(text: &str) -> Result<()> {
    let mut err = io::stderr().lock();
    err.write_all(text.as_bytes())
        .and_then(|()| err.flush())
        .map_err(|e| Error::internal(format!("the terminal cannot be written: {e}")))
}

/// Raw mode, for as long as the value lives.
struct Raw;

impl Raw {
    fn enter() -> Result<Raw> {
        crossterm::terminal::enable_raw_mode()
            .map_err(|e| Error::internal(format!("the terminal's mode cannot be set: {e}")))?;
        Ok(Raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
        // A cursor that was hidden, a colour that was left on.
        let _ = show("\x1b[?25h\x1b[0m");
    }
}
