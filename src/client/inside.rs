//! Calls about what runs in a bottle: commands, what they are fed, what they and the agent wrote.

use serde_json::Value;

use super::Client;
use super::stream::{self, ExecFrames, LogFilter};
use super::wire::{self, Request};
use crate::api;
use crate::error::Result;

impl Client {
    /// `POST /v1/bottles/S/exec`: its output as it comes; the last frame is the exit.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn exec(&self, slug: &str, exec: &api::Exec) -> Result<ExecFrames> {
        let request = Request::post(format!("/v1/bottles/{}/exec", wire::encode(slug)), exec)?;
        ExecFrames::open(self, stream::Frames::Exec { request, raw: false }).await
    }

    /// As [`Client::exec`], with the bytes themselves beside the text.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn exec_raw(&self, slug: &str, exec: &api::Exec) -> Result<ExecFrames> {
        let request = Request::post(format!("/v1/bottles/{}/exec", wire::encode(slug)), exec)?;
        ExecFrames::open(self, stream::Frames::Exec { request, raw: true }).await
    }

    /// `POST /v1/bottles/S/signal`: one that has ended gets none.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn signal(&self, slug: &str, signal: api::Signal) -> Result<()> {
        let request = Request::post(format!("/v1/bottles/{}/signal", wire::encode(slug)), &signal)?;
        self.call::<Value>(request).await.map(|_| ())
    }

    /// `GET /v1/bottles/S/logs`: what agent and execs wrote after position `since`.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn logs(&self, slug: &str, since: u64, follow: bool) -> Result<ExecFrames> {
        self.output(slug, LogFilter { since, follow, ..LogFilter::default() }).await
    }

    /// `GET /v1/bottles/S/logs` with all that it can be asked.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn output(&self, slug: &str, filter: LogFilter) -> Result<ExecFrames> {
        ExecFrames::open(self, stream::Frames::Log { slug: slug.to_owned(), filter }).await
    }

    /// `POST /v1/bottles/S/input`: feeds an exec; what was not taken is to be sent again.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn input(&self, slug: &str, input: &api::Input) -> Result<api::Taken> {
        self.call(Request::post(format!("/v1/bottles/{}/input", wire::encode(slug)), input)?).await
    }

    /// `POST /v1/bottles/S/resize`: sets the size of an exec's terminal.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` where it has none.
    pub async fn resize(&self, slug: &str, resize: &api::Resize) -> Result<()> {
        let request = Request::post(format!("/v1/bottles/{}/resize", wire::encode(slug)), resize)?;
        self.call::<Value>(request).await.map(|_| ())
    }
}
