//! What is typed or fed, on its way to a command: in order, once, whatever becomes of the controller.
//!
//! A task of its own sends; the session never waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::api::{Input, Resize};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::types::TerminalSize;

/// Most that is sent in one call.
const PIECE: usize = 256 * 1024;

/// Most that waits. Typing beyond it is lost, as in any terminal whose program does not read; a pipe is not read meanwhile.
pub const MOST_WAITING: usize = 1 << 20;

/// No answers are given while as much waits. Unit: bytes.
const MOST_ANSWERS: usize = 4096;

enum Word {
    Bytes(Vec<u8>),
    /// An answer to a question at this place of the output.
    Answer(String, Vec<u8>),
    End,
}

/// Feeds one exec. Dropped, it stops at once.
#[derive(Debug)]
pub struct Feeder {
    to: mpsc::UnboundedSender<Word>,
    waiting: Arc<AtomicUsize>,
    size: watch::Sender<Option<TerminalSize>>,
    /// `None` once it is known that nothing does.
    failed: Option<oneshot::Receiver<Error>>,
    tasks: [JoinHandle<()>; 2],
}

impl Feeder {
    /// Starts to feed the exec `exec` of a bottle. Needs a runtime.
    pub fn start(client: &Client, slug: &str, exec: &str) -> Feeder {
        let (to, words) = mpsc::unbounded_channel();
        let (fail, failed) = oneshot::channel();
        let (size, sizes) = watch::channel(None);
        let waiting = Arc::new(AtomicUsize::new(0));
        let sender = Sender {
            client: client.clone(),
            slug: slug.to_owned(),
            exec: exec.to_owned(),
            name: uuid::Uuid::now_v7().to_string(),
            place: 0,
        };
        let sizes = tokio::spawn(resize(client.clone(), slug.to_owned(), exec.to_owned(), sizes));
        let counted = Arc::clone(&waiting);
        let feed = tokio::spawn(async move {
            if let Err(error) = sender.run(words, &counted).await {
                let _ = fail.send(error);
            }
        });
        Feeder { to, waiting, size, failed: Some(failed), tasks: [feed, sizes] }
    }

    /// Tells whether more should be read for it.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < MOST_WAITING
    }

    /// Feeds bytes; returns whether there was room.
    pub fn bytes(&self, bytes: Vec<u8>) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if !self.has_room() {
            return false;
        }
        self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        let _ = self.to.send(Word::Bytes(bytes));
        true
    }

    /// Answers a question; `place` names it, so that of several who see it only one is heard.
    pub fn answer(&self, place: String, bytes: Vec<u8>) {
        // One that asks without end must not keep the person's keys waiting.
        if self.waiting.load(Ordering::Relaxed) < MOST_ANSWERS {
            self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
            let _ = self.to.send(Word::Answer(place, bytes));
        }
    }

    /// Says that nothing more comes.
    pub fn end(&self) {
        let _ = self.to.send(Word::End);
    }

    /// Sets the size of the terminal; the last one counts.
    pub fn size(&self, size: TerminalSize) {
        self.size.send_replace(Some(size));
    }

    /// Waits for what keeps it from feeding; never returns where nothing does.
    pub async fn failed(&mut self) -> Error {
        if let Some(failed) = &mut self.failed {
            let told = failed.await;
            self.failed = None;
            if let Ok(error) = told {
                return error;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Sender {
    client: Client,
    slug: String,
    exec: String,
    name: String,
    place: u64,
}

impl Sender {
    async fn run(mut self, mut words: mpsc::UnboundedReceiver<Word>, waiting: &AtomicUsize) -> Result<()> {
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            let word = if bytes.is_empty() { words.recv().await } else { words.try_recv().ok() };
            let (more, then) = match word {
                Some(Word::Bytes(next)) if bytes.len() + next.len() <= PIECE => (Some(next), None),
                other => (None, other),
            };
            if let Some(more) = more {
                bytes.extend(more);
                continue;
            }
            let length = bytes.len();
            if length == 0 && then.is_none() {
                return Ok(());
            }
            let open = self.send(&std::mem::take(&mut bytes)).await?;
            waiting.fetch_sub(length, Ordering::Relaxed);
            if !open {
                // Nobody reads any more; how the command ended is told elsewhere.
                return Ok(());
            }
            match then {
                Some(Word::Bytes(next)) => bytes = next,
                Some(Word::Answer(place, answer)) => {
                    let input = Input { from: place, data: BASE64.encode(&answer), once: true, ..self.input(0) };
                    over_is_fine(self.client.input(&self.slug, &input).await.map(|_| ()))?;
                    waiting.fetch_sub(answer.len(), Ordering::Relaxed);
                }
                Some(Word::End) => {
                    let end = Input { end: true, ..self.input(self.place) };
                    return over_is_fine(self.client.input(&self.slug, &end).await.map(|_| ()));
                }
                None => {}
            }
        }
    }

    fn input(&self, seq: u64) -> Input {
        Input { exec: self.exec.clone(), from: self.name.clone(), seq, ..Input::default() }
    }

    /// Sends all of it; returns whether more may come.
    async fn send(&mut self, bytes: &[u8]) -> Result<bool> {
        let end = self.place + bytes.len() as u64;
        while self.place < end {
            let rest = &bytes[bytes.len() - (end - self.place) as usize..];
            let input = Input { data: BASE64.encode(rest), ..self.input(self.place) };
            let taken = match self.client.input(&self.slug, &input).await {
                Ok(taken) => taken,
                Err(error) => return over_is_fine(Err(error)).map(|()| false),
            };
            if !taken.open {
                return Ok(false);
            }
            if taken.taken <= self.place {
                // The call has waited already; this only keeps a keeper that says nothing new from being asked at once again.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.place = taken.taken.clamp(self.place, end);
        }
        Ok(true)
    }
}

/// A bottle or command that has ended is no fault of what was fed to it.
fn over_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind == Kind::NoSuchBottle => Ok(()),
        other => other,
    }
}

/// Sends the newest size, as they come.
async fn resize(client: Client, slug: String, exec: String, mut sizes: watch::Receiver<Option<TerminalSize>>) {
    while sizes.changed().await.is_ok() {
        let Some(size) = *sizes.borrow_and_update() else { continue };
        let resize = Resize { exec: exec.clone(), rows: size.rows, cols: size.cols };
        if let Err(error) = client.resize(&slug, &resize).await {
            tracing::debug!(%error, "the terminal's size was not taken");
        }
    }
}
