//! The environment that manifests give a bottle: literals, variables of the host, questions, who commits.
//!
//! Asks nothing: what is to be asked comes back as a question. No credential passes, whatever a manifest says.

use std::collections::BTreeMap;

use crate::api;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Effective, EnvValue};

use super::{Choice, Desk, Question};

/// Resolves the variables of the manifests; those that are to be asked and were not answered come back as questions.
pub(super) fn variables(
    merged: &Effective,
    choice: &Choice,
    desk: &Desk<'_>,
) -> Result<(BTreeMap<String, String>, Vec<Question>)> {
    let (mut env, mut questions) = (BTreeMap::new(), Vec::new());
    for (name, said) in &merged.env {
        let value = match &said.value {
            EnvValue::Literal(text) => text.clone(),
            EnvValue::Host(variable) => (desk.lookup)(variable).ok_or_else(|| {
                Error::new(Kind::CredentialMissing, format!("`{name}` wants {variable}, which is not set"))
                    .at(said.place.to_string())
                    .hint(format!("set {variable} in this shell"))
            })?,
            EnvValue::Ask(text) => match choice.answers.get(name) {
                Some(answer) => answer.clone(),
                None => {
                    questions.push(Question { name: name.clone(), text: text.clone(), place: said.place.to_string() });
                    continue;
                }
            },
        };
        env.insert(name.clone(), value);
    }
    Ok((env, questions))
}

/// A credential is put in by the host and never enters a bottle, whatever a manifest says. `own` are the variables that the
/// provider's may come from.
pub(super) fn refuse_secrets(
    merged: &Effective,
    env: &BTreeMap<String, String>,
    own: &[&str],
    credentials: &api::Credentials,
) -> Result<()> {
    for (name, said) in &merged.env {
        let EnvValue::Host(variable) = &said.value else { continue };
        let value = env.get(name).map_or("", String::as_str);
        let real = !value.is_empty() && credentials.values().any(|credential| credential == value);
        if real || own.contains(&variable.as_str()) {
            return Err(Error::new(
                Kind::Usage,
                format!("`{name}` would put the credential {variable} into the bottle"),
            )
            .at(said.place.to_string())
            .hint("take it out: the host puts credentials into requests, and the agent sees a placeholder"));
        }
    }
    Ok(())
}

/// Says who commits, where a manifest does (git-commit(1), COMMIT INFORMATION).
pub(super) fn identity(merged: &Effective, env: &mut BTreeMap<String, String>) {
    let user = &merged.git_gate.user;
    for (said, variables) in [
        (&user.name, ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"]),
        (&user.email, ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"]),
    ] {
        if let Some(said) = said {
            env.extend(variables.map(|variable| (variable.to_owned(), said.value.clone())));
        }
    }
}
