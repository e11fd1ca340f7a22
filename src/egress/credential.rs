//! The credentials of a bottle's routes: put into requests, taken out of answers that echo them.
//!
//! Values live here and in the keeper only; those of a login ([`super::login`]) are asked for at each request. They are chosen by
//! route, which was chosen by the one name of the request, and the router has already refused plain HTTP for such routes. Nothing
//! here is ever printed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};

use super::deny::{Denial, Deny};
use super::login::Holder;
use super::login::heard::Heard;
use crate::api::{Auth, AuthScheme, Route};

/// A shorter value is not looked for in answers: it would be found by chance.
const SHORTEST_REDACTED: usize = 8;
/// What stands in an answer's header in place of the value.
const REDACTED: HeaderValue = HeaderValue::from_static("[redacted by bb]");

/// One credential, ready to be put in.
#[derive(Clone)]
pub struct Injection {
    name: HeaderName,
    value: HeaderValue,
    /// What goes with it: the account that a login is of.
    beside: Option<(HeaderName, HeaderValue)>,
    /// Hears what the API says to it, where somebody wants to know.
    heard: Option<Arc<Heard>>,
    /// What is looked for in answers: the value in each form in which a server may echo it.
    finders: Arc<[memmem::Finder<'static>]>,
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The credentials of all routes of a bottle.
#[derive(Debug, Default)]
pub struct Credentials {
    fixed: Vec<(Auth, Injection)>,
    logins: BTreeMap<String, Arc<Holder>>,
}

/// Where what a route puts in comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// It was given at the launch.
    Fixed(&'a Injection),
    /// It is a login's, and has to be asked for.
    Login(&'a Arc<Holder>),
}

impl Credentials {
    /// Prepares what `routes` put in. A route whose value is absent, empty or not a header's is left out, and its
    /// requests are refused as `credential_missing`.
    pub fn new(routes: &[Route], values: &BTreeMap<String, SecretString>) -> Credentials {
        let prepared = routes.iter().filter_map(|route| {
            let auth = route.auth.as_ref()?;
            let injection = prepare(auth, values.get(&auth.credential)?.expose_secret())?;
            Some((auth.clone(), injection))
        });
        Credentials { fixed: prepared.collect(), logins: BTreeMap::new() }
    }

    /// Adds logins, by the names by which routes have them.
    pub fn with(self, logins: BTreeMap<String, Arc<Holder>>) -> Credentials {
        Credentials { logins, ..self }
    }

    /// Gets the login that a route is the token endpoint of.
    pub fn login(&self, name: &str) -> Result<&Arc<Holder>, Deny> {
        let missing = || Deny::new(Denial::CredentialMissing, format!("bb: the login {name:?} was not given."));
        self.logins.get(name).ok_or_else(missing)
    }

    /// Gets where what `route` puts in comes from, if it puts anything in.
    pub fn of(&self, route: &Route) -> Result<Option<Source<'_>>, Deny> {
        let Some(auth) = &route.auth else { return Ok(None) };
        if let Some(holder) = self.logins.get(&auth.credential).filter(|_| auth.scheme == AuthScheme::Bearer) {
            return Ok(Some(Source::Login(holder)));
        }
        match self.fixed.iter().find(|(known, _)| known == auth) {
            Some((_, injection)) => Ok(Some(Source::Fixed(injection))),
            None => Err(Deny::new(
                Denial::CredentialMissing,
                format!(
                    "bb: the route to {} needs the credential {:?}, which was not given.",
                    route.host, auth.credential
                ),
            )
            .step("only the operator can give it, at launch")),
        }
    }
}

fn prepare(auth: &Auth, secret: &str) -> Option<Injection> {
    let secret = secret.trim();
    if secret.is_empty() {
        return None;
    }
    let (name, text) = match auth.scheme {
        AuthScheme::Bearer => (header::AUTHORIZATION, zeroize::Zeroizing::new(format!("Bearer {secret}"))),
        AuthScheme::Token => (header::AUTHORIZATION, zeroize::Zeroizing::new(format!("token {secret}"))),
        AuthScheme::Header => {
            let name = HeaderName::try_from(auth.header.as_deref()?).ok()?;
            (name, zeroize::Zeroizing::new(secret.to_owned()))
        }
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    let finders = finders([secret]);
    Some(Injection { name, value, beside: None, heard: None, finders })
}

/// Gets what finds each of `secrets` in each of its forms.
fn finders<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Arc<[memmem::Finder<'static>]> {
    let long = secrets.into_iter().filter(|secret| secret.len() >= SHORTEST_REDACTED);
    let forms = long.flat_map(forms);
    forms.map(|form| memmem::Finder::new(form.as_bytes()).into_owned()).collect()
}

/// Gets the forms in which a server may echo a value: as it is, inside a JSON text, and inside an address.
fn forms(secret: &str) -> Vec<zeroize::Zeroizing<String>> {
    let mut forms = vec![zeroize::Zeroizing::new(secret.to_owned())];
    let json = zeroize::Zeroizing::new(serde_json::Value::from(secret).to_string());
    let json = zeroize::Zeroizing::new(json.trim_matches('"').to_owned());
    let mut coded = zeroize::Zeroizing::new(String::with_capacity(secret.len() * 3));
    for byte in secret.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => coded.push(char::from(byte)),
            _ => coded.push_str(&format!("%{byte:02X}")),
        }
    }
    for form in [json, coded] {
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    forms
}

/// The header by which ChatGPT's API is told the account that a token is of.
const ACCOUNT: HeaderName = HeaderName::from_static("chatgpt-account-id");

impl Injection {
    /// Makes that of a login: its access token, and the account that it is of. All of `looked_for` is taken out of answers.
    /// `heard` is told what the API says to it.
    pub(super) fn of_login<'a>(
        access: &SecretString,
        account: Option<&'a str>,
        looked_for: impl Iterator<Item = &'a SecretString>,
        heard: Arc<Heard>,
    ) -> Injection {
        let marked = |text: &str| {
            // Tokens were checked when they were read: a header can hold them.
            let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
            value.set_sensitive(true);
            value
        };
        let text = zeroize::Zeroizing::new(format!("Bearer {}", access.expose_secret()));
        Injection {
            name: header::AUTHORIZATION,
            value: marked(&text),
            beside: account.map(|account| (ACCOUNT, marked(account))),
            heard: Some(heard),
            finders: finders(looked_for.map(ExposeSecret::expose_secret).chain(account)),
        }
    }

    /// Puts the credential in.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.insert(self.name.clone(), self.value.clone());
        if let Some((name, value)) = &self.beside {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Hears what the server has answered to it.
    pub fn answered(&self, status: StatusCode, metered: bool) {
        if let Some(heard) = &self.heard {
            heard.hear(status, metered, Instant::now());
        }
    }

    /// Takes the value out of an answer's headers.
    pub fn redact_headers(&self, headers: &mut HeaderMap) {
        redact_headers(&self.finders, headers);
    }

    /// Gets what takes the value out of an answer's body.
    pub fn redactor(&self) -> Option<Redactor> {
        (!self.finders.is_empty()).then(|| Redactor { finders: Arc::clone(&self.finders), carry: BytesMut::new() })
    }
}

fn redact_headers(finders: &[memmem::Finder<'static>], headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if finders.iter().any(|finder| finder.find(value.as_bytes()).is_some()) {
            *value = REDACTED;
        }
    }
}

/// Takes one value out of a body that passes in pieces, however they are cut. The length stays the same.
pub struct Redactor {
    finders: Arc<[memmem::Finder<'static>]>,
    /// The end of what came so far, where it may be the value's beginning.
    carry: BytesMut,
}

impl Redactor {
    /// Gets what may be passed on now.
    pub fn pass(&mut self, chunk: Bytes) -> Bytes {
        let joined = if self.carry.is_empty() {
            chunk
        } else {
            self.carry.extend_from_slice(&chunk);
            std::mem::take(&mut self.carry).freeze()
        };
        let mut clean = self.mask(joined);
        let kept = self.overlap(&clean);
        if kept > 0 {
            self.carry = BytesMut::from(clean.split_off(clean.len() - kept).as_ref());
        }
        clean
    }

    /// Takes the value out of a message that has come whole; `None` where it is not in it.
    pub fn whole(&self, message: &[u8]) -> Option<Bytes> {
        let found = self.finders.iter().any(|finder| finder.find(message).is_some());
        found.then(|| self.mask(Bytes::copy_from_slice(message)))
    }

    /// Takes the value out of an answer's trailers.
    pub fn trailers(&self, trailers: &mut HeaderMap) {
        redact_headers(&self.finders, trailers);
    }

    /// Looks for the value in text that is not passed on itself. Gets whether it is there; after that nothing more is to be asked.
    pub fn finds(&mut self, text: &[u8]) -> bool {
        self.carry.extend_from_slice(text);
        let seen = std::mem::take(&mut self.carry);
        if self.finders.iter().any(|finder| finder.find(&seen).is_some()) {
            return true;
        }
        let kept = self.overlap(&seen);
        self.carry.extend_from_slice(&seen[seen.len() - kept..]);
        false
    }

    /// Tells whether what came so far may end with the value's beginning.
    pub fn awaits(&self) -> bool {
        !self.carry.is_empty()
    }

    /// Gets what is left at the end.
    pub fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.carry).freeze()
    }

    fn mask(&self, bytes: Bytes) -> Bytes {
        if self.finders.iter().all(|finder| finder.find(&bytes).is_none()) {
            return bytes;
        }
        let mut out = BytesMut::from(bytes.as_ref());
        for finder in self.finders.iter() {
            for at in finder.find_iter(&bytes) {
                if let Some(place) = out.get_mut(at..at + finder.needle().len()) {
                    place.fill(b'*');
                }
            }
        }
        out.freeze()
    }

    /// Gets the length of the longest end of `bytes` that is a beginning of a form of the value.
    pub(super) fn overlap(&self, bytes: &[u8]) -> usize {
        let of = |needle: &[u8]| {
            let longest = bytes.len().min(needle.len().saturating_sub(1));
            let (Some(first), tail) = (needle.first(), &bytes[bytes.len() - longest..]) else { return 0 };
            // Tokens have thousands of bytes: only where one may begin is it looked whether one does.
            memchr::memchr_iter(*first, tail)
                .find(|at| needle.starts_with(&tail[*at..]))
                .map_or(0, |at| tail.len() - at)
        };
        self.finders.iter().map(|finder| of(finder.needle())).max().unwrap_or(0)
    }
}

#[cfg(test)]
impl Redactor {
    /// Makes what takes `secret` out.
    pub(in crate::egress) fn of(secret: &str) -> Redactor {
        let finders = forms(secret).iter().map(|form| memmem::Finder::new(form.as_bytes()).into_owned()).collect();
        Redactor { finders, carry: BytesMut::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(scheme: AuthScheme, header: Option<&str>) -> Route {
        Route {
            host: "api.example.com".into(),
            auth: Some(Auth { scheme, header: header.map(Into::into), credential: "key".into() }),
            ..Route::default()
        }
    }

    fn fixed<'a>(credentials: &'a Credentials, route: &Route) -> &'a Injection {
        match credentials.of(route).unwrap().unwrap() {
            Source::Fixed(injection) => injection,
            Source::Login(_) => panic!("nobody logged in"),
        }
    }

    fn values(value: &str) -> BTreeMap<String, SecretString> {
        [("key".to_owned(), SecretString::from(value))].into()
    }

    #[test]
    fn each_scheme_writes_its_header() {
        for (scheme, header, name, value) in [
            (AuthScheme::Bearer, None, "authorization", "Bearer s3cret-value"),
            (AuthScheme::Token, None, "authorization", "token s3cret-value"),
            (AuthScheme::Header, Some("x-api-key"), "x-api-key", "s3cret-value"),
        ] {
            let route = route(scheme, header);
            let credentials = Credentials::new(std::slice::from_ref(&route), &values("s3cret-value\n"));
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", HeaderValue::from_static("placeholder"));
            fixed(&credentials, &route).put(&mut headers);
            assert_eq!(headers[name], value);
        }
    }

    #[test]
    fn a_credential_that_is_not_there_refuses_instead_of_passing_without() {
        for value in ["", "  ", "a\nb"] {
            let route = route(AuthScheme::Bearer, None);
            let credentials = Credentials::new(std::slice::from_ref(&route), &values(value));
            assert_eq!(credentials.of(&route).unwrap_err().kind, Denial::CredentialMissing);
        }
        let none = Route { host: "a.example".into(), ..Route::default() };
        assert!(Credentials::default().of(&none).unwrap().is_none());
    }

    #[test]
    fn nothing_prints_the_value() {
        let route = route(AuthScheme::Bearer, None);
        let credentials = Credentials::new(std::slice::from_ref(&route), &values("s3cret-value"));
        assert!(!format!("{credentials:?}").contains("s3cret"));
        let mut headers = HeaderMap::new();
        fixed(&credentials, &route).put(&mut headers);
        assert!(!format!("{headers:?}").contains("s3cret"));
    }

    #[test]
    fn an_echo_in_a_header_is_redacted() {
        let route = route(AuthScheme::Bearer, None);
        let credentials = Credentials::new(std::slice::from_ref(&route), &values("s3cret-value"));
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", HeaderValue::from_static("got Bearer s3cret-value"));
        headers.insert("x-other", HeaderValue::from_static("fine"));
        fixed(&credentials, &route).redact_headers(&mut headers);
        assert_eq!(headers["x-echo"], REDACTED);
        assert_eq!(headers["x-other"], "fine");
    }

    proptest! {
        #[test]
        fn an_echo_in_a_body_is_redacted_however_the_body_is_cut(
            before in "[a-s3cret-]{0,20}", after in "[a-z\n]{0,20}", cuts in proptest::collection::vec(1usize..7, 1..30)
        ) {
            let secret = "s3cret-s3cret-value";
            let route = route(AuthScheme::Bearer, None);
            let credentials = Credentials::new(std::slice::from_ref(&route), &values(secret));
            let mut redactor = fixed(&credentials, &route).redactor().unwrap();
            let body = format!("{before}{secret}{after}{secret}");
            let mut rest = Bytes::from(body.clone());
            let mut out = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let piece = rest.split_to((*cut).min(rest.len()));
                out.extend_from_slice(&redactor.pass(piece));
            }
            out.extend_from_slice(&redactor.finish());
            prop_assert_eq!(out.len(), body.len());
            let out = String::from_utf8(out).unwrap();
            prop_assert!(!out.contains(secret), "{}", out);
            prop_assert!(out.contains(&after));
        }
    }
}
