//! The logins of the host that bottles work with: one holder for each, shared by all bottles, for as long as the controller lives.
//!
//! Which bottle may use which is said by its launch, which its keeper holds: a path, never a token. Nothing here reads a token.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::{AuthScheme, Credentials, Launch, Login, LoginForm, Route};
use crate::egress::login::{self, Holder};
use crate::egress::name::Host;
use crate::egress::oauth::endpoint;
use crate::error::{Error, Kind, Result};

/// Holders by name, as a bottle has them.
pub type Holders = BTreeMap<String, Arc<Holder>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Logins(Mutex<HashMap<(PathBuf, LoginForm), Arc<Holder>>>);

impl Logins {
    /// Gets the holders of a bottle's logins.
    pub fn of(&self, logins: &BTreeMap<String, Login>) -> Holders {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holder = |login: &Login| {
            let holder = known.entry((login.file.clone(), login.form));
            Arc::clone(holder.or_insert_with(|| Arc::new(Holder::new(login))))
        };
        logins.iter().map(|(name, login)| (name.clone(), holder(login))).collect()
    }

    /// Has none be refreshed any more, and waits for those that are, within bounds: what the endpoint gives must be written.
    pub async fn end(&self) {
        let all: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let ended = futures_util::future::join_all(all.iter().map(|holder| holder.end()));
        let _ = tokio::time::timeout(login::ENDING, ended).await;
    }
}

/// Checks the logins of a launch, and resolves the links to their files, once for its whole life.
///
/// # Errors
/// `credential_missing` for a file that is not there, is not its owner's alone or holds no login; `usage` for routes that do
/// not fit.
pub fn settle(launch: &mut Launch) -> Result<()> {
    for (name, login) in &mut launch.logins {
        if launch.credentials.contains_key(name) {
            return Err(Error::new(Kind::Usage, format!("{name} is the name of a login and of a credential"))
                .hint("give one of them another name"));
        }
        let wrong = |what: String, hint: String| {
            Error::new(Kind::CredentialMissing, what).at(login.file.display().to_string()).hint(hint)
        };
        let again = match login.form {
            LoginForm::Claude => "log in on this host: run `claude`, then /login",
            LoginForm::Codex => "log in on this host: `codex login`",
        };
        if !login.file.is_absolute() {
            return Err(wrong(format!("the login {name} names no absolute path"), "name its whole path".to_owned()));
        }
        let real = login.file.canonicalize();
        let real = real.map_err(|e| wrong(format!("the login {name} cannot be read: {e}"), again.to_owned()))?;
        login::check(&Login { form: login.form, file: real.clone() }).map_err(|error| {
            let shown = real.display();
            let hint = match &error {
                login::file::FileError::Owner(_) => format!("make it yours: chown {} {shown}", nix::unistd::geteuid()),
                login::file::FileError::Open(_) => format!("chmod 600 {shown}"),
                _ => again.to_owned(),
            };
            wrong(format!("the login {name} cannot be used: {error}"), hint)
        })?;
        login.file = real;
    }
    fit(&launch.logins, &launch.credentials, &launch.routes)
}

/// Checks that routes use logins as they may be used: a token goes to its vendor only, as a `Bearer`.
///
/// # Errors
/// `usage`; `credential_missing` for a login that is not there.
pub fn fit(logins: &BTreeMap<String, Login>, credentials: &Credentials, routes: &[Route]) -> Result<()> {
    for route in routes {
        let wrong = |what: String| {
            Error::new(Kind::Usage, what).at(route.host.clone()).hint("leave such routes to the provider's own file")
        };
        let named = route.auth.as_ref().map(|auth| &auth.credential).filter(|name| !credentials.contains_key(*name));
        let named = named.and_then(|name| Some((name, logins.get(name)?)));
        if let (Some((name, _)), Some(auth)) = (named, &route.auth)
            && auth.scheme != AuthScheme::Bearer
        {
            return Err(wrong(format!("the login {name} is put in by scheme `Bearer` only")));
        }
        let endpoint_of = match &route.oauth {
            None => None,
            Some(name) => match logins.get(name) {
                Some(login) => Some((name, login)),
                None => {
                    let message = format!("a route is the token endpoint of the login {name}, which was not given");
                    return Err(Error::new(Kind::CredentialMissing, message).at(route.host.clone()));
                }
            },
        };
        for (name, login) in named.into_iter().chain(endpoint_of) {
            let host = match Host::parse(route.host.strip_prefix("*.").unwrap_or(&route.host)) {
                Ok(Host::Name(host)) => host,
                // The allow-list says better what is wrong with it.
                _ => continue,
            };
            if !endpoint::of(login.form).is_its(&host) {
                return Err(wrong(format!("the login {name} is for hosts of its vendor, and {host} is none")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Auth;

    #[test]
    fn a_login_goes_to_its_vendor_and_nowhere_else() {
        let login = Login { form: LoginForm::Claude, file: "/x".into() };
        let logins: BTreeMap<_, _> = [("claude".to_owned(), login)].into();
        let route = |host: &str, scheme| Route {
            host: host.into(),
            auth: Some(Auth { scheme, header: Some("x-key".into()), credential: "claude".into() }),
            ..Route::default()
        };
        let fit_one = |route: Route| fit(&logins, &Credentials::default(), &[route]).map_err(|e| e.kind);
        assert_eq!(fit_one(route("api.anthropic.com", AuthScheme::Bearer)), Ok(()));
        for wrong in [
            route("evil.example", AuthScheme::Bearer),
            route("api.anthropic.com.evil.example", AuthScheme::Bearer),
            route("*.evil.example", AuthScheme::Bearer),
            route("api.anthropic.com", AuthScheme::Header),
            route("api.anthropic.com", AuthScheme::Token),
            Route { host: "evil.example".into(), oauth: Some("claude".into()), ..Route::default() },
        ] {
            assert_eq!(fit_one(wrong.clone()), Err(Kind::Usage), "{wrong:?}");
        }
        let absent = Route { host: "platform.claude.com".into(), oauth: Some("other".into()), ..Route::default() };
        assert_eq!(fit_one(absent), Err(Kind::CredentialMissing));
        // What has another name is none of its business.
        let mut other = route("evil.example", AuthScheme::Header);
        other.auth.as_mut().unwrap().credential = "key".into();
        assert_eq!(fit_one(other), Ok(()));
    }
}
