//! Credentials that a command gives: it is run when a launch is made, on a thread that may wait for it.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use crate::api::Credentials;
use crate::error::{Error, Result};
use crate::settings::Sources;

/// Gets the values of those in `later`: the credential's name, and the one that the settings have it under. Each command runs
/// once.
pub(super) async fn fetch(later: &BTreeMap<String, String>, sources: &Sources) -> Result<Credentials> {
    if later.is_empty() {
        return Ok(Credentials::default());
    }
    let (later, sources) = (later.clone(), sources.clone());
    let fetched = tokio::task::spawn_blocking(move || {
        let mut given: BTreeMap<String, SecretString> = BTreeMap::new();
        let mut values = Credentials::default();
        for (credential, name) in later {
            if !given.contains_key(&name) {
                given.insert(name.clone(), sources.value(&name)?);
            }
            if let Some(value) = given.get(&name) {
                values.insert(credential, value.expose_secret().to_owned());
            }
        }
        Ok(values)
    });
    fetched.await.map_err(|e| Error::internal(format!("the commands' thread failed: {e}")))?
}
