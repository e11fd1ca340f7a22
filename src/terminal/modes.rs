//! Which modes a program has switched on in a terminal, from the sequences that [`super::filter`] lets through.
//!
//! So that all can be switched off when its terminal is left, and on again when somebody else's comes in its place. What is
//! drawn is [`super::screen`]'s. Bounded; does no I/O.

use std::collections::BTreeSet;

/// Insert mode, the only one of the modes without a marker that passes.
pub const INSERT: u16 = 4;

/// The private modes that pass: cursor keys, reverse video, origin, wrapping, blinking and shown cursor, the alternate screen
/// in its forms, the mouse, focus, pasting in brackets, drawing at once, clusters.
pub const PRIVATE: [u16; 21] =
    [1, 5, 6, 7, 12, 25, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1047, 1048, 1049, 2004, 2026];

/// Those that are on where nobody has switched them.
const USUALLY_ON: [u16; 2] = [7, 25];

/// The alternate screen.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// Those by which the terminal tells things unasked.
const TELLING: [u16; 4] = [1000, 1002, 1003, 1004];

/// Saves and restores the cursor; neither on nor off.
const SAVE_CURSOR: u16 = 1048;

/// Most entries of the keyboard's stack that are kept.
const DEEPEST: usize = 16;

/// The kitty keyboard flags of one screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Keyboard {
    base: u16,
    pushed: Vec<u16>,
}

impl Keyboard {
    fn top(&mut self) -> &mut u16 {
        self.pushed.last_mut().unwrap_or(&mut self.base)
    }

    fn control(&mut self, marker: u8, first: u16, second: u16) {
        match marker {
            b'>' => {
                if self.pushed.len() < DEEPEST {
                    self.pushed.push(first);
                }
            }
            b'<' => {
                for _ in 0..first.max(1).min(DEEPEST as u16) {
                    self.pushed.pop();
                }
            }
            _ => match second {
                2 => *self.top() |= first,
                3 => *self.top() &= !first,
                _ => *self.top() = first,
            },
        }
    }

    fn off(&self, out: &mut String) {
        if !self.pushed.is_empty() {
            out.push_str(&format!("\x1b[<{}u", self.pushed.len()));
        }
        if self.base != 0 {
            out.push_str("\x1b[=0u");
        }
    }

    fn on(&self, out: &mut String) {
        if self.base != 0 {
            out.push_str(&format!("\x1b[={}u", self.base));
        }
        for flags in &self.pushed {
            out.push_str(&format!("\x1b[>{flags}u"));
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Private modes that are not as usual.
    changed: BTreeSet<u16>,
    insert: bool,
    keypad: bool,
    /// A scrolling region.
    region: bool,
    /// A character set other than ASCII may be chosen.
    characters: bool,
    /// A shape of the cursor.
    shape: u16,
    /// xterm's modifyOtherKeys, as it was asked for.
    modified_keys: Option<String>,
    /// By screen: the main one, the alternate one.
    keyboard: [Keyboard; 2],
    /// A title was set.
    pub titled: bool,
    /// A link is open.
    pub linked: bool,
    /// A progress bar is shown.
    pub progress: bool,
}

impl Modes {
    /// Notes a mode that was switched.
    pub(super) fn switch(&mut self, private: bool, mode: u16, on: bool) {
        if !private {
            self.insert = on;
        } else if mode == SAVE_CURSOR {
        } else if on == USUALLY_ON.contains(&mode) {
            self.changed.remove(&mode);
        } else {
            self.changed.insert(mode);
        }
    }

    /// Notes an escape sequence.
    pub(super) fn escape(&mut self, held: &[u8], last: u8) {
        match (held, last) {
            (b"", b'=') => self.keypad = true,
            (b"", b'>') => self.keypad = false,
            // A reset of everything but the title.
            (b"", b'c') => *self = Modes { titled: self.titled, ..Modes::default() },
            ([b'(' | b')' | b'*' | b'+'], set) => self.characters |= set != b'B',
            _ => {}
        }
    }

    /// Notes a control sequence.
    pub(super) fn control(&mut self, marker: Option<u8>, parameters: &[u8], intermediates: &[u8], last: u8) {
        let text = String::from_utf8_lossy(parameters);
        let mut numbers = text.split(';').map(|n| n.parse::<u16>().unwrap_or(0));
        let (first, second) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        match (marker, intermediates, last) {
            (None, b"", b'r') => self.region = !text.is_empty(),
            (None, b" ", b'q') => self.shape = first,
            (None, b"!", b'p') => {
                self.insert = false;
                self.keypad = false;
                self.region = false;
                for mode in [1, 6] {
                    self.changed.remove(&mode);
                }
                self.changed.remove(&25);
            }
            (Some(b'>'), b"", b'm') => self.modified_keys = (second > 0).then(|| text.into_owned()),
            (Some(marker), b"", b'u') => self.keyboard[usize::from(self.is_alternate())].control(marker, first, second),
            _ => {}
        }
    }

    /// Tells whether the alternate screen is shown.
    pub fn is_alternate(&self) -> bool {
        ALTERNATE.iter().any(|mode| self.changed.contains(mode))
    }

    /// Tells whether the terminal may have things to tell unasked: mouse and focus.
    pub fn is_telling(&self) -> bool {
        TELLING.iter().any(|mode| self.changed.contains(mode))
    }

    /// Gets what switches everything off.
    pub fn off(&self) -> String {
        let mut out = String::new();
        if self.is_alternate() {
            self.keyboard[1].off(&mut out);
        }
        let (alternate, others): (Vec<u16>, Vec<u16>) = self.changed.iter().partition(|mode| ALTERNATE.contains(mode));
        for mode in others.iter().chain(&alternate) {
            let last = if USUALLY_ON.contains(mode) { 'h' } else { 'l' };
            out.push_str(&format!("\x1b[?{mode}{last}"));
        }
        self.keyboard[0].off(&mut out);
        for (on, sequence) in [
            (self.linked, "\x1b]8;;\x1b\\"),
            (self.insert, "\x1b[4l"),
            // Leaving a region moves the cursor.
            (self.region, "\x1b7\x1b[r\x1b8"),
            (self.characters, "\x1b(B\x0f"),
            (self.keypad, "\x1b>"),
            (self.shape != 0, "\x1b[0 q"),
            (self.modified_keys.is_some(), "\x1b[>4m"),
            (self.progress, "\x1b]9;4;0\x1b\\"),
            (self.titled, "\x1b[23;0t"),
        ] {
            if on {
                out.push_str(sequence);
            }
        }
        // These two are always put right, whatever was seen.
        out.push_str("\x1b[0m\x1b[?25h");
        out
    }

    /// Gets what switches them on in a terminal that is as usual, in two parts: before and after the screen is drawn.
    pub fn on(&self) -> (String, String) {
        let (mut before, mut after) = (String::new(), String::new());
        self.keyboard[0].on(&mut before);
        for mode in &self.changed {
            let last = if USUALLY_ON.contains(mode) { 'l' } else { 'h' };
            let out = if ALTERNATE.contains(mode) { &mut before } else { &mut after };
            out.push_str(&format!("\x1b[?{mode}{last}"));
        }
        if self.is_alternate() {
            self.keyboard[1].on(&mut before);
        }
        for (on, sequence) in [(self.insert, "\x1b[4h"), (self.keypad, "\x1b=")] {
            if on {
                after.push_str(sequence);
            }
        }
        if self.shape != 0 {
            after.push_str(&format!("\x1b[{} q", self.shape));
        }
        if let Some(keys) = &self.modified_keys {
            after.push_str(&format!("\x1b[>{keys}m"));
        }
        (before, after)
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter::{Filter, Piece};
    use super::*;

    fn after(text: &str) -> Modes {
        let mut filter = Filter::default();
        let _: Vec<Piece> = filter.feed(text.as_bytes());
        filter.modes
    }

    #[test]
    fn what_was_switched_on_is_switched_off_and_nothing_else() {
        assert_eq!(after("text").off(), "\x1b[0m\x1b[?25h");
        let all =
            "\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[?25l\x1b[?1000;1006h\x1b[?2004h\x1b[?1004h\x1b=\x1b[?1h\x1b[2 q\x1b[>4;2m";
        let modes = after(all);
        assert!(modes.is_alternate() && modes.is_telling());
        let off = modes.off();
        for part in
            ["\x1b[?1000l", "\x1b[?1006l", "\x1b[?2004l", "\x1b[?1004l", "\x1b[?1l", "\x1b[?25h", "\x1b>", "\x1b[>4m"]
        {
            assert!(off.contains(part), "{part:?} in {off:?}");
        }
        // The keyboard of each screen while that screen is shown.
        assert!(off.find("\x1b[<1u").unwrap() < off.find("\x1b[?1049l").unwrap(), "{off:?}");
        assert!(off.rfind("\x1b[<1u").unwrap() > off.find("\x1b[?1049l").unwrap(), "{off:?}");
        // What switches it off leaves nothing on; what switches it on again gives the same.
        assert_eq!(after(&format!("{all}{off}")).off(), "\x1b[0m\x1b[?25h");
        let (before, later) = modes.on();
        assert_eq!(after(&format!("{before}{later}")).off(), off);
    }

    #[test]
    fn a_reset_switches_off_and_the_stack_is_bounded() {
        assert_eq!(after("\x1b[?1000h\x1b[?7l\x1b=\x1bc").off(), Modes::default().off());
        let modes = after(&"\x1b[>1u".repeat(1000));
        assert_eq!(modes.keyboard[0].pushed.len(), DEEPEST);
    }
}
