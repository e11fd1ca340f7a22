//! The file in which the host's own CLI keeps its login: read when it has changed, and written back to as that CLI would.
//!
//! Its text is a secret: errors name the file and say what is wrong, and quote nothing of it. Nothing here decides when.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::stat::{Mode, fchmod};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::leftover;
use crate::api::{Login, LoginForm};
use crate::egress::oauth::endpoint::{Fresh, claims, is_token, wipe};
use crate::os::own_file::{self, Unfit};

/// How often it is written anew where somebody else has written it meanwhile.
const TRIES: u32 = 4;

/// What is wrong with a login's file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unread(#[from] io::Error),
    /// It is none.
    #[error("it is not a file")]
    NoFile,
    /// It is somebody else's.
    #[error("it belongs to another user ({0})")]
    Owner(u32),
    /// Others could write it.
    #[error("others than its owner can write it (mode {0:o})")]
    Open(u32),
    /// It is too large.
    #[error("it has more than 256 KiB")]
    Large,
    /// Somebody writes it without end.
    #[error("somebody else goes on writing it")]
    Busy,
    /// It is not of its form.
    #[error("it holds no login: {0}")]
    Form(&'static str),
}

impl From<Unfit> for FileError {
    fn from(unfit: Unfit) -> FileError {
        match unfit {
            Unfit::Unread(error) => FileError::Unread(error),
            Unfit::NoFile => FileError::NoFile,
            Unfit::Owner(other) => FileError::Owner(other),
            Unfit::Open(mode) => FileError::Open(mode),
            Unfit::Large => FileError::Large,
        }
    }
}

/// By what a change of a file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    id: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// Gets the one that a path has now.
    ///
    /// # Errors
    /// Those of lstat(2).
    pub fn of(path: &Path) -> io::Result<Stamp> {
        Ok(Stamp::from(&std::fs::symlink_metadata(path)?))
    }
}

impl From<&std::fs::Metadata> for Stamp {
    fn from(meta: &std::fs::Metadata) -> Stamp {
        // The time of its last change of any kind: no program can set that.
        Stamp { id: (meta.dev(), meta.ino()), size: meta.size(), changed: (meta.ctime(), meta.ctime_nsec()) }
    }
}

/// A login's tokens.
pub struct Tokens {
    /// Access token.
    pub access: SecretString,
    /// Refresh token.
    pub refresh: Option<SecretString>,
    /// Id token.
    pub id: Option<SecretString>,
    /// The account that the API wants to be told.
    pub account: Option<String>,
    /// When the access token expires, where that is known. Unit: seconds since the epoch.
    pub expires: Option<i64>,
    /// The client that it was given to, where that is not the form's own.
    pub client: Option<String>,
    /// What it is good for.
    pub scope: Option<String>,
}

impl Tokens {
    /// Gets them with what is fresh in place of what was.
    pub fn renewed(&self, form: LoginForm, fresh: &Fresh, now: i64) -> Tokens {
        Tokens {
            access: fresh.access.clone(),
            refresh: fresh.refresh.clone().or_else(|| self.refresh.clone()),
            id: fresh.id.clone().or_else(|| self.id.clone()),
            account: self.account.clone(),
            expires: expiry(form, &fresh.access, fresh.lasts.map(|lasts| now.saturating_add(lasts))),
            client: self.client.clone(),
            scope: self.scope.clone(),
        }
    }
}

/// Gets when an access token expires: as it says itself, where its form has tokens that do.
fn expiry(form: LoginForm, access: &SecretString, said: Option<i64>) -> Option<i64> {
    match form {
        LoginForm::Claude => said,
        LoginForm::Codex => claims(access.expose_secret()).and_then(|claims| claims["exp"].as_i64()).or(said),
    }
}

/// A text that came out of a login's file, overwritten when it is dropped.
struct Wiped(Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Reads a login's tokens out of its file's text.
///
/// # Errors
/// [`FileError::Form`].
pub fn parse(form: LoginForm, text: &[u8]) -> Result<Tokens, FileError> {
    let whole = Wiped(serde_json::from_slice(text).map_err(|_| FileError::Form("it is no JSON"))?);
    let within = &whole.0[within(form)];
    if !within.is_object() {
        return Err(FileError::Form(match form {
            LoginForm::Claude => "`claudeAiOauth` is missing; log in with a subscription",
            LoginForm::Codex => "`tokens` is missing; log in with ChatGPT",
        }));
    }
    let token = |name: &str, what| match within[name].as_str() {
        None | Some("") => Ok(None),
        Some(text) if is_token(text) => Ok(Some(SecretString::from(text))),
        Some(_) => Err(FileError::Form(what)),
    };
    let text = |name: &str| within[name].as_str().filter(|text| is_word(text)).map(str::to_owned);
    let [access, refresh, id] = match form {
        LoginForm::Claude => ["accessToken", "refreshToken", ""],
        LoginForm::Codex => ["access_token", "refresh_token", "id_token"],
    };
    let access = token(access, "its access token is none")?.ok_or(FileError::Form("it has no access token"))?;
    let refresh = token(refresh, "its refresh token is none")?;
    let id = token(id, "its id token is none")?;
    let millis = within["expiresAt"].as_i64().or_else(|| within["expiresAt"].as_f64().map(|ms| ms as i64));
    let expires = expiry(form, &access, millis.map(|ms| ms.div_euclid(1000)));
    let account = text("account_id").or_else(|| {
        let claims = claims(id.as_ref()?.expose_secret())?;
        let said = claims["https://api.openai.com/auth"]["chatgpt_account_id"].as_str()?;
        is_word(said).then(|| said.to_owned())
    });
    let scopes = within["scopes"].as_array().map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let scope =
        scopes.filter(|list| !list.is_empty() && list.iter().all(|one| is_word(one))).map(|list| list.join(" "));
    let account = account.filter(|_| form == LoginForm::Codex);
    Ok(Tokens { access, refresh, id, account, expires, client: text("clientId"), scope })
}

/// Tells whether a text is one word that a header can hold, and not too long.
fn is_word(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Gets the key under which a form has its tokens.
fn within(form: LoginForm) -> &'static str {
    match form {
        LoginForm::Claude => "claudeAiOauth",
        LoginForm::Codex => "tokens",
    }
}

/// Gets the text of the file with fresh tokens in it and everything else as it was; `None` where its refresh token is none of
/// `used`: somebody else has written it.
///
/// # Errors
/// [`FileError::Form`].
pub fn merged(
    form: LoginForm,
    text: &[u8],
    fresh: &Tokens,
    used: &[&SecretString],
    now: i64,
) -> Result<Option<Zeroizing<String>>, FileError> {
    let there = parse(form, text)?.refresh;
    let there = there.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
    if !used.iter().any(|one| one.expose_secret() == there) {
        return Ok(None);
    }
    let mut whole = Wiped(serde_json::from_slice(text).map_err(|_| FileError::Form("it is no JSON"))?);
    let said = |token: &Option<SecretString>| token.as_ref().map(|token| Value::from(token.expose_secret()));
    let access = Some(Value::from(fresh.access.expose_secret()));
    let (fields, last) = match form {
        LoginForm::Claude => (
            [
                ("accessToken", access),
                ("refreshToken", said(&fresh.refresh)),
                ("expiresAt", fresh.expires.map(|seconds| json!(seconds.saturating_mul(1000)))),
            ],
            None,
        ),
        LoginForm::Codex => (
            [("access_token", access), ("refresh_token", said(&fresh.refresh)), ("id_token", said(&fresh.id))],
            jiff::Timestamp::from_second(now).ok(),
        ),
    };
    for (name, value) in fields {
        if let Some(value) = value {
            wipe(&mut whole.0[within(form)][name]);
            whole.0[within(form)][name] = value;
        }
    }
    if let Some(last) = last {
        whole.0["last_refresh"] = json!(last.to_string());
    }
    // As it was laid out before.
    let pretty = text.trim_ascii().contains(&b'\n');
    let written = if pretty { serde_json::to_string_pretty(&whole.0) } else { serde_json::to_string(&whole.0) };
    let mut written = written.map(Zeroizing::new).map_err(|_| FileError::Form("it cannot be written"))?;
    if text.ends_with(b"\n") {
        written.push('\n');
    }
    Ok(Some(written))
}

/// Reads a login's file; a link is not followed.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<(Stamp, Zeroizing<Vec<u8>>), FileError> {
    let (meta, bytes) = own_file::read(path, Login::BOUNDS)?;
    Ok((Stamp::from(&meta), bytes))
}

/// What came of writing fresh tokens back.
pub enum Wrote {
    /// They are in the file, which has this stamp now.
    Written(Stamp),
    /// Somebody else has written it meanwhile, and that counts.
    Theirs,
}

/// Writes fresh tokens into the file, which its owner's own programs go on to use: a whole new one with the same owner and mode
/// takes its place, when it is on the disk. See [`merged`].
///
/// # Errors
/// [`FileError`]; the file is as it was then.
pub fn write_back(
    form: LoginForm,
    path: &Path,
    fresh: &Tokens,
    used: &[&SecretString],
    now: i64,
) -> Result<Wrote, FileError> {
    let (_, before) = own_file::open(path, Login::BOUNDS)?;
    let beside = leftover::beside(path).ok_or(FileError::NoFile)?;
    leftover::remove(path, before.uid());
    let put = |text: &str, stamp: Stamp| -> io::Result<Option<Stamp>> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            nix::unistd::fchown(&file, Some(before.uid().into()), Some(before.gid().into()))?;
        }
        fchmod(&file, Mode::from_bits_truncate(before.mode() & 0o7777))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if Stamp::of(path)? != stamp {
            return Ok(None);
        }
        std::fs::rename(&beside, path)?;
        if let Some(parent) = path.parent() {
            // It stands whether or not the directory can be synced.
            let _ = File::open(parent).and_then(|dir| dir.sync_all());
        }
        Ok(Some(Stamp::from(&file.metadata()?)))
    };
    for _ in 0..TRIES {
        let (stamp, text) = read(path)?;
        let Some(text) = merged(form, &text, fresh, used, now)? else { return Ok(Wrote::Theirs) };
        let done = put(&text, stamp);
        if !matches!(done, Ok(Some(_))) {
            let _ = std::fs::remove_file(&beside);
        }
        // The CLI may have written it while this was being done: what it wrote counts, if it is of another refresh.
        if let Some(stamp) = done? {
            return Ok(Wrote::Written(stamp));
        }
    }
    Err(FileError::Busy)
}
