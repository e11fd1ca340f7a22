//! `bb cp`: copies files between the host and a bottle that runs.

use crate::api::Copy;
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;

use super::out;

/// Copy a file or a directory out of a bottle that runs, or into it. Links and special files are left out.
///
/// One of the two paths is SLUG:PATH. A path in the bottle that begins with no / is below its workspace.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is copied
    #[arg(value_name = "SRC", add = super::completions::places())]
    pub source: String,
    /// Where to: into it where it is a directory, else under that name
    #[arg(value_name = "DST", add = super::completions::places())]
    pub target: String,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

/// Takes `SLUG:PATH` apart; a path of the host has a slash before any colon, or none.
fn in_bottle(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(slug, _)| !slug.is_empty() && !slug.contains('/') && !slug.starts_with('.'))
}

async fn work(args: Args) -> Result<u8> {
    let wrong = |what: &str| {
        Error::new(Kind::Usage, what)
            .hint("write `bb cp SLUG:PATH DST` or `bb cp SRC SLUG:PATH`; ./a:b is a file of the host")
    };
    let (slug, out_of, bottle, host) = match (in_bottle(&args.source), in_bottle(&args.target)) {
        (Some((slug, path)), None) => (slug, true, path, &args.target),
        (None, Some((slug, path))) => (slug, false, path, &args.source),
        (Some(_), Some(_)) => return Err(wrong("both paths lie in a bottle")),
        (None, None) => return Err(wrong("neither path lies in a bottle")),
    };
    let host = std::path::absolute(host).map_err(|e| wrong(&format!("no path of the host: {e}")))?;
    let Some(host) = host.to_str() else { return Err(wrong("the path of the host is no UTF-8")) };
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let id = uuid::Uuid::now_v7().to_string();
    let copy = Copy { id, out: out_of, bottle: bottle.to_owned(), host: host.to_owned() };
    let copied = client.copy(slug, &copy).await?;
    for left in &copied.left_out {
        out::note(&format!("left out: {}", left.replace(['\n', '\t'], "?")));
    }
    let files = if copied.files == 1 { "1 file".to_owned() } else { format!("{} files", out::grouped(copied.files)) };
    out::note(&format!("{files}, {} bytes", out::grouped(copied.bytes)));
    Ok(u8::from(!copied.left_out.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_host_are_told_from_those_of_a_bottle() {
        assert_eq!(in_bottle("fix:src/x"), Some(("fix", "src/x")));
        assert_eq!(in_bottle("fix:"), Some(("fix", "")));
        for host in ["/a:b", "./a:b", "../a:b", "a", ":x", "dir/a:b"] {
            assert_eq!(in_bottle(host), None, "{host}");
        }
    }
}
