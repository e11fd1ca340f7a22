//! What a program in a bottle is told that asks about its terminal: constants, and what the screen model knows.
//!
//! The person's own terminal is never asked: its answers would be typed to whoever reads next, their shell for one.

use super::filter::Question;
use crate::types::TerminalSize;

/// Gets the answer to a question; `cursor` is where the cursor is, from 0.
pub fn answer(question: Question, size: TerminalSize, cursor: (u16, u16)) -> Vec<u8> {
    let (row, col) = (cursor.0.saturating_add(1), cursor.1.saturating_add(1));
    let text = match question {
        // A VT220 with colours.
        Question::Attributes => "\x1b[?62;22c".to_owned(),
        Question::Version => "\x1b[>1;10;0c".to_owned(),
        Question::Name => format!("\x1bP>|bb {}\x1b\\", env!("CARGO_PKG_VERSION")),
        Question::Status => "\x1b[0n".to_owned(),
        Question::Cursor(false) => format!("\x1b[{row};{col}R"),
        Question::Cursor(true) => format!("\x1b[?{row};{col}R"),
        Question::Size => format!("\x1b[8;{};{}t", size.rows, size.cols),
        // Not known: programs then do without.
        Question::Mode(mode, true) => format!("\x1b[?{mode};0$y"),
        Question::Mode(mode, false) => format!("\x1b[{mode};0$y"),
        // Light on dark, as most are.
        Question::Colour(11) => "\x1b]11;rgb:1c1c/1c1c/1c1c\x1b\\".to_owned(),
        Question::Colour(number) => format!("\x1b]{number};rgb:d0d0/d0d0/d0d0\x1b\\"),
        Question::Setting => "\x1bP0$r\x1b\\".to_owned(),
        Question::Capability => "\x1bP0+r\x1b\\".to_owned(),
    };
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_short_and_quotes_nothing_that_the_agent_wrote() {
        let size = TerminalSize { rows: 24, cols: 80 };
        assert_eq!(answer(Question::Cursor(false), size, (2, 4)), b"\x1b[3;5R");
        assert_eq!(answer(Question::Size, size, (0, 0)), b"\x1b[8;24;80t");
        assert_eq!(answer(Question::Mode(2026, true), size, (0, 0)), b"\x1b[?2026;0$y");
        for question in [Question::Attributes, Question::Name, Question::Colour(11), Question::Setting] {
            let answer = answer(question, size, (u16::MAX, u16::MAX));
            assert!(answer.len() < 40 && answer.starts_with(b"\x1b"), "{answer:?}");
        }
    }
}
