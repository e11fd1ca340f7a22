//! Budgets on a command line, and whether any budget governs a launch.

use crate::api::{Launch, Limit};
use crate::budget::parse_amount;
use crate::error::{Error, Kind, Result, nearest};

/// Reads `--budget`, given any number of times: `200k` (whatever the provider), `claude=200k,codex=1M`, `unlimited`. What
/// is said twice is refused: `1,000` is two amounts, and neither is the one that was meant.
///
/// # Errors
/// `usage`, or `unknown_key` for a name that is none of `providers`.
pub fn limits_of_flags(flags: &[String], providers: &[String]) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::new();
    for part in flags.iter().flat_map(|flag| flag.split(',')) {
        let (provider, amount) = part.split_once('=').map_or(("*", part), |(name, amount)| (name.trim(), amount));
        if provider != "*" && !providers.iter().any(|known| known == provider) {
            let hint = match nearest(provider, providers.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("providers are: {}", providers.join(", ")),
            };
            let shown: String = provider.chars().take(60).collect();
            return Err(Error::new(Kind::UnknownKey, format!("`{shown}` is no provider")).at("--budget").hint(hint));
        }
        let tokens = parse_amount(amount.trim()).map_err(|e| {
            Error::new(Kind::Usage, e.to_string())
                .at("--budget")
                .hint("write --budget 200k, --budget claude=200k,codex=1M or --budget unlimited")
        })?;
        if limits.iter().any(|limit| limit.provider == provider) {
            let message = match provider {
                "*" => "more than one amount is given for all providers together".to_owned(),
                name => format!("`{name}` is given more than one amount"),
            };
            return Err(Error::new(Kind::Usage, message).at(format!("--budget {}", shown(flags))).hint(
                "say one amount, with no comma in it: 1k or 1000; one for each provider is claude=200k,codex=1M",
            ));
        }
        limits.push(Limit::of(provider, tokens));
    }
    limits.sort_by(|a, b| a.provider.cmp(&b.provider));
    Ok(limits)
}

/// What was written, in at most 60 characters.
fn shown(flags: &[String]) -> String {
    flags.join(" --budget ").chars().take(60).collect()
}

/// Tells whether a limit, or the word `unlimited`, was said for a launch anywhere on its path; where nothing of it is
/// metered, none is needed.
pub fn governed(launch: &Launch, global: &[Limit]) -> bool {
    let metered = launch.routes.iter().any(|route| route.api.is_some());
    let nodes = launch.nodes.iter().flat_map(|node| &node.limits);
    let mut said = launch.budget.iter().chain(nodes).chain(global);
    !metered || said.any(|limit| limit.provider == "*" || limit.provider == launch.provider)
}
