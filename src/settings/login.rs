//! Where the subscription logins of agents' CLIs lie on this host, and whether one can be worked with.
//!
//! A file is looked at and nothing of it is kept: tokens are read by the controller, when a request needs them. Must not show
//! anything of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::api::{Login, LoginForm};
use crate::error::{Error, Kind, Result};
use crate::os::own_file::{self, Bounds, Unfit};

/// The forms by their words.
pub(super) const FORMS: [(&str, LoginForm); 2] = [("claude", LoginForm::Claude), ("codex", LoginForm::Codex)];

/// Gets where the CLI itself keeps its login.
pub fn usual(form: LoginForm) -> &'static str {
    match form {
        LoginForm::Claude => "~/.claude/.credentials.json",
        LoginForm::Codex => "~/.codex/auth.json",
    }
}

/// Says whose login it is.
pub fn title(form: LoginForm) -> &'static str {
    match form {
        LoginForm::Claude => "the login of Claude Code",
        LoginForm::Codex => "the login of Codex",
    }
}

/// Says how one logs in.
pub fn advice(form: LoginForm) -> &'static str {
    match form {
        LoginForm::Claude => "run `claude` on this host and log in (`/login`)",
        LoginForm::Codex => "run `codex login` on this host",
    }
}

/// A string that is there and not empty, of which nothing is kept.
#[derive(Default)]
struct Filled(bool);

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Look;
        impl Visitor<'_> for Look {
            type Value = Filled;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Filled, E> {
                Ok(Filled(!text.trim().is_empty()))
            }
            fn visit_unit<E: de::Error>(self) -> std::result::Result<Filled, E> {
                Ok(Filled(false))
            }
        }
        deserializer.deserialize_any(Look)
    }
}

/// The two tokens of a login.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    #[serde(alias = "accessToken")]
    access_token: Filled,
    #[serde(alias = "refreshToken")]
    refresh_token: Filled,
}

/// What of either file is looked at.
#[derive(Deserialize)]
struct Kept {
    #[serde(rename = "claudeAiOauth", default)]
    claude: Option<Tokens>,
    #[serde(rename = "tokens", default)]
    codex: Option<Tokens>,
}

/// Makes a login of a file, which is looked at; `shown` is how it is told.
///
/// # Errors
/// `credential_missing`: it is not there, is another user's, can be written by others, or holds no login that can be renewed.
pub fn found(form: LoginForm, path: &Path, shown: &str) -> Result<Login> {
    let wrong = |what: String, hint: String| {
        Error::new(Kind::CredentialMissing, format!("{} in {shown} {what}", title(form))).hint(hint)
    };
    let again = |what: String| wrong(what, advice(form).to_owned());
    let unread = |e: io::Error| again(format!("cannot be read: {e}"));
    let real = path.canonicalize().map_err(unread)?;
    // Root's will not do: what is refreshed is written back, with the owner that it has.
    let bounds = Bounds { of_root: false, ..Login::BOUNDS };
    let (_, bytes) = own_file::read(&real, bounds).map_err(|unfit| match unfit {
        Unfit::Unread(e) => unread(e),
        Unfit::NoFile => again("is no file".to_owned()),
        Unfit::Owner(other) => {
            let hint = format!("run bb as its owner, or log in as yourself: {}", advice(form));
            wrong(format!("belongs to another user ({other})"), hint)
        }
        Unfit::Open(mode) => {
            let message = format!("can be written by others than its owner (mode {mode:o})");
            wrong(message, format!("chmod 600 {}", real.display()))
        }
        Unfit::Large => again("has more than 256 KiB".to_owned()),
    })?;
    // The parser's own words could quote it.
    let kept: Kept = serde_json::from_slice(&bytes)
        .map_err(|_| again("cannot be understood: it is not the file that its CLI writes".to_owned()))?;
    let tokens = match form {
        LoginForm::Claude => kept.claude,
        LoginForm::Codex => kept.codex,
    };
    let tokens = tokens.filter(|tokens| tokens.access_token.0 || tokens.refresh_token.0);
    let Some(tokens) = tokens else { return Err(again("is none: nobody is logged in there".to_owned())) };
    if !tokens.refresh_token.0 {
        return Err(again("has no refresh token, so it would end soon".to_owned()));
    }
    if !tokens.access_token.0 {
        return Err(again("has no access token".to_owned()));
    }
    Ok(Login { form, file: real })
}

/// Gets the path that a text of the settings, or of [`usual`], means.
pub(super) fn below(user_home: Option<&Path>, text: &str) -> Option<PathBuf> {
    Some(user_home?.join(text.strip_prefix("~/")?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::os::own_file::tests::Scratch;

    const CLAUDE: &str = r#"{"claudeAiOauth":{"accessToken":"s3cret-a","refreshToken":"s3cret-r","expiresAt":1,"scopes":[]},"mcpOAuth":{}}"#;
    const CODEX: &str =
        r#"{"OPENAI_API_KEY":null,"tokens":{"id_token":"x","access_token":"s3cret-a","refresh_token":"s3cret-r"}}"#;

    #[track_caller]
    fn refused(form: LoginForm, path: &Path, what: &str, hint: &str) {
        let error = found(form, path, "~/it").unwrap_err();
        assert_eq!(error.kind, Kind::CredentialMissing, "{error}");
        assert!(error.message.starts_with(&format!("{} in ~/it ", title(form))), "{error}");
        assert!(error.message.contains(what), "{what}: {error}");
        assert!(error.hint.as_deref().unwrap().contains(hint), "{hint}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_login_is_the_file_that_its_cli_writes_and_a_link_is_followed_once() {
        let scratch = Scratch::new();
        for (form, text) in [(LoginForm::Claude, CLAUDE), (LoginForm::Codex, CODEX)] {
            for mode in [0o600, 0o400, 0o644] {
                let path = scratch.file(text, mode);
                assert_eq!(found(form, &path, "it").unwrap(), Login { form, file: path });
            }
        }
        let link = scratch.0.join("link");
        symlink("file", &link).unwrap();
        assert_eq!(found(LoginForm::Codex, &link, "it").unwrap().file, scratch.0.join("file"));
    }

    #[test]
    fn what_is_no_login_is_refused_by_name_and_not_shown() {
        let scratch = Scratch::new();
        let claude =
            |text: &str, what: &str| refused(LoginForm::Claude, &scratch.file(text, 0o600), what, "run `claude`");
        let codex = |text: &str, what: &str| refused(LoginForm::Codex, &scratch.file(text, 0o600), what, "codex login");
        claude("", "cannot be understood");
        claude("s3cret", "cannot be understood");
        claude("[]", "nobody is logged in");
        claude(r#"{"claudeAiOauth":{"accessToken":{"s3cret":1},"refreshToken":"x"}}"#, "cannot be understood");
        claude("{}", "nobody is logged in");
        claude(r#"{"claudeAiOauth":null}"#, "nobody is logged in");
        // What Claude Code leaves where its login has ended.
        claude(r#"{"claudeAiOauth":{"accessToken":"","refreshToken":"","expiresAt":0}}"#, "nobody is logged in");
        claude(r#"{"claudeAiOauth":{"accessToken":"s3cret","refreshToken":null}}"#, "no refresh token");
        claude(r#"{"claudeAiOauth":{"refreshToken":"s3cret"}}"#, "no access token");
        claude(CODEX, "nobody is logged in");
        codex(CLAUDE, "nobody is logged in");
        codex(r#"{"OPENAI_API_KEY":"s3cret","tokens":null}"#, "nobody is logged in");
        codex(r#"{"tokens":{"access_token":"s3cret"}}"#, "no refresh token");
        claude(&format!("{}{CLAUDE}", " ".repeat(256 << 10)), "more than 256 KiB");
        for mode in [0o620, 0o602, 0o666] {
            refused(LoginForm::Claude, &scratch.file(CLAUDE, mode), &format!("(mode {mode:o})"), "chmod 600");
        }
        let path = scratch.file(CLAUDE, 0o600);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            refused(LoginForm::Claude, &path, "another user (12345)", "run bb as its owner");
        }
        fs::remove_file(&path).unwrap();
        refused(LoginForm::Claude, &path, "cannot be read", "run `claude`");
        refused(LoginForm::Claude, &scratch.0, "is no file", "run `claude`");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        refused(LoginForm::Claude, &path, "is no file", "run `claude`");
    }
}
