//! Token endpoints of subscription logins, answered in place of their servers: the form of what a bottle may ask there, and of what
//! it is answered. And how the host asks at the real one.
//!
//! Pure: bytes in, values out. A bottle's request is never sent on, and no real token is in anything that is made here for it
//! ([`placeholder`]). What comes from the real endpoint is no more trusted than from a bottle ([`endpoint`]).

pub mod endpoint;
pub mod placeholder;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::body::Outgoing;
use super::deny::{self, Denial, Deny};
use crate::api::LoginForm;
use crate::types::Api;
use placeholder as is;

/// Largest request of a bottle, and largest answer of a real endpoint. Unit: bytes.
pub const MOST: usize = 64 << 10;
/// What a bottle is told to be left of a token of which nobody knows when it ends. Unit: seconds.
const UNKNOWN: i64 = 8 * 3600;

/// Checks what a bottle asks of the token endpoint of a login: fresh tokens for the placeholder that it has, and nothing else.
pub fn asked(form: LoginForm, content_type: Option<&str>, body: &[u8]) -> Result<(), Deny> {
    let garbled =
        |what: &str| Deny::new(Denial::ProtocolUnknown, format!("bb: this is no request for a token: {what}."));
    let kind = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    let coded = form == LoginForm::Codex && kind == "application/x-www-form-urlencoded";
    if !coded && kind != "application/json" {
        return Err(garbled("the body is not of a type that is read here"));
    }
    if body.len() > MOST {
        return Err(too_large());
    }
    let fields = if coded {
        of_form(body).ok_or_else(|| garbled("the form cannot be read"))?
    } else {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => fields,
            _ => return Err(garbled("the body is no JSON object")),
        }
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    match text("grant_type") {
        None => Err(garbled("`grant_type` is missing")),
        Some("refresh_token") => match text("refresh_token") {
            None => Err(garbled("`refresh_token` is missing")),
            Some(token) if token == is::refresh(form) => Ok(()),
            Some(_) => Err(foreign("this is another login than the host's")),
        },
        Some(_) => Err(foreign("nobody logs in inside a bottle")),
    }
}

/// Gets the refusal of a request that is too large.
pub fn too_large() -> Deny {
    Deny::new(Denial::BodyTooLarge, "bb: a request for a token may have 64 KiB.")
}

fn foreign(why: &str) -> Deny {
    Deny::new(Denial::LoginForeign, format!("bb: {why}: a bottle works with the login of the host. Log in there."))
        .step("go on with the login that is there; only the operator can log in, on the host")
}

/// Reads a body of type `application/x-www-form-urlencoded`.
fn of_form(body: &[u8]) -> Option<Map<String, Value>> {
    let text = std::str::from_utf8(body).ok()?;
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((plain(name)?, Value::from(plain(value)?)))
    });
    pairs.collect()
}

/// Reads one coded word of a form.
fn plain(coded: &str) -> Option<String> {
    let mut out = Vec::with_capacity(coded.len());
    let mut rest = coded.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let (code, after) = rest.split_at_checked(2)?;
                // A sign would be taken for a part of the number.
                let code = code.iter().all(u8::is_ascii_hexdigit).then_some(code)?;
                out.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
                rest = after;
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// Gets what a bottle is answered, whose host has a token with `left` seconds to go.
pub fn granted(form: LoginForm, left: Option<i64>) -> Response<Outgoing> {
    let left = left.unwrap_or(UNKNOWN).max(1);
    let body = match form {
        LoginForm::Claude => json!({
            "token_type": "Bearer", "access_token": is::CLAUDE_ACCESS, "expires_in": left,
            "refresh_token": is::CLAUDE_REFRESH, "scope": is::CLAUDE_SCOPE,
        }),
        LoginForm::Codex => json!({
            "token_type": "Bearer", "access_token": is::CODEX_ACCESS, "expires_in": left,
            "refresh_token": is::CODEX_REFRESH, "id_token": is::CODEX_ID, "scope": is::CODEX_SCOPE,
        }),
    };
    let mut answer = Response::new(Outgoing::full(body.to_string().into()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Gets the answer to a refused request at a token endpoint, as the CLI of `form` understands it (RFC 6749, 5.2).
pub fn refused(form: LoginForm, deny: &Deny) -> Response<Outgoing> {
    let gone = matches!(deny.kind, Denial::LoginExpired | Denial::LoginForeign);
    let word = match deny.kind {
        _ if gone => "invalid_grant",
        Denial::ProtocolUnknown | Denial::BodyTooLarge => "invalid_request",
        _ => "temporarily_unavailable",
    };
    // Codex goes on asking unless its token is called revoked, in a form of its own.
    if gone && form == LoginForm::Codex {
        let error =
            json!({"type": "invalid_request_error", "code": "refresh_token_invalidated", "message": deny.message});
        return deny::respond(deny.kind, StatusCode::UNAUTHORIZED, &json!({ "error": error }));
    }
    let body = json!({"error": word, "error_description": deny.message});
    deny::respond(deny.kind, deny.kind.status(), &body)
}

/// Gets the answer to a request of `api` for which the host has no login any more. CLIs print the sentence of a 400 and end; at
/// 401 and 403 they would drop their placeholders, and at 5xx try again for minutes.
pub fn expired(api: Api, deny: &Deny) -> Response<Outgoing> {
    let error = json!({"type": "invalid_request_error", "message": deny.message, "code": deny.kind.as_str()});
    let body = match api {
        Api::Anthropic => json!({"type": "error", "error": error}),
        _ => json!({ "error": error }),
    };
    deny::respond(deny.kind, deny.kind.status(), &body)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    const JSON: Option<&str> = Some("application/json; charset=utf-8");
    const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

    fn kind(form: LoginForm, content_type: Option<&str>, body: impl AsRef<[u8]>) -> Option<Denial> {
        asked(form, content_type, body.as_ref()).err().map(|deny| deny.kind)
    }

    fn ask(token: &str) -> String {
        json!({"grant_type": "refresh_token", "refresh_token": token, "client_id": "any", "scope": "a b"}).to_string()
    }

    #[test]
    fn only_the_bottles_own_placeholder_is_good_for_anything() {
        use Denial::{BodyTooLarge, LoginForeign, ProtocolUnknown};
        use LoginForm::{Claude, Codex};
        let code = json!({"grant_type": "authorization_code", "code": "x"}).to_string();
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MOST));
        let form = |token: &str| format!("client_id=app&grant_type=refresh%5ftoken&refresh_token={token}&scope=a+b");
        for (form, kind_of, body, want) in [
            (Claude, JSON, ask(is::CLAUDE_REFRESH), None),
            (Codex, JSON, ask(is::CODEX_REFRESH), None),
            (Codex, FORM, form(is::CODEX_REFRESH), None),
            (Claude, FORM, form(is::CLAUDE_REFRESH), Some(ProtocolUnknown)),
            (Claude, JSON, ask(is::CODEX_REFRESH), Some(LoginForeign)),
            (Codex, JSON, ask(is::CLAUDE_REFRESH), Some(LoginForeign)),
            (Claude, JSON, ask(is::CLAUDE_ACCESS), Some(LoginForeign)),
            (Claude, JSON, ask(""), Some(LoginForeign)),
            (Claude, JSON, ask(&format!("{} ", is::CLAUDE_REFRESH)), Some(LoginForeign)),
            (Codex, FORM, form("other"), Some(LoginForeign)),
            (Claude, JSON, code.clone(), Some(LoginForeign)),
            (Codex, JSON, code, Some(LoginForeign)),
            (
                Codex,
                FORM,
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange".into(),
                Some(LoginForeign),
            ),
            (Claude, None, ask(is::CLAUDE_REFRESH), Some(ProtocolUnknown)),
            (Claude, Some("text/plain"), ask(is::CLAUDE_REFRESH), Some(ProtocolUnknown)),
            (Claude, JSON, String::new(), Some(ProtocolUnknown)),
            (Claude, JSON, "[]".into(), Some(ProtocolUnknown)),
            (Claude, JSON, "{\"grant_type\":".into(), Some(ProtocolUnknown)),
            (Claude, JSON, "{\"grant_type\":\"refresh_token\"}".into(), Some(ProtocolUnknown)),
            (
                Claude,
                JSON,
                "{\"grant_type\":[\"refresh_token\"],\"refresh_token\":\"x\"}".into(),
                Some(ProtocolUnknown),
            ),
            (Codex, FORM, "grant_type=refresh_token&refresh_token=%zz".into(), Some(ProtocolUnknown)),
            (Codex, FORM, "grant_type=refresh_token&refresh_token=%+1".into(), Some(ProtocolUnknown)),
            (Codex, FORM, "grant_type".into(), Some(ProtocolUnknown)),
            (Claude, JSON, long, Some(BodyTooLarge)),
        ] {
            assert_eq!(kind(form, kind_of, &body), want, "{form:?} {kind_of:?} {}", &body[..body.len().min(200)]);
        }
    }

    proptest! {
        #[test]
        fn whatever_else_is_sent_is_refused(body in proptest::collection::vec(any::<u8>(), 0..400), json in any::<bool>()) {
            for form in [LoginForm::Claude, LoginForm::Codex] {
                let kind = if json { JSON } else { FORM };
                prop_assert!(asked(form, kind, &body).is_err());
            }
        }
    }

    async fn of(answer: Response<Outgoing>) -> (u16, Value) {
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn answers_have_the_shape_that_each_cli_reads() {
        let (status, claude) = of(granted(LoginForm::Claude, Some(77))).await;
        assert_eq!((status, &claude["expires_in"]), (200, &json!(77)));
        assert_eq!(claude["access_token"], is::CLAUDE_ACCESS);
        let (_, codex) = of(granted(LoginForm::Codex, Some(-5))).await;
        assert_eq!((&codex["expires_in"], &codex["id_token"]), (&json!(1), &json!(is::CODEX_ID)));
        let deny = Deny::new(Denial::LoginExpired, "bb: log in");
        let (status, body) = of(refused(LoginForm::Claude, &deny)).await;
        assert_eq!((status, body), (400, json!({"error": "invalid_grant", "error_description": "bb: log in"})));
        let (status, body) = of(refused(LoginForm::Codex, &deny)).await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!("refresh_token_invalidated")));
        let deny = Deny::new(Denial::ProtocolUnknown, "bb: no");
        assert_eq!(of(refused(LoginForm::Codex, &deny)).await.1["error"], "invalid_request");
    }
}
