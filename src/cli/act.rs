//! What `bb cut`, `pause`, `thaw`, `freeze` and `kill` share: one act on several bottles, each tried whatever becomes of the
//! others.

use futures_util::StreamExt;
use futures_util::stream;

use crate::api::{Act, Bottle, State};
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;

use super::out;
use super::slugs::Which;

/// Acts that are under way at once with `--all`. Unit: requests.
const AT_ONCE: usize = 16;

/// Makes the body of an act.
pub fn act(reason: Option<String>) -> Act {
    Act { id: uuid::Uuid::now_v7().to_string(), reason, scope: None }
}

/// Does `act` on the bottles that are meant, those in one of `states` where all are; prints what `said` makes of each, and gets
/// the exit code: of several errors the gravest.
///
/// # Errors
/// What keeps the controller from being reached; errors of single bottles are shown as they come.
pub async fn on(
    which: &Which,
    states: &[State],
    act: impl AsyncFn(&Client, &str) -> Result<Bottle>,
    said: impl Fn(&Bottle) -> String,
) -> Result<u8> {
    if !which.all {
        return each(&which.slugs, act, said).await;
    }
    let client = Client::connect_or_start(&Home::from_env()?).await?;
    let meant = client.bottles(false).await?.into_iter().filter(|bottle| states.contains(&bottle.state));
    let (client, act) = (&client, &act);
    let mut done = stream::iter(meant)
        .map(|bottle| async move {
            match act(client, &bottle.slug).await {
                Ok(done) => Ok(done),
                // One that came to its end meanwhile needs nothing any more.
                Err(error) => match client.bottle(&bottle.slug).await {
                    Ok(now) if now.state == State::Ended || now.id != bottle.id => Ok(now),
                    _ => Err((bottle.slug, error)),
                },
            }
        })
        .buffered(AT_ONCE);
    let (mut codes, mut count) = (Vec::new(), 0);
    while let Some(one) = done.next().await {
        count += 1;
        match one {
            Ok(bottle) => out::print(&said(&bottle))?,
            Err((slug, error)) => {
                out::note(&format!("{slug}:"));
                codes.push(out::fail(&error));
            }
        }
    }
    if count == 0 {
        out::note("no bottle is running that this could be done to");
    }
    Ok(gravest(&codes))
}

/// Does `act` on each bottle, prints what `said` makes of it, and gets the exit code: of several errors the gravest.
///
/// # Errors
/// As [`on`].
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
