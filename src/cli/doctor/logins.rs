//! Whose credential the agents of this host work with where nothing else is said: a key of the environment, or the login that
//! their own CLI keeps here.
//!
//! Looks at files, and shows nothing of them.

use super::Check;
use crate::home::Home;
use crate::provider;
use crate::settings::{Settings, login};

/// Makes one check for each provider that works with a login of this host, where there is a credential.
pub(super) fn checks(home: &Home, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<Check> {
    let settings = Settings::load(home).unwrap_or_default();
    let sources = settings.credentials.for_user(crate::cli::manifest::user_home().as_deref());
    let mut checks = Vec::new();
    for name in provider::names(home) {
        // What is wrong with a file is said where it is used.
        let Ok(provider) = provider::load(&name, home) else { continue };
        let variables = provider.credential_variables();
        let set = |variable: &&&str| lookup(variable).is_some_and(|value| !value.trim().is_empty());
        for form in provider.logins() {
            if let Some(variable) = variables.iter().find(set) {
                checks.push(Check::ok("credential", format!("{name}: ${{{variable}}} of this shell")));
            } else if let Some(named) = variables.iter().find(|variable| sources.has(variable)) {
                checks.push(Check::ok("credential", format!("{name}: {}", sources.words(named))));
            } else {
                match sources.usual_login(form) {
                    Ok(Some(_)) => {
                        checks.push(Check::ok("credential", format!("{name}: {}", sources.login_words(form, None))));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let message = format!("{name}: {}", error.message);
                        checks.push(Check::warn(
                            "credential",
                            message,
                            error.hint.unwrap_or_else(|| login::advice(form).to_owned()),
                        ));
                    }
                }
            }
        }
    }
    checks
}
