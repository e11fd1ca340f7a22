//! The real token endpoints: where they are, what the host's own CLI says there, and what may come back. Pure.
//!
//! An answer is taken for what it is worth: its size is bounded by whoever reads it, its tokens have to be such that a header can
//! hold them, and nothing of it is ever quoted.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use crate::api::LoginForm;

/// Longest token. Unit: bytes.
const LONGEST: usize = 16 << 10;
/// Shortest token: what is shorter would be found by chance where it is looked for.
const SHORTEST: usize = 16;
/// Shortest and longest time that a fresh token may last: with a shorter one the host would ask without end. Unit: seconds.
const LASTS: std::ops::RangeInclusive<i64> = 60..=10 * 366 * 24 * 3600;

/// Where fresh tokens come from, and as which client.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Host, port 443.
    pub host: &'static str,
    /// Path.
    pub path: &'static str,
    /// Client id of the vendor's CLI.
    pub client: &'static str,
    /// Domains of the vendor: a token of this login goes to no other host.
    pub domains: &'static [&'static str],
}

/// Gets the endpoint of a form, as Claude Code 2.1 and Codex 0.169 have it.
pub fn of(form: LoginForm) -> Endpoint {
    match form {
        LoginForm::Claude => Endpoint {
            host: "platform.claude.com",
            path: "/v1/oauth/token",
            client: "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
            domains: &["anthropic.com", "claude.com", "claude.ai"],
        },
        LoginForm::Codex => Endpoint {
            host: "auth.openai.com",
            path: "/oauth/token",
            client: "app_EMoamEEZ73f0CkXaXp7hrann",
            domains: &["openai.com", "chatgpt.com"],
        },
    }
}

impl Endpoint {
    /// Tells whether a host, in canonical form, is the vendor's.
    pub fn is_its(&self, host: &str) -> bool {
        let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.domains.iter().any(|domain| below(domain))
    }
}

/// Writes the request for fresh tokens.
pub fn request(
    form: LoginForm,
    refresh: &SecretString,
    client: Option<&str>,
    scope: Option<&str>,
) -> Zeroizing<String> {
    let mut body = json!({
        "grant_type": "refresh_token", "refresh_token": refresh.expose_secret(),
        "client_id": client.unwrap_or(of(form).client),
    });
    if let (LoginForm::Claude, Some(scope)) = (form, scope) {
        body["scope"] = json!(scope);
    }
    let text = Zeroizing::new(body.to_string());
    wipe(&mut body);
    text
}

/// Fresh tokens.
pub struct Fresh {
    /// Access token.
    pub access: SecretString,
    /// The refresh token that takes the place of the one that was used; that one stays where absent.
    pub refresh: Option<SecretString>,
    /// Id token.
    pub id: Option<SecretString>,
    /// How long the access token lasts. Unit: seconds.
    pub lasts: Option<i64>,
}

/// Why there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTokens {
    /// The refresh token is good for nothing any more.
    Gone,
    /// The server cannot, or does not want to, at this moment.
    Status(u16),
    /// The answer is none.
    Shape(&'static str),
}

/// Reads the answer.
pub fn answer(form: LoginForm, status: u16, body: &[u8]) -> Result<Fresh, NoTokens> {
    let mut value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(_) if status == 200 => return Err(NoTokens::Shape("it is no JSON")),
        Err(_) => return Err(NoTokens::Status(status)),
    };
    let read = if status == 200 { fresh(form, &value) } else { Err(failure(status, &value)) };
    wipe(&mut value);
    read
}

/// Gets what an answer says that is none of tokens.
fn failure(status: u16, value: &Value) -> NoTokens {
    let error = &value["error"];
    let word = error.as_str().or(error["code"].as_str()).or(value["code"].as_str()).unwrap_or_default();
    let gone = word == "invalid_grant"
        || ["refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated"].contains(&word);
    if gone && (400..404).contains(&status) { NoTokens::Gone } else { NoTokens::Status(status) }
}

fn fresh(form: LoginForm, value: &Value) -> Result<Fresh, NoTokens> {
    let token = |name: &str, what| match &value[name] {
        Value::Null => Ok(None),
        Value::String(text) if is_token(text) => Ok(Some(SecretString::from(text.as_str()))),
        _ => Err(NoTokens::Shape(what)),
    };
    let access = token("access_token", "its access token is none")?.ok_or(NoTokens::Shape("it has no access token"))?;
    if !value["token_type"].is_null() && !value["token_type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case("bearer"))
    {
        return Err(NoTokens::Shape("its token is not of type Bearer"));
    }
    let lasts = match &value["expires_in"] {
        Value::Null => None,
        said => match said.as_i64().filter(|said| LASTS.contains(said)) {
            Some(said) => Some(said),
            None => return Err(NoTokens::Shape("its `expires_in` makes no sense")),
        },
    };
    if form == LoginForm::Claude && lasts.is_none() {
        return Err(NoTokens::Shape("it does not say when its token expires"));
    }
    Ok(Fresh {
        access,
        refresh: token("refresh_token", "its refresh token is none")?,
        id: token("id_token", "its id token is none")?,
        lasts,
    })
}

/// Tells whether a text can be a token: one word that a header can hold.
pub fn is_token(text: &str) -> bool {
    (SHORTEST..=LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

/// Gets the claims of a token that has some (RFC 7519). Its signature is nobody's business here.
pub fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?);
    serde_json::from_slice(&bytes).ok()
}

/// Overwrites every text of a value.
pub fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_tokens_or_a_reason_without_a_word_of_it() {
        let good = |lasts: i64| json!({"access_token": "a".repeat(40), "refresh_token": "r".repeat(40), "token_type": "bearer", "expires_in": lasts});
        let shape = |form, value: &Value| match answer(form, 200, value.to_string().as_bytes()) {
            Ok(fresh) => Ok((fresh.access.expose_secret().len(), fresh.lasts)),
            Err(why) => Err(why),
        };
        assert_eq!(shape(LoginForm::Claude, &good(3600)), Ok((40, Some(3600))));
        let without = json!({"access_token": "a".repeat(40)});
        assert_eq!(shape(LoginForm::Codex, &without), Ok((40, None)));
        assert!(shape(LoginForm::Claude, &without).is_err());
        for (key, value) in [
            ("access_token", json!(null)),
            ("access_token", json!("a")),
            ("access_token", json!("a".repeat(LONGEST + 1))),
            ("access_token", json!(format!("{} {}", "a".repeat(20), "a".repeat(20)))),
            ("access_token", json!(format!("{}\r\nx: y", "a".repeat(20)))),
            ("access_token", json!(["a"])),
            ("refresh_token", json!(7)),
            ("id_token", json!("ü".repeat(20))),
            ("token_type", json!("mac")),
            ("expires_in", json!(0)),
            ("expires_in", json!(1)),
            ("expires_in", json!(-3600)),
            ("expires_in", json!(1e30)),
            ("expires_in", json!("3600")),
        ] {
            let mut bad = good(3600);
            bad[key] = value;
            for form in [LoginForm::Claude, LoginForm::Codex] {
                assert!(matches!(shape(form, &bad), Err(NoTokens::Shape(_))), "{key}: {}", bad[key]);
            }
        }
        for (status, body, want) in [
            (200, "<html>", NoTokens::Shape("it is no JSON")),
            (200, "[]", NoTokens::Shape("it has no access token")),
            (400, "{\"error\":\"invalid_grant\"}", NoTokens::Gone),
            (401, "{\"error\":{\"code\":\"refresh_token_reused\"}}", NoTokens::Gone),
            (400, "{\"error\":\"invalid_request\"}", NoTokens::Status(400)),
            (500, "{\"error\":\"invalid_grant\"}", NoTokens::Status(500)),
            (302, "", NoTokens::Status(302)),
            (429, "{}", NoTokens::Status(429)),
        ] {
            assert_eq!(answer(LoginForm::Claude, status, body.as_bytes()).err(), Some(want), "{status} {body}");
        }
    }

    #[test]
    fn a_tokens_host_is_its_vendors() {
        let (claude, codex) = (of(LoginForm::Claude), of(LoginForm::Codex));
        for (host, its) in [
            ("api.anthropic.com", (true, false)),
            ("platform.claude.com", (true, false)),
            ("chatgpt.com", (false, true)),
            ("auth.openai.com", (false, true)),
            ("notopenai.com", (false, false)),
            ("openai.com.evil.example", (false, false)),
            ("evil.example", (false, false)),
        ] {
            assert_eq!((claude.is_its(host), codex.is_its(host)), its, "{host}");
        }
        assert!(claude.is_its(claude.host) && codex.is_its(codex.host));
    }

    #[test]
    fn what_is_asked_is_what_the_clis_ask() {
        let token = SecretString::from("refresh-token-of-it");
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let claude = read(&request(LoginForm::Claude, &token, None, Some("user:inference user:profile")));
        assert_eq!(
            claude,
            json!({
                "grant_type": "refresh_token", "refresh_token": "refresh-token-of-it",
                "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e", "scope": "user:inference user:profile",
            })
        );
        let codex = read(&request(LoginForm::Codex, &token, Some("own"), Some("x")));
        assert_eq!((&codex["client_id"], codex.get("scope")), (&json!("own"), None));
        assert_eq!(claims("a.eyJleHAiOjd9.c").unwrap()["exp"], 7);
        assert!(claims("a.b").is_none() && claims("a.!.c").is_none());
    }
}
