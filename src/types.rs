//! Words that several parts share: token counts, the APIs that are metered, cutoff policies, states.
//!
//! Plain data. Nothing here does I/O or decides anything.

use serde::{Deserialize, Serialize};

/// A model API whose usage bb can read: one form of requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Anthropic Messages, `POST /v1/messages`; also Claude on Vertex AI.
    Anthropic,
    /// OpenAI Responses, `POST /v1/responses` (and the ChatGPT backend's twin).
    OpenaiResponses,
    /// OpenAI Chat Completions, `POST /v1/chat/completions`, and all that speak like it.
    OpenaiChat,
    /// Gemini, `POST /v1beta/models/MODEL:generateContent` and `:streamGenerateContent`; also on Vertex AI and by Code Assist.
    Gemini,
    /// Amazon Bedrock, `POST /model/MODEL/converse` and `/converse-stream`.
    BedrockConverse,
    /// Amazon Bedrock, `POST /model/MODEL/invoke` and `/invoke-with-response-stream`.
    BedrockInvoke,
}

impl Api {
    /// Every API, in the order of the documentation.
    pub const ALL: [Api; 6] =
        [Api::Anthropic, Api::OpenaiResponses, Api::OpenaiChat, Api::Gemini, Api::BedrockConverse, Api::BedrockInvoke];

    /// Gets the name used in Lua and the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Api::Anthropic => "anthropic",
            Api::OpenaiResponses => "openai_responses",
            Api::OpenaiChat => "openai_chat",
            Api::Gemini => "gemini",
            Api::BedrockConverse => "bedrock_converse",
            Api::BedrockInvoke => "bedrock_invoke",
        }
    }

    /// Gets the API of that name.
    pub fn parse(name: &str) -> Option<Api> {
        Api::ALL.into_iter().find(|a| a.as_str() == name)
    }
}

/// What a host speaks: one API, or several that live on one host. Which of them a request is in, its path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFamily {
    /// [`Api::Anthropic`].
    Anthropic,
    /// [`Api::OpenaiResponses`] and [`Api::OpenaiChat`]: what api.openai.com speaks.
    Openai,
    /// [`Api::OpenaiResponses`] alone.
    OpenaiResponses,
    /// [`Api::OpenaiChat`] alone.
    OpenaiChat,
    /// [`Api::Gemini`].
    Gemini,
    /// [`Api::Gemini`] as Code Assist wraps it.
    CodeAssist,
    /// [`Api::Gemini`] and [`Api::Anthropic`] under the paths of Vertex AI.
    Vertex,
    /// [`Api::BedrockConverse`] and [`Api::BedrockInvoke`].
    Bedrock,
}

impl ApiFamily {
    /// Every family, in the order of the documentation.
    pub const ALL: [ApiFamily; 8] = [
        ApiFamily::Anthropic,
        ApiFamily::Openai,
        ApiFamily::OpenaiResponses,
        ApiFamily::OpenaiChat,
        ApiFamily::Gemini,
        ApiFamily::CodeAssist,
        ApiFamily::Vertex,
        ApiFamily::Bedrock,
    ];

    /// Gets the name used in routes.
    pub fn as_str(self) -> &'static str {
        match self {
            ApiFamily::Anthropic => "anthropic",
            ApiFamily::Openai => "openai",
            ApiFamily::OpenaiResponses => "openai_responses",
            ApiFamily::OpenaiChat => "openai_chat",
            ApiFamily::Gemini => "gemini",
            ApiFamily::CodeAssist => "code_assist",
            ApiFamily::Vertex => "vertex",
            ApiFamily::Bedrock => "bedrock",
        }
    }

    /// Gets the API whose form an answer of the plane's own has where the path does not say.
    pub fn usual(self) -> Api {
        match self {
            ApiFamily::Anthropic => Api::Anthropic,
            ApiFamily::Openai | ApiFamily::OpenaiResponses => Api::OpenaiResponses,
            ApiFamily::OpenaiChat => Api::OpenaiChat,
            ApiFamily::Gemini | ApiFamily::CodeAssist | ApiFamily::Vertex => Api::Gemini,
            ApiFamily::Bedrock => Api::BedrockConverse,
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl TerminalSize {
    /// What a terminal has that says nothing of its size.
    pub const USUAL: TerminalSize = TerminalSize { rows: 24, cols: 80 };

    /// Largest that is made: what draws for a terminal holds its cells in memory.
    pub const LARGEST: TerminalSize = TerminalSize { rows: 500, cols: 1000 };

    /// Gets a size that can be drawn for: none becomes the usual one, a huge one the largest.
    pub fn usable(self) -> TerminalSize {
        let side = |given: u16, usual: u16, most: u16| if given == 0 { usual } else { given.min(most) };
        TerminalSize {
            rows: side(self.rows, Self::USUAL.rows, Self::LARGEST.rows),
            cols: side(self.cols, Self::USUAL.cols, Self::LARGEST.cols),
        }
    }
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self::USUAL
    }
}

/// The most tokens of one class that are believed of one response. Sums of many stay below 2^63.
pub const MOST_OF_A_CLASS: u64 = 1 << 40;

/// Token counts of one response, each class apart. Unit: tokens.
///
/// Classes do not overlap, except `reasoning`, which is a part of `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Input that was neither read from nor written to a cache.
    pub input: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Input written to a cache that lives five minutes (or whose lifetime was not said).
    pub cache_write: u64,
    /// Input written to a cache that lives longer (Anthropic's `1h`, OpenAI's `ttl_12h`).
    pub cache_write_long: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// The part of `output` that was reasoning.
    pub reasoning: u64,
}

impl Tokens {
    /// Adds every class of `other`, saturating.
    pub fn add(&mut self, other: &Tokens) {
        self.input = self.input.saturating_add(other.input);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.cache_write_long = self.cache_write_long.saturating_add(other.cache_write_long);
        self.output = self.output.saturating_add(other.output);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
    }

    /// Gets the input of all classes.
    pub fn all_input(&self) -> u64 {
        let written = self.cache_write.saturating_add(self.cache_write_long);
        self.input.saturating_add(self.cache_read).saturating_add(written)
    }

    /// Tells whether no class counts anything.
    pub fn is_zero(&self) -> bool {
        *self == Tokens::default()
    }
}

/// How well a ledger row is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The API's own final figures.
    Exact,
    /// The stream ended early; what was seen, or the estimate where that is higher.
    Partial,
    /// No usable figures; charged at the estimate.
    Estimated,
}

impl Source {
    /// Gets the word for the ledger's column.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Exact => "exact",
            Source::Partial => "partial",
            Source::Estimated => "estimated",
        }
    }
}

/// What happens to a bottle when a budget that governs or binds it is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutoffPolicy {
    /// Its routes are dropped; the agent goes on running and can say so.
    #[default]
    Cutoff,
    /// Its processes are stopped until somebody lets them go on.
    Pause,
    /// Its state is saved, and it is stopped; it can be taken up again.
    Freeze,
    /// It is killed; nothing is saved.
    Kill,
}

impl CutoffPolicy {
    /// Each with its word, for whoever reads one.
    pub const WORDS: [(&'static str, CutoffPolicy); 4] = [
        ("cutoff", CutoffPolicy::Cutoff),
        ("pause", CutoffPolicy::Pause),
        ("freeze", CutoffPolicy::Freeze),
        ("kill", CutoffPolicy::Kill),
    ];

    /// Gets the word used in manifests, settings and the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            CutoffPolicy::Cutoff => "cutoff",
            CutoffPolicy::Pause => "pause",
            CutoffPolicy::Freeze => "freeze",
            CutoffPolicy::Kill => "kill",
        }
    }
}

/// How much a cut takes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutScope {
    /// Only the routes of model APIs.
    Metered,
    /// Every route.
    #[default]
    All,
}

impl CutScope {
    /// Gets the word used in manifests, settings and Lua.
    pub fn as_str(self) -> &'static str {
        match self {
            CutScope::Metered => "metered",
            CutScope::All => "all",
        }
    }
}

/// The two books: figures of a rehearsal never mix with real ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Book {
    /// Real usage, `bot-bottle.db`.
    #[default]
    Real,
    /// Usage of rehearsals, `rehearsal.db`.
    Rehearsal,
}

/// When a commit of the ledger counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Survives the death of every process at once, a power cut but for the last 250 ms; enforcement and audit rows
    /// survive both.
    #[default]
    Normal,
    /// Every commit survives a power cut.
    Power,
}
