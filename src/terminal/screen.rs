//! The screen as it is now, from what was written: who attaches late is shown that, and not all that led to it.
//!
//! A model of a terminal without a history, so it is bounded by the terminal's size. Fed only with what [`super::filter`]
//! lets through.

use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::modes::Modes;
use crate::types::TerminalSize;

/// See the module.
pub struct Screen {
    parser: vt100::Parser,
    size: TerminalSize,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("size", &self.size).finish_non_exhaustive()
    }
}

fn parser(size: TerminalSize) -> vt100::Parser {
    let (rows, cols) = sides(size);
    vt100::Parser::new(rows, cols, 0)
}

fn sides(size: TerminalSize) -> (NonZeroU16, NonZeroU16) {
    let size = size.usable();
    (NonZeroU16::new(size.rows).unwrap_or(NonZeroU16::MIN), NonZeroU16::new(size.cols).unwrap_or(NonZeroU16::MIN))
}

impl Screen {
    /// Makes an empty one.
    pub fn new(size: TerminalSize) -> Screen {
        Screen { parser: parser(size), size: size.usable() }
    }

    /// Writes to it.
    pub fn write(&mut self, bytes: &[u8]) {
        self.guarded(|parser| parser.process(bytes));
    }

    /// Gives it another size.
    pub fn resize(&mut self, size: TerminalSize) {
        self.size = size.usable();
        let (rows, cols) = sides(size);
        self.guarded(|parser| parser.set_size(rows, cols));
    }

    /// Gets its size.
    pub fn size(&self) -> TerminalSize {
        self.size
    }

    /// Gets where the cursor is, row and column from 0, within the screen.
    pub fn cursor(&self) -> (u16, u16) {
        let (row, col) = self.parser.screen().cursor_position();
        (row.min(self.size.rows - 1), col.min(self.size.cols - 1))
    }

    /// Gets what draws it in a terminal that is as usual, `modes` switched on. What stood there moves up into its history.
    pub fn painted(&self, modes: &Modes) -> Vec<u8> {
        let (before, after) = modes.on();
        let mut out = "\r\n".repeat(usize::from(self.size.rows)).into_bytes();
        out.extend_from_slice(before.as_bytes());
        let drawn = catch_unwind(AssertUnwindSafe(|| self.parser.screen().contents_formatted()));
        out.extend_from_slice(drawn.unwrap_or_default().as_bytes());
        out.extend_from_slice(after.as_bytes());
        out
    }

    /// The agent chooses what is written: a fault of the model must not end the session, so it begins anew.
    fn guarded(&mut self, work: impl FnOnce(&mut vt100::Parser)) {
        if catch_unwind(AssertUnwindSafe(|| work(&mut self.parser))).is_err() {
            self.parser = parser(self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::filter::{Filter, Piece};
    use super::*;

    fn drawn(size: TerminalSize, bytes: &[u8]) -> (Screen, Modes) {
        let (mut screen, mut filter) = (Screen::new(size), Filter::default());
        for piece in filter.feed(bytes) {
            if let Piece::Pass(bytes) = piece {
                screen.write(&bytes);
            }
        }
        (screen, filter.modes)
    }

    #[test]
    fn what_is_painted_gives_the_same_screen_again() {
        let size = TerminalSize { rows: 5, cols: 20 };
        let text = "one\r\ntwo\x1b[31mred\x1b[0m\x1b[?1049h\x1b[2J\x1b[3;4Hfull \x1b[1mbold\x1b[0m\x1b[?25l\x1b[?2004h";
        let (screen, modes) = drawn(size, text.as_bytes());
        assert_eq!(screen.cursor(), (2, 12));
        let painted = screen.painted(&modes);
        let (again, modes_again) = drawn(size, &painted);
        assert_eq!(again.parser.screen().contents(), screen.parser.screen().contents());
        assert!(again.parser.screen().contents().contains("full bold"));
        assert_eq!((again.cursor(), modes_again.off()), (screen.cursor(), modes.off()));
        assert_eq!(again.painted(&modes_again), painted);
    }

    #[test]
    fn a_terminal_of_any_size_will_do() {
        for (rows, cols) in [(0, 0), (1, 1), (1, 20), (u16::MAX, u16::MAX)] {
            let mut screen = Screen::new(TerminalSize { rows, cols });
            screen.write("grün 🦀 €\r\n\x1b[99;99H.".as_bytes());
            screen.resize(TerminalSize { rows: cols, cols: rows });
            assert!(screen.size().rows >= 1 && screen.size().rows <= TerminalSize::LARGEST.rows);
            assert!(screen.cursor().0 < screen.size().rows && screen.cursor().1 < screen.size().cols);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn no_output_breaks_it(
            bytes in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b';'), Just(b'?'), b'0'..=b'9',
                b'@'..=b'z', Just(b'\n'), any::<u8>()], 0..200),
            sides in (1u16..6, 1u16..6, 1u16..6, 1u16..6),
        ) {
            let (mut screen, modes) = drawn(TerminalSize { rows: sides.0, cols: sides.1 }, &bytes);
            screen.resize(TerminalSize { rows: sides.2, cols: sides.3 });
            screen.write(b"x");
            let (row, col) = screen.cursor();
            prop_assert!(row < sides.2 && col < sides.3);
            let _ = screen.painted(&modes);
        }
    }
}
