//! What an agent writes, on its way to the terminal of a person: raw, less what the terminal would obey to somebody's harm.
//!
//! An allow-list of control sequences (docs/terminals.md). Taken out: clipboards, files and images sent in escape strings,
//! window changes, printing, character sets that end UTF-8, everything that makes the terminal type an answer. Questions
//! that programs wait for are reported, to be answered without the terminal ([`super::answers`]). A chunk may end anywhere;
//! what is held is bounded. Also keeps which modes are on, so that they can be switched off again.

use super::modes::Modes;

/// Longest control sequence, parameters and all; a longer one is left out.
const LONGEST_SEQUENCE: usize = 256;

/// Longest escape string that passes (a title, a link); a longer one is left out.
const LONGEST_STRING: usize = 2048;

/// Longest title. Unit: characters.
const LONGEST_TITLE: usize = 120;

/// A question to the terminal that programs wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// What terminal it is (DA1).
    Attributes,
    /// Its version (DA2).
    Version,
    /// Its name (XTVERSION).
    Name,
    /// Whether it is well (DSR 5).
    Status,
    /// Where the cursor is (DSR 6); `true` = in the private form.
    Cursor(bool),
    /// How large it is, in characters.
    Size,
    /// Whether a mode is known (DECRQM); `true` = a private one.
    Mode(u16, bool),
    /// The colour of text (10), background (11) or cursor (12).
    Colour(u8),
    /// A setting (DECRQSS).
    Setting,
    /// A capability (XTGETTCAP).
    Capability,
}

/// What comes out of the filter, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// For the terminal.
    Pass(Vec<u8>),
    /// To be answered, as of here.
    Ask(Question),
}

/// Where in the grammar of ECMA-48 the stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Text.
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and intermediates.
    EscapeIntermediate,
    /// In a control sequence.
    Sequence,
    /// In an OSC string; `true` = after an ESC in it.
    Osc(bool),
    /// In a DCS string.
    Dcs(bool),
    /// In a string that never passes (APC, PM, SOS).
    Other(bool),
}

/// The filter of one stream.
#[derive(Debug, Default)]
pub struct Filter {
    state: State,
    /// What the sequence or string holds so far, without its introducer; bounded.
    held: Vec<u8>,
    /// It has become too long.
    too_long: bool,
    /// The beginning of a character.
    character: Vec<u8>,
    /// Which modes are on.
    pub modes: Modes,
    out: Vec<Piece>,
}

impl Filter {
    /// Takes a chunk and gets what comes of it.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<Piece> {
        for &byte in chunk {
            self.byte(byte);
        }
        std::mem::take(&mut self.out)
    }

    fn pass(&mut self, bytes: &[u8]) {
        match self.out.last_mut() {
            Some(Piece::Pass(all)) => all.extend_from_slice(bytes),
            _ => self.out.push(Piece::Pass(bytes.to_vec())),
        }
    }

    fn ask(&mut self, question: Question) {
        self.out.push(Piece::Ask(question));
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.held.clear();
        self.too_long = false;
    }

    fn hold(&mut self, byte: u8, most: usize) {
        if self.held.len() < most {
            self.held.push(byte);
        } else {
            self.too_long = true;
        }
    }

    fn byte(&mut self, byte: u8) {
        match self.state {
            State::Ground => self.text(byte),
            State::Osc(escaped) | State::Dcs(escaped) | State::Other(escaped) => self.string(byte, escaped),
            // These end any sequence, and an escape begins another.
            State::Escape | State::EscapeIntermediate | State::Sequence => match byte {
                0x1b => self.begin(State::Escape),
                0x18 | 0x1a => self.begin(State::Ground),
                // Executed in the midst of a sequence, by terminals that do.
                0x07..=0x0d => self.pass(&[byte]),
                0x00..=0x1f | 0x7f => {}
                0x80.. => {
                    self.begin(State::Ground);
                    self.text(byte);
                }
                _ => self.sequence(byte),
            },
        }
    }

    /// Text, UTF-8. What is none becomes U+FFFD: to a terminal that is set so, bytes from 0x80 on are controls.
    fn text(&mut self, byte: u8) {
        if !self.character.is_empty() {
            self.character.push(byte);
            match std::str::from_utf8(&self.character) {
                Ok(text) => {
                    // The controls of the upper half are sequences in short to some terminals.
                    let control = text.chars().all(|c| ('\u{80}'..='\u{9f}').contains(&c));
                    let whole = std::mem::take(&mut self.character);
                    if !control {
                        self.pass(&whole);
                    }
                }
                Err(e) if e.error_len().is_none() => {}
                Err(_) => {
                    self.character.clear();
                    self.pass("\u{fffd}".as_bytes());
                    if !(0x80..0xc2).contains(&byte) {
                        self.text(byte);
                    }
                }
            }
            return;
        }
        match byte {
            0x1b => self.begin(State::Escape),
            // Bell, backspace, tab, line feeds, return, shifts of the character set.
            0x07..=0x0f | 0x20..=0x7e => self.pass(&[byte]),
            // ENQ asks for an answer; the others do nothing.
            0x00..=0x1f | 0x7f => {}
            0xc2..=0xf4 => self.character.push(byte),
            0x80.. => self.pass("\u{fffd}".as_bytes()),
        }
    }

    fn sequence(&mut self, byte: u8) {
        match (self.state, byte) {
            (State::Escape, b'[') => self.begin(State::Sequence),
            (State::Escape, b']') => self.begin(State::Osc(false)),
            (State::Escape, b'P') => self.begin(State::Dcs(false)),
            (State::Escape, b'X' | b'^' | b'_') => self.begin(State::Other(false)),
            (State::Sequence, 0x20..=0x3f) => self.hold(byte, LONGEST_SEQUENCE),
            (State::Sequence, _) => {
                let (held, too_long) = (std::mem::take(&mut self.held), self.too_long);
                self.state = State::Ground;
                if !too_long {
                    self.control(&held, byte);
                }
            }
            (_, 0x20..=0x2f) => {
                self.state = State::EscapeIntermediate;
                self.hold(byte, LONGEST_SEQUENCE);
            }
            _ => {
                let held = std::mem::take(&mut self.held);
                self.state = State::Ground;
                self.escape(&held, byte);
            }
        }
    }

    /// A string, to its end: ST, or BEL where that ends it.
    fn string(&mut self, byte: u8, escaped: bool) {
        let (state, most): (fn(bool) -> State, usize) = match self.state {
            State::Osc(_) => (State::Osc, LONGEST_STRING),
            State::Dcs(_) => (State::Dcs, LONGEST_STRING),
            _ => (State::Other, 0),
        };
        match byte {
            b'\\' if escaped => self.string_ends(),
            _ if escaped => {
                // The escape has ended the string without its due, and begins something else.
                self.begin(State::Escape);
                self.byte(byte);
            }
            0x1b => self.state = state(true),
            0x07 if matches!(self.state, State::Osc(_)) => self.string_ends(),
            0x18 | 0x1a => self.begin(State::Ground),
            _ => self.hold(byte, most),
        }
    }

    fn string_ends(&mut self) {
        let (held, whole) = (std::mem::take(&mut self.held), !self.too_long);
        match self.state {
            State::Osc(_) if whole => self.command(&held),
            State::Dcs(_) if held.starts_with(b"$q") => self.ask(Question::Setting),
            State::Dcs(_) if held.starts_with(b"+q") => self.ask(Question::Capability),
            _ => {}
        }
        self.begin(State::Ground);
    }

    /// An operating system command: titles, links and progress pass.
    fn command(&mut self, held: &[u8]) {
        let Ok(text) = std::str::from_utf8(held) else { return };
        let (number, rest) = text.split_once(';').unwrap_or((text, ""));
        match number {
            "0" | "1" | "2" => {
                let title: String = rest.chars().filter(|c| !hidden(*c)).take(LONGEST_TITLE).collect();
                if !self.modes.titled {
                    self.modes.titled = true;
                    // The person's own is put back at the end.
                    self.pass(b"\x1b[22;0t");
                }
                self.pass(format!("\x1b]{number};{title}\x1b\\").as_bytes());
            }
            "8" => {
                let uri = rest.split_once(';').map_or("", |(_, uri)| uri);
                let opens = uri.starts_with("https://") || uri.starts_with("http://");
                // Anything but an address of the web is text without a link.
                let rest = if opens && !rest.chars().any(hidden) { rest } else { ";" };
                self.modes.linked = opens;
                self.pass(format!("\x1b]8;{rest}\x1b\\").as_bytes());
            }
            "9" if rest.starts_with("4;")
                && rest.len() < 16
                && rest.bytes().all(|b| b.is_ascii_digit() || b == b';') =>
            {
                self.modes.progress = !rest.starts_with("4;0");
                self.pass(format!("\x1b]9;{rest}\x1b\\").as_bytes());
            }
            "10" | "11" | "12" => {
                // Several questions may be asked in one: each next is of the next number.
                let first: u8 = number.parse().unwrap_or(10);
                for (at, what) in rest.split(';').enumerate().take(3) {
                    if what == "?" && first as usize + at <= 12 {
                        self.ask(Question::Colour(first + at as u8));
                    }
                }
            }
            _ => {}
        }
    }

    /// An escape sequence that is no control sequence and no string.
    fn escape(&mut self, held: &[u8], last: u8) {
        match (held, last) {
            (b"", b'7' | b'8' | b'=' | b'>' | b'D' | b'E' | b'H' | b'M' | b'c') => {}
            (b"", b'Z') => return self.ask(Question::Attributes),
            // Lines of double size, the test picture, character sets less those that end UTF-8.
            (b"#", b'3'..=b'6' | b'8') => {}
            ([b'(' | b')' | b'*' | b'+'], b'0' | b'A' | b'B') => {}
            _ => return,
        }
        self.modes.escape(held, last);
        let mut bytes = vec![0x1b];
        bytes.extend_from_slice(held);
        bytes.push(last);
        self.pass(&bytes);
    }

    /// A control sequence: `held` has private marker, parameters and intermediates.
    fn control(&mut self, held: &[u8], last: u8) {
        let marker = held.first().copied().filter(|b| (0x3c..=0x3f).contains(b));
        let body = &held[usize::from(marker.is_some())..];
        let split = body.iter().position(|b| (0x20..=0x2f).contains(b)).unwrap_or(body.len());
        let (parameters, intermediates) = body.split_at(split);
        let first = || first_number(parameters);
        let plain = parameters.iter().all(|b| matches!(b, b'0'..=b'9' | b';' | b':'));
        if !plain {
            return;
        }
        let passes = match (marker, intermediates, last) {
            (None, b"", b'A'..=b'M' | b'P' | b'S' | b'X' | b'Z' | b'@' | b'`' | b'a' | b'b' | b'd'..=b'g') => true,
            (None, b"", b'm' | b'r' | b's' | b'u') => true,
            // With more parameters it begins highlight tracking, which locks the terminal up.
            (None, b"", b'T') => !parameters.contains(&b';'),
            (None, b"", b'c') => return self.ask(Question::Attributes),
            (None, b"", b'n') => return self.report(first(), false),
            (None, b"", b't') if first() == 18 => return self.ask(Question::Size),
            (None, b"", b'h' | b'l') => return self.switch(None, parameters, last),
            (Some(b'?'), b"", b'h' | b'l') => return self.switch(marker, parameters, last),
            (Some(b'?'), b"", b'J' | b'K') => true,
            (Some(b'?'), b"", b'n') => return self.report(first(), true),
            (Some(b'>'), b"", b'c') => return self.ask(Question::Version),
            (Some(b'>'), b"", b'q') => return self.ask(Question::Name),
            (None, b"$", b'p') => return self.ask(Question::Mode(first(), false)),
            (Some(b'?'), b"$", b'p') => return self.ask(Question::Mode(first(), true)),
            // The kitty keyboard protocol, and xterm's way of telling modified keys.
            (Some(b'<' | b'=' | b'>'), b"", b'u') | (Some(b'>'), b"", b'm' | b'n') => true,
            // A soft reset, the cursor's shape, protection.
            (None, b"!", b'p') | (None, b" ", b'q') | (None, b"\"", b'q') => true,
            _ => false,
        };
        if passes {
            self.modes.control(marker, parameters, intermediates, last);
            self.pass_control(held, last);
        }
    }

    fn pass_control(&mut self, held: &[u8], last: u8) {
        let mut bytes = b"\x1b[".to_vec();
        bytes.extend_from_slice(held);
        bytes.push(last);
        self.pass(&bytes);
    }

    fn report(&mut self, what: u16, private: bool) {
        match (what, private) {
            (5, false) => self.ask(Question::Status),
            (6, _) => self.ask(Question::Cursor(private)),
            _ => {}
        }
    }

    /// Switches modes; those that no program needs are left out.
    fn switch(&mut self, marker: Option<u8>, parameters: &[u8], last: u8) {
        let known = |mode: &u16| {
            if marker.is_some() { super::modes::PRIVATE.contains(mode) } else { *mode == super::modes::INSERT }
        };
        let wanted: Vec<u16> = parameters.split(|b| *b == b';').map(first_number).filter(known).collect();
        if wanted.is_empty() {
            return;
        }
        for mode in &wanted {
            self.modes.switch(marker.is_some(), *mode, last == b'h');
        }
        let list = wanted.iter().map(u16::to_string).collect::<Vec<_>>().join(";");
        let marker = if marker.is_some() { "?" } else { "" };
        self.pass_control(format!("{marker}{list}").as_bytes(), last);
    }
}

/// Gets the first number of a parameter list.
fn first_number(parameters: &[u8]) -> u16 {
    let digits = parameters.iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0u16, |n, d| n.saturating_mul(10).saturating_add(u16::from(d - b'0')))
}

/// Tells whether a character is no part of a line of text, or turns text around.
fn hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
