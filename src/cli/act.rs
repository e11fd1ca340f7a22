//! What `bb cut` and `bb kill` share: one act on several bottles, each tried whatever becomes of the others.

use crate::api::Act;
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;

use super::out;

/// Makes the body of an act.
pub fn act(reason: Option<String>) -> Act {
    Act { id: uuid::Uuid::now_v7().to_string(), reason, scope: None }
}

/// Does `act` on each bottle, prints what `said` makes of it, and gets the exit code: of several errors the gravest.
///
/// # Errors
/// What keeps the controller from being reached; errors of single bottles are shown as they come.
pub async fn each<T>(
    slugs: &[String],
    act: impl AsyncFn(&Client, &str) -> Result<T>,
    said: impl Fn(&T) -> String,
) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let mut codes = Vec::new();
    for slug in slugs {
        match act(&client, slug).await {
            Ok(done) => out::print(&said(&done))?,
            Err(error) => codes.push(out::fail(&error)),
        }
    }
    Ok(gravest(&codes))
}

/// Gets the exit code that counts when several things went wrong (docs/exit-codes.md).
pub fn gravest(codes: &[u8]) -> u8 {
    [130, 124, 3, 4, 5, 2, 1].into_iter().find(|c| codes.contains(c)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_code_wins_as_documented() {
        assert_eq!(gravest(&[]), 0);
        assert_eq!(gravest(&[1, 2]), 2);
        assert_eq!(gravest(&[5, 3, 124, 1]), 124);
        assert_eq!(gravest(&[4, 5]), 4);
    }

    #[test]
    fn every_act_has_an_id_of_its_own() {
        assert_ne!(act(None).id, act(None).id);
    }
}
