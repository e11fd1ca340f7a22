//! WebSockets of the OpenAI Responses API, as Codex uses them: `response.create` in, the events of a stream out, one response after
//! the other, each going on from any earlier one of the socket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::anthropic::Answer;
use super::body::Piece;
use super::openai::{self, Responses};
use super::serve::{Head, MAX_BODY, Play, Stage, asked, now, play};
use super::stats::{Entry, Request as Logged};
use crate::meter::websocket::{Item, Messages, Opcode, Sender, close, frame};
use crate::types::{Api, Tokens};

/// Conversations that may still be gone on from; a longer one is a copy of what was before it.
const KNOWN: usize = 64;
/// What is read of a client while it is answered. Unit: bytes.
const AHEAD: usize = 4 << 20;

/// What a server's accept is made with (RFC 6455, 1.3).
const ACCEPT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Gets the headers that switch to a WebSocket, where the client asks for one.
pub(super) fn switch(head: &Head) -> Option<HeaderMap> {
    let key = head.header("sec-websocket-key");
    if key.is_empty() || !head.header("upgrade").eq_ignore_ascii_case("websocket") {
        return None;
    }
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT}").as_bytes());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&STANDARD.encode(digest)).ok()?);
    Some(headers)
}

/// The client's side.
struct Client {
    from: ReadHalf<TokioIo<Upgraded>>,
    messages: Messages,
    buffer: BytesMut,
    /// What came while an answer was played, and how long it is.
    ahead: VecDeque<Item>,
    length: usize,
}

impl Client {
    /// Reads the next item; `None` where the client has left, or speaks no WebSocket.
    async fn read(&mut self) -> Option<Item> {
        loop {
            match self.messages.take(&mut self.buffer) {
                Ok(Some(item)) => return Some(item),
                Ok(None) => {}
                Err(_) => return None,
            }
            self.buffer.reserve(16 << 10);
            if !matches!(self.from.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Reads the next item, or takes one that was read ahead.
    async fn next(&mut self) -> Option<Item> {
        match self.ahead.pop_front() {
            Some(item) => {
                self.length = self.length.saturating_sub(length(&item));
                Some(item)
            }
            None => self.read().await,
        }
    }

    /// Returns when the client has left. Whoever sends on meanwhile is not read on for ever.
    async fn left(&mut self) {
        while self.length < AHEAD {
            let Some(item) = self.read().await else { return };
            self.length += length(&item);
            self.ahead.push_back(item);
        }
        std::future::pending().await
    }
}

/// Gets how much an item counts.
fn length(item: &Item) -> usize {
    match item {
        Item::Control { wire, .. } => wire.len(),
        Item::Message(message) => message.content().len() + 16,
    }
}

/// Serves one socket to its end.
pub(super) async fn serve(stage: Arc<Stage>, head: Head, upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let (from, mut to) = tokio::io::split(TokioIo::new(upgraded));
    let messages = Messages::new(Sender::Client, MAX_BODY);
    let mut client = Client { from, messages, buffer: BytesMut::new(), ahead: VecDeque::new(), length: 0 };
    let mut socket = Socket { stage, head, known: VecDeque::new() };
    loop {
        let message = match client.next().await {
            None => return,
            Some(Item::Control { opcode: Opcode::Close, .. }) => {
                let _ = to.write_all(&close(1000, "")).await;
                let _ = to.shutdown().await;
                return;
            }
            Some(Item::Control { opcode: Opcode::Ping, payload, .. }) => {
                let _ = to.write_all(&frame(Opcode::Pong, &payload, None)).await;
                let _ = to.flush().await;
                continue;
            }
            Some(Item::Control { .. }) => continue,
            Some(Item::Message(message)) => message,
        };
        let content = message.content();
        let answered = tokio::select! {
            answered = socket.answer(content, &mut to) => answered,
            () = client.left() => return,
        };
        if answered.is_none() {
            return;
        }
    }
}

/// What is known of one socket.
struct Socket {
    stage: Arc<Stage>,
    head: Head,
    /// The whole conversation up to each of the last responses.
    known: VecDeque<(String, Vec<Value>)>,
}

impl Socket {
    /// Answers one message; `None` where the socket has ended by it.
    async fn answer(&mut self, content: &[u8], to: &mut WriteHalf<TokioIo<Upgraded>>) -> Option<()> {
        let Ok(mut json) = serde_json::from_slice::<Value>(content) else {
            return say(to, &failed(400, "the message is not JSON", Value::Null)).await;
        };
        let kind = json["type"].as_str().unwrap_or_default().to_owned();
        let logged = Logged {
            api: Some(Api::OpenaiResponses),
            host: self.head.host.clone(),
            method: kind.clone(),
            path: self.head.path.clone(),
            auth: self.head.auth(),
            body_bytes: content.len() as u64,
            ..Logged::default()
        };
        let mut entry = self.stage.enter(logged);
        let lane = json["stream_id"].clone();
        match kind.as_str() {
            "response.create" => {}
            // Its answers are made before they are played, so none takes anything in.
            "response.steer" => {
                entry.note(|request| request.status = 400);
                entry.ended();
                return say(to, &not_steered(&json["previous_response_id"])).await;
            }
            _ => return self.refuse(entry, to, 400, "the rehearsal does not know this message", lane).await,
        }
        let mut items = match json["previous_response_id"].as_str() {
            None => Vec::new(),
            Some(id) => match self.known.iter().rev().find(|(known, _)| known == id) {
                Some((_, items)) => items.clone(),
                None => return self.refuse(entry, to, 400, "previous_response_not_found", lane).await,
            },
        };
        match json["input"].take() {
            Value::Array(more) => items.extend(more),
            Value::String(text) => items.push(json!({"type": "message", "role": "user", "content": text})),
            _ => {}
        }
        json["input"] = Value::Array(items.clone());
        json["stream"] = json!(true);
        let asked = match asked(Api::OpenaiResponses, self.head.clone(), &json, self.stage.input(&json, content.len()))
        {
            Ok(asked) => asked,
            Err(missing) => return self.refuse(entry, to, 400, &missing, lane).await,
        };
        entry.note(|request| request.model = json["model"].as_str().map(str::to_owned));
        let (pieces, gap, broken) = if json["generate"] == false {
            entry.begin(Tokens::default());
            (self.made_ready(&json, &entry), Duration::ZERO, false)
        } else {
            match play(&self.stage, asked, &mut entry).await {
                Play::Refused(_, status) => return self.refuse(entry, to, status, "as the scenario says", lane).await,
                Play::Said { coding: Some(_), .. } => {
                    let why = "a recorded answer is not played on a WebSocket";
                    return self.refuse(entry, to, 400, why, lane).await;
                }
                Play::Said { pieces, gap, broken, .. } => (pieces, gap, broken),
            }
        };
        entry.note(|request| request.status = 200);
        let until = if broken { pieces.len().div_ceil(2) } else { pieces.len() };
        for piece in pieces.iter().take(until) {
            let mut event: Value = serde_json::from_slice(piece.data()?).ok()?;
            if piece.terminal {
                items.extend(event["response"]["output"].as_array().cloned().unwrap_or_default());
                if let Some(id) = event["response"]["id"].as_str() {
                    if self.known.len() >= KNOWN {
                        self.known.pop_front();
                    }
                    self.known.push_back((id.to_owned(), std::mem::take(&mut items)));
                }
            }
            if !lane.is_null() {
                event["stream_id"] = lane.clone();
            }
            say(to, &event).await?;
            entry.sent(piece.bytes.len());
            if piece.terminal {
                entry.terminal();
            } else if !gap.is_zero() {
                tokio::time::sleep(gap).await;
            }
        }
        entry.ended();
        (!broken).then_some(())
    }

    /// Gets the events of a response that only has its input made ready.
    fn made_ready(&self, json: &Value, entry: &Entry) -> Vec<Piece> {
        let id = self.stage.id(entry.number());
        let model = json["model"].as_str().unwrap_or_default();
        let answer = Answer { id: &id, model, text: "", call: None, tokens: Tokens::default() };
        Responses { answer, created: now() }.stream()
    }

    async fn refuse(
        &self,
        mut entry: Entry,
        to: &mut WriteHalf<TokioIo<Upgraded>>,
        status: u16,
        message: &str,
        lane: Value,
    ) -> Option<()> {
        entry.note(|request| request.status = status);
        entry.ended();
        say(to, &failed(status, message, lane)).await
    }
}

fn failed(status: u16, message: &str, lane: Value) -> Value {
    let mut event = openai::error(status, message);
    event["type"] = json!("error");
    event["status"] = json!(status);
    if !lane.is_null() {
        event["stream_id"] = lane;
    }
    event
}

/// Gets the event that says that a response was not steered.
fn not_steered(target: &Value) -> Value {
    let mut event = openai::error(400, "the rehearsal's responses cannot be steered");
    event["type"] = json!("response.steer.failed");
    event["steer"] = json!({"previous_response_id": target});
    event
}

async fn say(to: &mut WriteHalf<TokioIo<Upgraded>>, event: &Value) -> Option<()> {
    to.write_all(&frame(Opcode::Text, event.to_string().as_bytes(), None)).await.ok()?;
    to.flush().await.ok()
}

#[cfg(test)]
mod tests;
