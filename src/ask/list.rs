//! Lists: one line each, narrowed by what is typed, at most a screenful.

use std::fmt::Write;

use super::{Key, Raw, away, fuzzy, need_somebody, next_key, show};
use crate::error::Result;
use crate::printable::printable;

/// Most lines of a list that are shown at once.
const LINES: usize = 12;

/// How far notes are moved to the right so that they stand below each other.
const WIDEST_NAME: usize = 24;

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// What is typed and given back.
    pub name: String,
    /// More about it.
    #[serde(default)]
    pub note: String,
}

/// What is on the screen.
struct List<'a> {
    title: &'a str,
    items: &'a [Item],
    query: String,
    /// Positions of the items that fit, the best first.
    fits: Vec<usize>,
    /// Which of them the cursor is on.
    at: usize,
    /// Positions of the ones that were chosen, in their order; `None` where one is picked.
    chosen: Option<Vec<usize>>,
}

/// Lets somebody pick one item; gets its position. `start` is where the cursor stands first.
///
/// # Errors
/// `approval` without a terminal, `interrupted` on Esc or Ctrl-C.
pub fn pick(title: &str, items: &[Item], start: usize) -> Result<usize> {
    need_somebody(title)?;
    let mut list = List { title, items, query: String::new(), fits: Vec::new(), at: start, chosen: None };
    list.narrow(start);
    let raw = Raw::enter()?;
    loop {
        show(&list.picture(size()))?;
        match next_key()? {
            Key::Enter => {
                if let Some(&position) = list.fits.get(list.at) {
                    show(&format!("\r\x1b[J{}: {}\r\n", printable(title, false), items[position].name))?;
                    drop(raw);
                    return Ok(position);
                }
            }
            Key::Away => {
                show("\r\x1b[J")?;
                return Err(away());
            }
            key => list.take(key),
        }
    }
}

/// Lets somebody choose any number of items, in an order; gets their positions. `chosen` are chosen first; `none` is what is
/// said where none is.
///
/// # Errors
/// As [`pick`].
pub fn choose(title: &str, items: &[Item], chosen: Vec<usize>, none: &str) -> Result<Vec<usize>> {
    need_somebody(title)?;
    let mut list = List { title, items, query: String::new(), fits: Vec::new(), at: 0, chosen: Some(chosen) };
    list.narrow(0);
    let raw = Raw::enter()?;
    loop {
        show(&list.picture(size()))?;
        match next_key()? {
            Key::Enter => {
                let chosen = list.chosen.unwrap_or_default();
                let names: Vec<&str> = chosen.iter().map(|&i| items[i].name.as_str()).collect();
                let said = if names.is_empty() { printable(none, false) } else { names.join(" < ") };
                show(&format!("\r\x1b[J{}: {said}\r\n", printable(title, false)))?;
                drop(raw);
                return Ok(chosen);
            }
            Key::Away => {
                show("\r\x1b[J")?;
                return Err(away());
            }
            key => list.take(key),
        }
    }
}

/// Gets the window's columns and lines; a window that says nothing has 80 and 24.
pub fn size() -> (usize, usize) {
    let (columns, lines) = crossterm::terminal::size().unwrap_or_default();
    let or = |n: u16, else_: usize| if n == 0 { else_ } else { usize::from(n) };
    (or(columns, 80), or(lines, 24))
}

impl List<'_> {
    /// Finds what fits, and puts the cursor on one of it.
    fn narrow(&mut self, at: usize) {
        self.fits = fuzzy::rank(&self.query, self.items.iter().map(|item| item.name.as_str()));
        self.at = at.min(self.fits.len().saturating_sub(1));
    }

    fn take(&mut self, key: Key) {
        match key {
            Key::Char(' ') | Key::Tab if self.chosen.is_some() => self.toggle(),
            Key::Char(c) => {
                self.query.push(c);
                self.narrow(0);
            }
            Key::Backspace => {
                self.query.pop();
                self.narrow(0);
            }
            Key::Clear => {
                self.query.clear();
                self.narrow(0);
            }
            Key::Up => self.at = self.at.checked_sub(1).unwrap_or(self.fits.len().saturating_sub(1)),
            Key::Down => self.at = if self.at + 1 < self.fits.len() { self.at + 1 } else { 0 },
            _ => {}
        }
    }

    /// Chooses the item under the cursor, behind the others, or takes it back.
    fn toggle(&mut self) {
        let (Some(chosen), Some(&position)) = (&mut self.chosen, self.fits.get(self.at)) else { return };
        match chosen.iter().position(|&i| i == position) {
            Some(place) => {
                chosen.remove(place);
            }
            None => chosen.push(position),
        }
    }

    /// Draws the list and leaves the cursor at its beginning, so that the next picture covers this one.
    fn picture(&self, (columns, lines): (usize, usize)) -> String {
        let width = columns.saturating_sub(1).max(1);
        let cut = |text: &str| printable(text, false).chars().take(width).collect::<String>();
        let keys = match self.chosen {
            None => "type to narrow, arrows, Enter",
            Some(_) => "type to narrow, Space chooses in merge order, Enter goes on",
        };
        // What is typed is seen in any case; in a narrow window before what the keys are.
        let head = format!("{} ({keys}) {}", self.title, self.query);
        let fits = head.chars().count() <= width;
        let mut rows = vec![cut(&if fits { head } else { format!("{}: {}", self.title, self.query) })];
        let room = lines.saturating_sub(3).clamp(1, LINES);
        let first = (self.at + 1).saturating_sub(room);
        let shown = || self.fits.iter().skip(first).take(room).map(|&position| &self.items[position]);
        // Notes stand below each other.
        let names = shown().map(|item| item.name.chars().count()).max().unwrap_or(0).min(WIDEST_NAME);
        for (i, &position) in self.fits.iter().enumerate().skip(first).take(room) {
            let item = &self.items[position];
            let mark = match &self.chosen {
                None => String::new(),
                Some(chosen) => match chosen.iter().position(|&c| c == position) {
                    Some(place) => format!("[{}] ", place + 1),
                    None => "[ ] ".to_owned(),
                },
            };
            let pointer = if i == self.at { "> " } else { "  " };
            let note = if item.note.is_empty() { String::new() } else { format!("  {}", item.note) };
            let name = if note.is_empty() { item.name.clone() } else { format!("{:names$}", item.name) };
            let row = cut(&format!("{pointer}{mark}{name}{note}").replace(['\n', '\t'], " "));
            rows.push(if i == self.at { format!("\x1b[7m{row}\x1b[0m") } else { row });
        }
        if self.fits.is_empty() {
            rows.push(cut("  nothing fits"));
        } else if self.fits.len() > room {
            rows.push(cut(&format!("  ... {} in all", self.fits.len())));
        }
        let mut text = String::from("\r\x1b[J");
        for (i, row) in rows.iter().enumerate() {
            let end = if i + 1 < rows.len() { "\r\n" } else { "\r" };
            let _ = write!(text, "{row}{end}");
        }
        if rows.len() > 1 {
            let _ = write!(text, "\x1b[{}A", rows.len() - 1);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(names: &[&str]) -> Vec<Item> {
        names.iter().map(|name| Item { name: (*name).to_owned(), note: format!("about {name}") }).collect()
    }

    #[test]
    fn what_is_typed_narrows_and_what_is_chosen_keeps_its_order() {
        let items = items(&["base", "dev", "docs"]);
        let mut list =
            List { title: "Bottles", items: &items, query: String::new(), fits: vec![], at: 0, chosen: Some(vec![1]) };
        list.narrow(0);
        list.take(Key::Char('d'));
        assert_eq!(list.fits, [1, 2]);
        list.take(Key::Down);
        list.take(Key::Char(' '));
        list.take(Key::Clear);
        list.take(Key::Tab);
        assert_eq!(list.chosen, Some(vec![1, 2, 0]));
        list.take(Key::Tab);
        assert_eq!(list.chosen, Some(vec![1, 2]));
        list.take(Key::Up);
        assert_eq!(list.at, 2, "it goes round");
    }

    #[test]
    fn a_narrow_window_gets_short_lines_and_a_low_one_few() {
        let items = items(&["a", "b", "c", "d", "e", "f"]);
        let mut list = List { title: "Agents", items: &items, query: String::new(), fits: vec![], at: 5, chosen: None };
        list.narrow(5);
        let picture = list.picture((20, 5));
        let rows: Vec<&str> = picture.split("\r\n").collect();
        assert_eq!(rows.len(), 4, "{picture:?}");
        let plain = |row: &str| row.replace("\x1b[7m", "").replace("\x1b[0m", "").replace("\r\x1b[J", "");
        assert!(rows[..3].iter().all(|row| plain(row).chars().count() < 20), "{rows:?}");
        assert!(picture.contains("> f"), "the cursor is in sight: {picture:?}");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let items = vec![Item { name: "x".into(), note: "\x1b]52;c;aGk=\x07".into() }];
        let mut list = List { title: "A", items: &items, query: String::new(), fits: vec![], at: 0, chosen: None };
        list.narrow(0);
        assert!(list.picture((80, 24)).contains("\\x1b]52"), "{:?}", list.picture((80, 24)));
    }
}
