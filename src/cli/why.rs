//! `bb why`: would this request pass, and by which rule?

use crate::api::{Unsent, Verdict};
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;
use crate::printable::printable;

use super::out;

/// Say whether a request of a bottle would be passed on, and by which rule, or what is missing. Nothing is sent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which bottle.
    #[command(flatten)]
    pub bottle: super::slugs::One,
    /// Address, such as https://docs.rs/serde
    pub url: String,
    /// Its method
    #[arg(long, default_value = "GET", value_name = "M")]
    pub method: String,
    /// A header of it, as `curl -H` takes it; may be given again. Routes can ask for some, and `Host` or `Upgrade` count as well
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; returns its exit code. The answer is on standard output, whichever it is.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let unsent = Unsent { url: args.url, method: args.method, headers: args.headers };
    let verdict = client.why(&args.bottle.slug, &unsent).await?;
    if args.json {
        out::json(&verdict)?;
    } else {
        out::print(&said(&verdict))?;
    }
    Ok(0)
}

/// Reads a header. What HTTP itself would not take is the plane's to say.
fn header(text: &str) -> std::result::Result<String, String> {
    match text.split_once(':') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("write it as `Name: value`".to_owned()),
    }
}

fn said(verdict: &Verdict) -> String {
    let plain = |text: &str| printable(text, false).to_string();
    let word = if verdict.allowed { "allowed" } else { "refused" };
    let address = match verdict.port {
        0 => plain(&verdict.host),
        port => format!("{}:{port}{}", plain(&verdict.host), plain(&verdict.path)),
    };
    let kind = verdict.kind.as_ref().map(|kind| format!(" ({kind})")).unwrap_or_default();
    let mut lines = vec![
        format!("{word}  {} {address}{kind}", plain(&verdict.method)),
        format!("  because: {}", plain(&verdict.message)),
    ];
    if let Some(route) = &verdict.route {
        lines.push(format!("  by the route: {}", plain(&route.in_words())));
    }
    if let Some(rule) = &verdict.rule_missing {
        lines.push(format!("  missing: {}", plain(&rule.to_string())));
    }
    lines.extend(verdict.next_steps.iter().map(|step| format!("  hint: {}", plain(step))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(header("X-Team: blue:1").as_deref(), Ok("X-Team: blue:1"));
        assert!(header("X-Empty:").is_ok());
        assert!(header("X-Team").is_err() && header(": blue").is_err());
    }

    #[test]
    fn a_verdict_is_read_in_one_look() {
        let refused = Verdict {
            method: "GET".into(),
            scheme: "https".into(),
            host: "crates.io".into(),
            port: 443,
            path: "/".into(),
            kind: Some("route_missing".into()),
            message: "crates.io is not on this bottle's allow-list.".into(),
            rule_missing: Some(serde_json::json!({"host": "crates.io"})),
            next_steps: vec!["ask the operator".into()],
            ..Verdict::default()
        };
        assert_eq!(
            said(&refused),
            "refused  GET crates.io:443/ (route_missing)\n  because: crates.io is not on this bottle's allow-list.\n  \
             missing: {\"host\":\"crates.io\"}\n  hint: ask the operator"
        );
    }
}
