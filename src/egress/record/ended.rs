//! What a `request.ended` event says. Only its form.

use serde::Serialize;

/// An allowed request that has ended (docs/controller-api.md).
#[derive(Debug, Serialize)]
pub struct Ended<'a> {
    /// The id of its exchange.
    pub exchange: &'a str,
    /// Method.
    pub method: &'a str,
    /// `https`, `http` or `tls`.
    pub scheme: &'a str,
    /// Host.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Path without query.
    pub path: &'a str,
    /// The route that allowed it, in words.
    pub rule: &'a str,
    /// Status of the answer.
    pub status: u16,
    /// Bytes out of the bottle.
    pub up: u64,
    /// Bytes into it.
    pub down: u64,
    /// How long it took.
    pub ms: u64,
    /// How it ended.
    pub end: &'a str,
    /// The API, on a model route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<&'a str>,
    /// It came through the bottle's own proxy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub proxied: bool,
    /// What the ends had to tell that were not entered. The recorder's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

/// Figures of requests whose ends were not entered.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LeftOut {
    pub(super) requests: u64,
    up: u64,
    down: u64,
}

impl LeftOut {
    pub(super) fn add(&mut self, up: u64, down: u64) {
        self.requests += 1;
        self.up = self.up.saturating_add(up);
        self.down = self.down.saturating_add(down);
    }
}
