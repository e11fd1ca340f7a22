//! Which credential a launch gets, and where its value comes from: the environment, which wins, else what the host's settings
//! name, else the login that the agent's CLI keeps on this host; in a rehearsal nobody's.
//!
//! Reads files and runs no command, unless a value has to be seen to know its form: a launch that is only looked at starts nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::spec::Alternative;
use crate::api::{Credentials, Login, LoginForm, UpstreamProxy};
use crate::error::{Error, Kind, Result};
use crate::settings::{Sources, login};

/// Where credentials are looked for.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    /// The environment.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// What the settings name.
    pub sources: &'a Sources,
    /// What the host lacks is made up, and the settings are not asked.
    pub rehearsal: bool,
}

/// Where a value comes from. As text, without the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A variable of the environment.
    Variable(String),
    /// What the settings name, in their words.
    Settings(String),
    /// A login of this host, in words.
    Login(String),
    /// Nowhere: it is made up.
    Nobody,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Variable(name) => write!(f, " from ${{{name}}}"),
            Origin::Settings(words) | Origin::Login(words) => write!(f, " from {words}"),
            Origin::Nobody => f.write_str(", made up"),
        }
    }
}

/// A credential that was found.
pub struct Found {
    had: Had,
    /// The name that it was found under.
    name: String,
    origin: Origin,
}

/// What there is of it.
enum Had {
    /// Its value.
    Value(SecretString),
    /// A command gives it, which is run when the launch is made.
    Later,
    /// A login, whose value is the controller's to read and to renew.
    Login(Login),
}

impl Found {
    fn value(self) -> Option<SecretString> {
        match self.had {
            Had::Value(value) => Some(value),
            Had::Later | Had::Login(_) => None,
        }
    }

    fn begins_with(&self, prefix: &str) -> bool {
        matches!(&self.had, Had::Value(value) if value.expose_secret().starts_with(prefix))
    }

    fn login(login: Login, words: String) -> Found {
        Found { name: login.form.as_str().to_owned(), had: Had::Login(login), origin: Origin::Login(words) }
    }
}

/// The credentials of a launch.
#[derive(Clone, Debug, Default)]
pub struct Purse {
    /// The values that are here, by the credential's name.
    pub values: Credentials,
    /// Those that a command is still to give: the credential's name, and the one that the settings have it under.
    pub later: BTreeMap<String, String>,
    /// Those that are logins.
    pub logins: BTreeMap<String, Login>,
    /// Where each comes from.
    pub origins: BTreeMap<String, Origin>,
}

impl Purse {
    /// Puts one in, under the credential's name; tells whether it is new.
    pub fn put(&mut self, credential: &str, found: Found) -> bool {
        match found.had {
            Had::Value(value) => drop(self.values.insert(credential.to_owned(), value.expose_secret().to_owned())),
            Had::Later => drop(self.later.insert(credential.to_owned(), found.name)),
            Had::Login(login) => drop(self.logins.insert(credential.to_owned(), login)),
        }
        self.origins.insert(credential.to_owned(), found.origin).is_none()
    }

    /// Gets the files of the logins, which no agent may be shown.
    pub fn login_files(&self) -> Vec<PathBuf> {
        self.logins.values().map(|login| login.file.clone()).collect()
    }

    /// Keeps those that are wanted.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.values.retain(|name, _| wanted(name));
        self.later.retain(|name, _| wanted(name));
        self.logins.retain(|name, _| wanted(name));
        self.origins.retain(|name, _| wanted(name));
    }
}

impl Search<'_> {
    fn variable(&self, name: &str) -> Option<Found> {
        let value = (self.lookup)(name).filter(|value| !value.trim().is_empty())?;
        let had = Had::Value(value.into());
        Some(Found { had, name: name.to_owned(), origin: Origin::Variable(name.to_owned()) })
    }

    /// Gets what the settings name; a command is not run yet, unless its value is needed `now`. A login is none of these.
    fn of_settings(&self, name: &str, now: bool) -> Result<Option<Found>> {
        if !self.sources.has(name) {
            return Ok(None);
        }
        let later = self.sources.runs(name) && !now;
        let had = if later { Had::Later } else { Had::Value(self.sources.value(name)?) };
        Ok(Some(Found { had, name: name.to_owned(), origin: Origin::Settings(self.sources.words(name)) }))
    }

    /// Tells which login the settings have under a name that the environment has not.
    fn named_login(&self, name: &str) -> Option<LoginForm> {
        self.sources.login_form(name).filter(|_| self.variable(name).is_none())
    }

    /// Gets the login that the settings have under a name; in a rehearsal nobody's, so that no file of the host's is touched.
    fn login_of_settings(&self, name: &str, form: LoginForm) -> Result<Found> {
        if self.rehearsal {
            return Ok(made_up_login(form));
        }
        Ok(Found::login(self.sources.login(name)?, self.sources.words(name)))
    }

    /// Looks everywhere. `Ok(None)`: it is nowhere.
    fn find(&self, name: &str, now: bool) -> Result<Option<Found>> {
        match self.variable(name) {
            Some(found) => Ok(Some(found)),
            None if self.rehearsal => Ok(Some(made_up(name))),
            None => self.of_settings(name, now),
        }
    }

    /// Chooses the first alternative that the environment has, else the first that the settings name, else the first whose
    /// login the agent's own CLI keeps on this host; in a rehearsal, where the environment has none, that login's or the
    /// first, with a made-up value.
    pub(super) fn choose<'a>(
        &self,
        provider: &str,
        alternatives: &'a [Alternative],
    ) -> Result<(&'a Alternative, Found)> {
        let keys = || alternatives.iter().filter_map(|a| Some((a, a.env.as_deref()?)));
        let logins = || alternatives.iter().filter_map(|a| Some((a, a.login?)));
        for (alternative, env) in keys() {
            if let Some(found) = self.variable(env) {
                return Ok((alternative, found));
            }
        }
        if self.rehearsal {
            if let Some((alternative, form)) = logins().find(|(_, form)| self.sources.has_usual_login(*form)) {
                return Ok((alternative, made_up_login(form)));
            }
            if let Some((first, env)) = keys().next() {
                return Ok((first, made_up(env)));
            }
            if let Some((first, form)) = logins().next() {
                return Ok((first, made_up_login(form)));
            }
        }
        for (alternative, env) in keys() {
            if let Some(form) = self.named_login(env) {
                return Ok((of_login(alternatives, env, form)?, self.login_of_settings(env, form)?));
            }
            if let Some(found) = self.of_settings(env, false)? {
                return Ok((alternative, found));
            }
        }
        for (alternative, form) in logins() {
            let login = self.sources.usual_login(form).map_err(|error| or_a_key(error, alternatives))?;
            if let Some(login) = login {
                return Ok((alternative, Found::login(login, self.sources.login_words(form, None))));
            }
        }
        Err(none_of(provider, alternatives))
    }

    /// Takes the credential `variable`, in the form of the alternative of that name; else of the one whose values begin as this
    /// one does; else of the first. A login has the form of its own alternative.
    pub(super) fn named<'a>(
        &self,
        alternatives: &'a [Alternative],
        variable: &str,
    ) -> Result<(&'a Alternative, Found)> {
        if let Some(form) = self.named_login(variable) {
            return Ok((of_login(alternatives, variable, form)?, self.login_of_settings(variable, form)?));
        }
        let same = alternatives.iter().find(|a| a.env.as_deref() == Some(variable));
        // Where its beginning says the form, it has to be seen.
        let now = same.is_none() && alternatives.iter().any(|a| a.prefix.is_some());
        let found = self.find(variable, now)?.ok_or_else(|| {
            Error::new(Kind::CredentialMissing, format!("`auth_token` names {variable}, which is not set"))
                .hint(format!("set {variable} in this shell, or say under `credentials` in settings.yml where it lies"))
        })?;
        let begins = |a: &&Alternative| a.prefix.as_deref().is_some_and(|prefix| found.begins_with(prefix));
        let first = || alternatives.iter().find(|a| a.env.is_some());
        match same.or_else(|| alternatives.iter().find(begins)).or_else(first) {
            Some(alternative) => Ok((alternative, found)),
            None => Err(Error::new(Kind::Usage, format!("`auth_token` names {variable}, which is no login"))
                .hint("say it in settings.yml, as `credentials: {NAME: {login: claude}}`, and name that")),
        }
    }

    /// Gets the credential that a route names. A login is none: it goes to the hosts of its vendor and nowhere else.
    ///
    /// # Errors
    /// `credential_missing`, with its name; `usage` for a login.
    pub fn resolve(&self, name: &str) -> Result<Found> {
        self.no_login(name)?;
        self.find(name, false)?.ok_or_else(|| missing(name))
    }

    /// Gets the value of the credential that a route names, at once.
    ///
    /// # Errors
    /// As [`Search::resolve`]; what a command of the settings says.
    pub fn value(&self, name: &str) -> Result<SecretString> {
        self.no_login(name)?;
        self.find(name, true)?.and_then(Found::value).ok_or_else(|| missing(name))
    }

    fn no_login(&self, name: &str) -> Result<()> {
        // It says so.
        if self.named_login(name).is_some() { self.sources.value(name).map(drop) } else { Ok(()) }
    }
}

impl Search<'_> {
    /// Puts in what the host's own proxy wants, if it wants something; says where it comes from.
    ///
    /// # Errors
    /// As [`Search::resolve`].
    pub fn put_upstream_proxy(&self, proxy: Option<&UpstreamProxy>, purse: &mut Purse) -> Result<Option<String>> {
        let Some((proxy, name)) =
            proxy.and_then(|proxy| Some((proxy, proxy.credential.as_deref()?))).filter(|_| !self.rehearsal)
        else {
            return Ok(None);
        };
        self.no_login(name)?;
        let found = self.find(name, false)?.ok_or_else(|| {
            Error::new(
                Kind::CredentialMissing,
                format!("the upstream proxy needs the credential {name}, which is not set"),
            )
            .at("settings.yml")
            .hint(format!("set {name} in this shell, or say under `credentials` in settings.yml where it lies"))
        })?;
        let words = format!("{name} of the upstream proxy{}", found.origin);
        purse.put(&proxy.credential_key(), found);
        Ok(Some(words))
    }
}

fn missing(name: &str) -> Error {
    Error::new(Kind::CredentialMissing, format!("a route needs the credential {name}, which is not set"))
        .hint(format!("set {name} in this shell, or say under `credentials` in settings.yml where it lies"))
}

/// Gets the alternative of a login that is called `name`.
fn of_login<'a>(alternatives: &'a [Alternative], name: &str, form: LoginForm) -> Result<&'a Alternative> {
    alternatives.iter().find(|a| a.login == Some(form)).ok_or_else(|| {
        let message = format!("{name} is {}, with which this provider cannot work", login::title(form));
        Error::new(Kind::Usage, message).hint("name another credential in `auth_token`, or choose another provider")
    })
}

/// Says at a login that cannot be worked with that a key would do as well: the CLI may be logged in by one.
fn or_a_key(error: Error, alternatives: &[Alternative]) -> Error {
    let names: Vec<&str> = alternatives.iter().filter_map(|a| a.env.as_deref()).collect();
    match &error.hint {
        Some(hint) if !names.is_empty() => {
            let hint = format!("{hint}, or set {} in this shell", names.join(" or "));
            error.hint(hint)
        }
        _ => error,
    }
}

/// Says that there is no credential at all, and what would be one.
fn none_of(provider: &str, alternatives: &[Alternative]) -> Error {
    let names: Vec<&str> = alternatives.iter().filter_map(|a| a.env.as_deref()).collect();
    let logins: Vec<LoginForm> = alternatives.iter().filter_map(|a| a.login).collect();
    let mut said = Vec::new();
    match names.as_slice() {
        [] => {}
        [name] => said.push(format!("{name} is not set")),
        names => said.push(format!("neither {} is set", names.join(" nor "))),
    }
    said.extend(
        logins.iter().map(|form| format!("{} is not on this host ({})", login::title(*form), login::usual(*form))),
    );
    let mut ways: Vec<String> = (!names.is_empty()).then(|| "set it in this shell".to_owned()).into_iter().collect();
    ways.extend(logins.iter().map(|form| login::advice(*form).to_owned()));
    Error::new(Kind::CredentialMissing, format!("provider {provider} needs a credential: {}", said.join(", and ")))
        .hint(format!("{}, or try the same command with --rehearse", ways.join(", or ")))
}

/// Makes a credential for a rehearsal: nobody's, and not the placeholder.
fn made_up(name: &str) -> Found {
    let value = format!("rehearsal-{}", name.to_ascii_lowercase().replace('_', "-"));
    Found { had: Had::Value(value.into()), name: name.to_owned(), origin: Origin::Nobody }
}

/// The same for a login: a value like any other, so that nothing of the host's is read, and nothing written.
fn made_up_login(form: LoginForm) -> Found {
    made_up(&format!("{}_login", form.as_str()))
}
