//! The session: what is typed goes to a command's terminal, what it writes comes to the person's.
//!
//! It goes on by itself when the controller is replaced in its midst. Ends with the command, by the keys that detach
//! ([`super::keys`]; agents only), or with the person's terminal.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::answers::answer;
use super::feed::Feeder;
use super::filter::{Filter, Piece};
use super::keys::Keys;
use super::mode::{self, Raw};
use super::screen::Screen;
use super::streams::{Sink, Source};
use crate::api::{Ended, Exec, ExecFrame, Resize, SignalName, State};
use crate::client::{Client, ExecFrames, LogFilter};
use crate::error::{Error, Kind, Result};
use crate::types::TerminalSize;

/// Id and number of the agent's own exec.
const AGENT: &str = "agent";
const AGENT_NUMBER: u32 = 0;

/// How much of what was written is looked at for the present screen.
const BACKLOG: u64 = 4 << 20;

/// A question older than this is not answered any more: who asked has given up. Unit: milliseconds.
const STALE: i64 = 2000;

/// A session that has only just begun is shown as it came, up to this length.
const YOUNG: usize = 64 * 1024;

/// Most that waits for the person's terminal before no more is read.
const MOST_OUT: usize = 256 * 1024;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// By the keys; the agent goes on.
    Detached,
    /// The command ended with this code.
    Ended(i32),
    /// The bottle's keeper died, and the bottle with it.
    Lost,
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::internal(format!("the terminal: {e}"))
}

/// How a terminal is joined.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Keys leave the agent running.
    pub detach: bool,
    /// What an agent wrote that has ended already is shown all the same: it was quick.
    pub late: bool,
}

/// Joins this process's terminal to the agent's of a bottle, until its end or until the keys leave it.
///
/// # Errors
/// `usage` where this process or the agent has no terminal, `interrupted` by a signal, or what the controller says.
pub async fn attach(client: &Client, slug: &str, manner: Manner) -> Result<Attached> {
    super::need_terminal("attaching", &format!("`bb logs --follow {slug}` shows what the agent writes"))?;
    let size = mode::size().unwrap_or_default();
    // Now all that follows is drawn for this terminal.
    let resize = Resize { exec: AGENT.to_owned(), rows: size.rows, cols: size.cols };
    match client.resize(slug, &resize).await {
        Err(error) if manner.late && error.kind == Kind::NoSuchBottle => {}
        done => done?,
    }
    let mut session = Session::new(client, slug, AGENT, size);
    session.read_backlog().await?;
    let filter =
        LogFilter { since: session.seen, exec: Some(AGENT_NUMBER), follow: true, raw: true, ..LogFilter::default() };
    let frames = client.output(slug, filter).await?;
    session.run(frames, manner.detach).await
}

/// Runs a command in a bottle, in this process's terminal.
///
/// # Errors
/// As [`attach`].
pub async fn exec(client: &Client, slug: &str, mut exec: Exec) -> Result<Attached> {
    super::need_terminal("`-t`", "leave it out: `bb exec -i SLUG -- COMMAND` passes standard input on")?;
    let size = mode::size().unwrap_or_default();
    exec.terminal = Some(size.usable());
    for (name, value) in super::environment() {
        exec.env.entry(name).or_insert(value);
    }
    let frames = client.exec_raw(slug, &exec).await?;
    Session::new(client, slug, &exec.id, size).run(frames, false).await
}

struct Session<'a> {
    client: &'a Client,
    slug: &'a str,
    exec: &'a str,
    filter: Filter,
    screen: Screen,
    feeder: Feeder,
    /// Position of the last frame that was read.
    seen: u64,
    /// For the person's terminal.
    out: Vec<u8>,
}

/// What is heard from outside.
struct Signals {
    size: Signal,
    end: Ends,
}

/// The signals that end a session.
struct Ends {
    hang_up: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Signals> {
        let on = |kind| signal(kind).map_err(failed);
        Ok(Signals {
            size: on(SignalKind::window_change())?,
            end: Ends {
                hang_up: on(SignalKind::hangup())?,
                interrupt: on(SignalKind::interrupt())?,
                terminate: on(SignalKind::terminate())?,
            },
        })
    }
}

impl Ends {
    /// Waits for one of them.
    async fn hear(&mut self) {
        tokio::select! {
            _ = self.hang_up.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl<'a> Session<'a> {
    fn new(client: &'a Client, slug: &'a str, exec: &'a str, size: TerminalSize) -> Session<'a> {
        let feeder = Feeder::start(client, slug, exec);
        let screen = Screen::new(size);
        Session { client, slug, exec, filter: Filter::default(), screen, feeder, seen: 0, out: Vec::new() }
    }

    /// Reads what was written so far, and makes of it what the person sees first: the screen as it is now.
    async fn read_backlog(&mut self) -> Result<()> {
        let (exec, last) = (Some(AGENT_NUMBER), Some(BACKLOG));
        let filter = LogFilter { exec, raw: true, last, attach: true, ..LogFilter::default() };
        let mut frames = self.client.output(self.slug, filter).await?;
        let (mut young, mut length) = (true, 0);
        while let Some(frame) = frames.next().await {
            if let ExecFrame::Output { n, ts, raw, .. } = frame? {
                length += raw.as_ref().map_or(0, |raw| raw.len() as u64 / 4 * 3);
                self.output(n, ts, raw.as_deref())?;
                young &= now_ms() - ts < STALE && self.out.len() < YOUNG;
                if !young {
                    self.out.clear();
                }
            }
        }
        if !young {
            self.out = self.screen.painted(&self.filter.modes);
        }
        // Of a longer history the beginning is not known, and with it what was drawn then: a changed size has all drawn again.
        if length + YOUNG as u64 >= BACKLOG {
            let TerminalSize { rows, cols } = self.screen.size();
            for cols in [cols.saturating_sub(1).max(1), cols] {
                self.client.resize(self.slug, &Resize { exec: AGENT.to_owned(), rows, cols }).await?;
            }
        }
        Ok(())
    }

    /// Takes what was written: to the screen, to the person, and the questions in it to whoever answers them.
    fn output(&mut self, n: u64, ts: i64, raw: Option<&str>) -> Result<()> {
        self.seen = n;
        // What is no byte of the agent's is a note about what is missing; the screen is put right by what comes next.
        let Some(raw) = raw else { return Ok(()) };
        let bytes = BASE64.decode(raw).map_err(failed)?;
        for (at, piece) in self.filter.feed(&bytes).into_iter().enumerate() {
            match piece {
                Piece::Pass(bytes) => {
                    self.screen.write(&bytes);
                    self.out.extend_from_slice(&bytes);
                }
                Piece::Ask(question) if now_ms() - ts < STALE => {
                    let answer = answer(question, self.screen.size(), self.screen.cursor());
                    self.feeder.answer(format!("answer:{n}:{at}"), answer);
                }
                Piece::Ask(_) => {}
            }
        }
        Ok(())
    }

    /// The session itself, with the person's terminal raw.
    async fn run(mut self, mut frames: ExecFrames, may_detach: bool) -> Result<Attached> {
        let mut signals = Signals::listen()?;
        let mut raw = Raw::enter().map_err(failed)?;
        let (mut source, sink) = (Source::stdin().map_err(failed)?, Sink::stdout().map_err(failed)?);
        // The size may have changed between its being asked for and its changes being heard.
        self.resized();
        let result = self.turns(&mut frames, &mut source, &sink, (&mut signals, &mut raw), may_detach).await;
        // One reads, so that the terminal's last words are heard; and what is written last is written before it is put right.
        source.stop().await;
        let rest = std::mem::take(&mut self.out);
        sink.finish(rest).await;
        raw.leave(&self.filter.modes, self.screen.cursor(), matches!(result, Ok(Attached::Detached)));
        result
    }

    fn resized(&mut self) {
        let size = mode::size().unwrap_or_default();
        if size.usable() != self.screen.size() {
            self.screen.resize(size);
            self.feeder.size(size);
        }
    }

    async fn turns(
        &mut self,
        frames: &mut ExecFrames,
        source: &mut Source,
        sink: &Sink,
        (signals, raw): (&mut Signals, &mut Raw),
        may_detach: bool,
    ) -> Result<Attached> {
        let mut keys = Keys::default();
        loop {
            let patience = keys.patience();
            raw.note(&self.filter.modes);
            tokio::select! {
                room = sink.room(), if !self.out.is_empty() => match room {
                    Some(room) => room.send(std::mem::take(&mut self.out)),
                    None => return self.terminal_is_gone(may_detach).await,
                },
                frame = frames.next(), if self.out.len() < MOST_OUT => match frame {
                    Some(frame) => match frame? {
                        ExecFrame::Output { n, ts, raw, .. } => self.output(n, ts, raw.as_deref())?,
                        ExecFrame::Exit { code, .. } => return Ok(self.ended(code).await),
                    },
                    None => match self.over().await? {
                        Some(attached) => return Ok(attached),
                        None => *frames = self.again().await?,
                    },
                },
                chunk = source.next() => match chunk {
                    Some(chunk) if may_detach => {
                        let typed = keys.feed(&chunk);
                        self.typed(typed.bytes);
                        if typed.detach {
                            return Ok(Attached::Detached);
                        }
                    }
                    Some(chunk) => self.typed(chunk),
                    None => return self.terminal_is_gone(may_detach).await,
                },
                () = tokio::time::sleep(patience.unwrap_or_default()), if patience.is_some() => {
                    let held = keys.flush();
                    self.typed(held);
                }
                _ = signals.size.recv() => self.resized(),
                () = signals.end.hear() => return self.terminal_is_gone(may_detach).await,
                error = self.feeder.failed() => return Err(error),
            }
        }
    }

    fn typed(&mut self, bytes: Vec<u8>) {
        if !self.feeder.bytes(bytes) {
            // As a terminal says that it takes no more.
            self.out.push(0x07);
        }
    }

    /// The person is gone. A command that was run for them is told so.
    async fn terminal_is_gone(&self, may_detach: bool) -> Result<Attached> {
        if !may_detach {
            let signal = crate::api::Signal { exec: self.exec.to_owned(), signal: SignalName::Hup };
            self.client.signal(self.slug, signal).await?;
        }
        Err(Error::new(Kind::Interrupted, "the session was left: its terminal is gone, or it was asked to end"))
    }

    /// Gets how it ended, with an exit that was told.
    async fn ended(&self, code: i32) -> Attached {
        match self.client.bottle(self.slug).await {
            Ok(bottle) if bottle.ended == Some(Ended::Lost) => Attached::Lost,
            _ => Attached::Ended(code),
        }
    }

    /// Gets how it ended, where the output ended without an exit; `None` where it has not.
    async fn over(&self) -> Result<Option<Attached>> {
        let bottle = self.client.bottle(self.slug).await?;
        Ok(match (bottle.state, bottle.ended) {
            (State::Ended, Some(Ended::Lost)) => Some(Attached::Lost),
            (State::Ended, _) => Some(Attached::Ended(bottle.exit_code.unwrap_or(137))),
            _ => None,
        })
    }

    /// Takes the agent's output up again.
    async fn again(&self) -> Result<ExecFrames> {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let filter =
            LogFilter { since: self.seen, exec: Some(AGENT_NUMBER), follow: true, raw: true, ..LogFilter::default() };
        self.client.output(self.slug, filter).await
    }
}
