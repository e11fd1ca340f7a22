//! The streams of the API - events, output, leases - which go on where they stopped when the controller is replaced.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::wire::{self, Failure, Lines, Request};
use super::{Client, EventFilter};
use crate::api::{Event, ExecFrame};
use crate::error::{Error, Result};

/// A lease line comes every two seconds; without one for this long the connection is taken for dead.
const LEASE_SILENCE: Duration = Duration::from_secs(8);

/// Opens a stream; takes the opening up again when the controller is replaced in its midst.
async fn open(client: &Client, request: &Request) -> Result<Lines> {
    client.persist(|socket| wire::head(socket, request)).await.map(Lines::new)
}

fn parse<T: DeserializeOwned>(line: &Bytes) -> Result<T> {
    serde_json::from_slice(line)
        .map_err(|e| Error::internal(format!("the controller sent a line that is not ours: {e}")))
}

/// Reads an export to its last line, which says that it is whole. It is not taken up again: half of it was handed over.
pub(super) async fn export(
    client: &Client,
    request: &Request,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut lines = open(client, request).await?;
    while let Some(line) = lines.next().await.map_err(|failure| failure.into_error(&client.home))? {
        if line.as_ref() == br#"{"table":"end"}"# {
            return Ok(());
        }
        if line.starts_with(br#"{"table":"error""#) {
            let said: serde_json::Value = parse(&line)?;
            return Err(Error::internal(said["message"].as_str().unwrap_or_default()));
        }
        take(&line)?;
    }
    Err(Error::internal("the export broke off").hint("run it again; `bb controller logs` may say why"))
}

/// Events in order of `seq`.
pub struct Events {
    client: Client,
    filter: EventFilter,
    lines: Option<Lines>,
    over: bool,
}

impl Events {
    pub(super) async fn open(client: &Client, filter: EventFilter) -> Result<Self> {
        let mut events = Events { client: client.clone(), filter, lines: None, over: false };
        events.lines = Some(open(client, &events.request()).await?);
        Ok(events)
    }

    fn request(&self) -> Request {
        let f = &self.filter;
        let mut path = format!("/v1/events?book={}", wire::book(f.book));
        if let Some(since) = f.since {
            path.push_str(&format!("&since={since}"));
        }
        if let Some(after) = f.after {
            path.push_str(&format!("&after={}", after.max(0)));
        }
        for (key, value) in [("bottle", &f.bottle), ("run", &f.run)] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", wire::encode(value)));
            }
        }
        if f.follow {
            path.push_str("&follow=1");
        }
        Request::get(path)
    }

    /// Gets the next event; `None` at the end of a stream that does not follow. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        while !self.over {
            let step = self.step().await;
            self.over |= step.is_err();
            if let Some(told) = step.transpose() {
                return Some(told);
            }
        }
        None
    }

    async fn step(&mut self) -> Result<Option<Event>> {
        let Some(lines) = &mut self.lines else {
            // Nothing was seen before the break: everything of the run or bottle counts, and without either there is
            // no beginning to go back to.
            if self.filter.since.is_none() && (self.filter.run.is_some() || self.filter.bottle.is_some()) {
                self.filter.since = Some(0);
            }
            self.lines = Some(open(&self.client, &self.request()).await?);
            return Ok(None);
        };
        match lines.next().await {
            Ok(Some(line)) if line.is_empty() => Ok(None),
            Ok(Some(line)) => {
                let event: Event = parse(&line)?;
                if event.kind != "gap" {
                    if self.filter.since.is_some_and(|seen| event.seq <= seen) {
                        return Ok(None);
                    }
                    self.filter.since = Some(event.seq);
                }
                Ok(Some(event))
            }
            Ok(None) if !self.filter.follow => {
                self.over = true;
                Ok(None)
            }
            Ok(None) | Err(Failure::Broken(_)) => {
                self.lines = None;
                Ok(None)
            }
            Err(failure) => Err(failure.into_error(&self.client.home)),
        }
    }
}

/// What the frames are of.
pub(super) enum Frames {
    /// One exec: the same request with the same id is answered again, from its beginning; with the bytes, from where it was.
    Exec { request: Request, raw: bool },
    /// A bottle's log.
    Log { slug: String, filter: LogFilter },
}

/// What of a bottle's output to read; see [`Client::output`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Only what came after this position.
    pub since: u64,
    /// Only one exec's, by number; 0 is the agent's. With `follow` its exit is the last frame.
    pub exec: Option<u32>,
    /// Stay and wait for more.
    pub follow: bool,
    /// With the bytes themselves beside the text.
    pub raw: bool,
    /// Only so much of the end of what there is, about. Unit: bytes.
    pub last: Option<u64>,
    /// Somebody attaches to the agent's terminal: what binds the bottle is derived anew.
    pub attach: bool,
}

/// Output of an exec or of a bottle's log.
pub struct ExecFrames {
    client: Client,
    of: Frames,
    lines: Option<Lines>,
    /// Position of the last frame that was handed out.
    seen: u64,
    over: bool,
    /// The exit frames that were handed out, so that a repeated answer does not tell them twice.
    exits: VecDeque<u32>,
}

impl ExecFrames {
    pub(super) async fn open(client: &Client, of: Frames) -> Result<Self> {
        let seen = match &of {
            Frames::Exec { .. } => 0,
            Frames::Log { filter, .. } => filter.since,
        };
        let mut frames =
            ExecFrames { client: client.clone(), of, lines: None, seen, over: false, exits: VecDeque::new() };
        frames.lines = Some(open(client, &frames.request()).await?);
        Ok(frames)
    }

    fn request(&self) -> Request {
        match &self.of {
            Frames::Exec { request, raw: false } => request.clone(),
            Frames::Exec { request, raw: true } => {
                let mut request = request.clone();
                request.path.push_str(&format!("?raw=1&since={}", self.seen));
                request
            }
            Frames::Log { slug, filter } => {
                let mut path = format!("/v1/bottles/{}/logs?since={}", wire::encode(slug), self.seen);
                for (wanted, word) in
                    [(filter.follow, "&follow=1"), (filter.raw, "&raw=1"), (filter.attach, "&attach=1")]
                {
                    path.push_str(if wanted { word } else { "" });
                }
                if let Some(exec) = filter.exec {
                    path.push_str(&format!("&exec={exec}"));
                }
                // What was seen already says better where to go on.
                if let Some(last) = filter.last.filter(|_| self.seen == filter.since) {
                    path.push_str(&format!("&last={last}"));
                }
                Request::get(path)
            }
        }
    }

    /// Gets the next frame; `None` after the exit of an exec, or at the end of the log. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Result<ExecFrame>> {
        while !self.over {
            let step = self.step().await;
            self.over |= step.is_err();
            if let Some(told) = step.transpose() {
                return Some(told);
            }
        }
        None
    }

    async fn step(&mut self) -> Result<Option<ExecFrame>> {
        let Some(lines) = &mut self.lines else {
            self.lines = Some(open(&self.client, &self.request()).await?);
            return Ok(None);
        };
        match lines.next().await {
            Ok(Some(line)) if line.is_empty() => Ok(None),
            Ok(Some(line)) => Ok(self.fresh(parse(&line)?)),
            Ok(None) if matches!(self.of, Frames::Log { .. }) => {
                self.over = true;
                Ok(None)
            }
            // An exec's answer ends with its exit frame and never before.
            Ok(None) | Err(Failure::Broken(_)) => {
                self.lines = None;
                Ok(None)
            }
            Err(failure) => Err(failure.into_error(&self.client.home)),
        }
    }

    /// Tells whether an exit frame is the last that comes.
    fn has_an_end(&self) -> bool {
        match &self.of {
            Frames::Exec { .. } => true,
            Frames::Log { filter, .. } => filter.exec.is_some() && filter.follow,
        }
    }

    /// Passes a frame on unless it was handed out before.
    fn fresh(&mut self, frame: ExecFrame) -> Option<ExecFrame> {
        match &frame {
            ExecFrame::Output { n, .. } if *n <= self.seen => return None,
            ExecFrame::Output { n, .. } => self.seen = *n,
            ExecFrame::Exit { .. } if self.has_an_end() => self.over = true,
            ExecFrame::Exit { exec, .. } if self.exits.contains(exec) => return None,
            ExecFrame::Exit { exec, .. } => {
                self.exits.push_back(*exec);
                self.exits.truncate(4096);
            }
        }
        Some(frame)
    }
}

/// A lease that is held until this is dropped.
#[derive(Debug)]
pub struct Lease {
    task: JoinHandle<()>,
}

impl Lease {
    pub(super) async fn take(client: &Client, id: &str) -> Result<Self> {
        let request = Request::get(format!("/v1/leases/{}", wire::encode(id)));
        let mut lines = open(client, &request).await?;
        let client = client.clone();
        let task = tokio::spawn(async move {
            loop {
                if let Ok(Ok(Some(_))) = tokio::time::timeout(LEASE_SILENCE, lines.next()).await {
                    continue;
                }
                // For as long as this is held there is somebody who waits for the bottles: never give up.
                loop {
                    match open(&client, &request).await {
                        Ok(again) => {
                            lines = again;
                            break;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the lease could not be taken up again");
                            tokio::time::sleep(Duration::from_millis(500)).await;
                        }
                    }
                }
            }
        });
        Ok(Lease { task })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}
