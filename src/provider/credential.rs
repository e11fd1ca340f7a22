//! Which credential a launch gets, and where its value comes from: the environment, which wins, else what the host's settings
//! name; in a rehearsal nobody's.
//!
//! Reads files and runs no command, unless a value has to be seen to know its form: a launch that is only looked at starts nothing.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use super::spec::Alternative;
use crate::api::{Credentials, UpstreamProxy};
use crate::error::{Error, Kind, Result};
use crate::settings::Sources;

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
    /// Nowhere: it is made up.
    Nobody,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Variable(name) => write!(f, " from ${{{name}}}"),
            Origin::Settings(words) => write!(f, " from {words}"),
            Origin::Nobody => f.write_str(", made up"),
        }
    }
}

/// A credential that was found.
pub struct Found {
    /// Its value; `None` where a command gives it, which is run when the launch is made.
    value: Option<SecretString>,
    /// The name that it was found under.
    name: String,
    origin: Origin,
}

/// The credentials of a launch.
#[derive(Clone, Debug, Default)]
pub struct Purse {
    /// The values that are here, by the credential's name.
    pub values: Credentials,
    /// Those that a command is still to give: the credential's name, and the one that the settings have it under.
    pub later: BTreeMap<String, String>,
    /// Where each comes from.
    pub origins: BTreeMap<String, Origin>,
}

impl Purse {
    /// Puts one in, under the credential's name; tells whether it is new.
    pub fn put(&mut self, credential: &str, found: Found) -> bool {
        match found.value {
            Some(value) => drop(self.values.insert(credential.to_owned(), value.expose_secret().to_owned())),
            None => drop(self.later.insert(credential.to_owned(), found.name)),
        }
        self.origins.insert(credential.to_owned(), found.origin).is_none()
    }

    /// Keeps those that are wanted.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.values.retain(|name, _| wanted(name));
        self.later.retain(|name, _| wanted(name));
        self.origins.retain(|name, _| wanted(name));
    }
}

impl Search<'_> {
    fn variable(&self, name: &str) -> Option<Found> {
        let value = (self.lookup)(name).filter(|value| !value.trim().is_empty())?;
        Some(Found { value: Some(value.into()), name: name.to_owned(), origin: Origin::Variable(name.to_owned()) })
    }

    /// Gets what the settings name; a command is not run yet, unless its value is needed `now`.
    fn of_settings(&self, name: &str, now: bool) -> Result<Option<Found>> {
        if !self.sources.has(name) {
            return Ok(None);
        }
        let value = if self.sources.runs(name) && !now { None } else { Some(self.sources.value(name)?) };
        Ok(Some(Found { value, name: name.to_owned(), origin: Origin::Settings(self.sources.words(name)) }))
    }

    /// Looks everywhere. `Ok(None)`: it is nowhere.
    fn find(&self, name: &str, now: bool) -> Result<Option<Found>> {
        match self.variable(name) {
            Some(found) => Ok(Some(found)),
            None if self.rehearsal => Ok(Some(made_up(name))),
            None => self.of_settings(name, now),
        }
    }

    /// Chooses the first alternative that the environment has, else the first that the settings name; in a rehearsal, where
    /// there is none, the first with a made-up value.
    pub(super) fn choose<'a>(
        &self,
        provider: &str,
        alternatives: &'a [Alternative],
    ) -> Result<(&'a Alternative, Found)> {
        for alternative in alternatives {
            if let Some(found) = self.variable(&alternative.env) {
                return Ok((alternative, found));
            }
        }
        if let Some(first) = alternatives.first().filter(|_| self.rehearsal) {
            return Ok((first, made_up(&first.env)));
        }
        for alternative in alternatives {
            if let Some(found) = self.of_settings(&alternative.env, false)? {
                return Ok((alternative, found));
            }
        }
        let names = alternatives.iter().map(|a| a.env.as_str()).collect::<Vec<_>>().join(" nor ");
        let not = if alternatives.len() > 1 { "neither " } else { "" };
        let is = if alternatives.len() > 1 { "is set" } else { "is not set" };
        Err(Error::new(Kind::CredentialMissing, format!("provider {provider} needs a credential: {not}{names} {is}"))
            .hint("set it in this shell, or try the same command with --rehearse"))
    }

    /// Takes the credential `variable`, in the form of the alternative of that name; else of the one whose values begin as this
    /// one does; else of the first.
    pub(super) fn named<'a>(
        &self,
        alternatives: &'a [Alternative],
        variable: &str,
    ) -> Result<(&'a Alternative, Found)> {
        let same = alternatives.iter().find(|a| a.env == variable);
        // Where its beginning says the form, it has to be seen.
        let now = same.is_none() && alternatives.iter().any(|a| a.prefix.is_some());
        let found = self.find(variable, now)?.ok_or_else(|| {
            Error::new(Kind::CredentialMissing, format!("`auth_token` names {variable}, which is not set"))
                .hint(format!("set {variable} in this shell, or say under `credentials` in settings.yml where it lies"))
        })?;
        let value = found.value.as_ref().map_or("", |value| value.expose_secret());
        let begins = |a: &&Alternative| a.prefix.as_deref().is_some_and(|prefix| value.starts_with(prefix));
        match same.or_else(|| alternatives.iter().find(begins)).or_else(|| alternatives.first()) {
            Some(alternative) => Ok((alternative, found)),
            None => Err(Error::internal("a credential without an alternative")),
        }
    }

    /// Gets the credential that a route names.
    ///
    /// # Errors
    /// `credential_missing`, with its name.
    pub fn resolve(&self, name: &str) -> Result<Found> {
        self.find(name, false)?.ok_or_else(|| missing(name))
    }

    /// Gets the value of the credential that a route names, at once.
    ///
    /// # Errors
    /// As [`Search::resolve`]; what a command of the settings says.
    pub fn value(&self, name: &str) -> Result<SecretString> {
        self.find(name, true)?.and_then(|found| found.value).ok_or_else(|| missing(name))
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

/// Makes a credential for a rehearsal: nobody's, and not the placeholder.
fn made_up(name: &str) -> Found {
    let value = format!("rehearsal-{}", name.to_ascii_lowercase().replace('_', "-"));
    Found { value: Some(value.into()), name: name.to_owned(), origin: Origin::Nobody }
}
