//! Images of backend `docker`: which one a bottle is made of, and how it comes to be there.
//!
//! * [`Wanted`]: an image that is named, or one that is made of a Dockerfile. [`make`](fn@make::make): builds or pulls it, for whoever may wait.
//! * [`context`]: what a Dockerfile may copy, less what [`ignore`] leaves out. [`args`]: what its `ARG` lines
//!   are given. [`host`]: what a build learns of this machine's proxies and registries.
//! * [`progress`]: what an engine says on the way, as events.
//!
//! Runs in the front end, after somebody has agreed. Must not print, start a bottle or know of Lua; whatever a build says is
//! untrusted text.

pub mod args;
mod context;
pub mod host;
mod ignore;
pub mod make;
pub mod progress;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use args::Args;
pub use make::{Need, Options, Stop, make, need};
pub use progress::Event;

use crate::bottle::docker::image::Tar;
use crate::error::{Error, Kind, Result, nearest};
use crate::home::Home;
use crate::name::Name;
use crate::settings::Settings;
use crate::yaml::read::bounded;

/// The label of the images that bb has made; its value is the name of the provider.
pub const LABEL: &str = "bb.image";

/// The Dockerfiles that ship in the binary, by provider.
const SHIPPED: [(&str, &str); 4] = [
    ("claude", include_str!("../../lua/images/claude.Dockerfile")),
    ("codex", include_str!("../../lua/images/codex.Dockerfile")),
    ("gemini", include_str!("../../lua/images/gemini.Dockerfile")),
    ("pi", include_str!("../../lua/images/pi.Dockerfile")),
];

/// Longest Dockerfile.
const LONGEST: u64 = 256 << 10;

/// The name of a Dockerfile that has no directory of its own.
const ALONE: &str = "Dockerfile";

/// What somebody has said about the image of a bottle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// An image of this name.
    Image(String),
    /// One that is made of the Dockerfile at this path.
    Dockerfile(String),
}

impl Said {
    /// Reads the two keys, of which one may be there.
    ///
    /// # Errors
    /// `usage` where both are.
    pub fn of(image: Option<&str>, dockerfile: Option<&str>) -> Result<Option<Said>> {
        match (image, dockerfile) {
            (Some(_), Some(_)) => Err(Error::new(Kind::Usage, "an image is named and a Dockerfile too")
                .hint("leave out `image` or `dockerfile`")),
            (Some(name), None) => Ok(Some(Said::Image(name.to_owned()))),
            (None, Some(path)) => Ok(Some(Said::Dockerfile(path.to_owned()))),
            (None, None) => Ok(None),
        }
    }

    /// Gets what the host's settings say.
    ///
    /// # Errors
    /// As [`Said::of`].
    pub fn by_settings(settings: &Settings) -> Result<Option<Said>> {
        Said::of(settings.image.as_deref(), settings.dockerfile.as_deref()).map_err(|e| e.at("settings.yml"))
    }
}

/// The image that a bottle is made of.
#[derive(Clone)]
pub enum Wanted {
    /// One of this name, made by others.
    Named(String),
    /// One that bb makes.
    Made(Recipe),
}

impl Wanted {
    /// Gets its name, as the engine knows it.
    pub fn name(&self) -> &str {
        match self {
            Wanted::Named(name) => name,
            Wanted::Made(recipe) => &recipe.tag,
        }
    }
}

impl Wanted {
    /// Gives it build arguments; an image that others have made has no use for any.
    ///
    /// # Errors
    /// As [`args::check`].
    pub fn with_args(self, args: Args) -> Result<Wanted> {
        args::check(&args)?;
        Ok(match self {
            Wanted::Made(mut recipe) => {
                recipe.args = args;
                recipe.name();
                Wanted::Made(recipe)
            }
            named => named,
        })
    }
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Wanted").field(&self.name()).finish()
    }
}

/// What an image is made of.
#[derive(Clone)]
pub struct Recipe {
    /// Its name: the same as long as Dockerfile, context and build arguments are.
    pub tag: String,
    /// The provider that it is made for.
    pub provider: String,
    /// Where its Dockerfile lies, for people; shipped ones lie in bb.
    pub place: String,
    dockerfile: String,
    context: Tar,
    args: Args,
}

impl Recipe {
    fn new(provider: &str, place: String, dockerfile: String, context: Tar) -> Recipe {
        let provider = provider.to_owned();
        let mut recipe = Recipe { tag: String::new(), provider, place, dockerfile, context, args: Args::new() };
        recipe.name();
        recipe
    }

    /// Gives it its name.
    fn name(&mut self) {
        // The Dockerfile is in the context; its name decides which of several it is.
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        digest.update(self.dockerfile.as_bytes());
        digest.update(b"\0");
        digest.update(self.context.so_far());
        for (name, value) in &self.args {
            digest.update(format!("\0{name}={value}").as_bytes());
        }
        let hex: String = digest.finish().as_ref().iter().take(6).map(|b| format!("{b:02x}")).collect();
        self.tag = format!("bb/{}:{hex}", self.provider);
    }
}

/// Gets the names of the providers that have a Dockerfile: shipped ones and the home's own, sorted.
pub fn names(home: &Home) -> Vec<String> {
    let mut names: Vec<String> = SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
    for entry in std::fs::read_dir(home.root.join("images")).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().and_then(|n| n.strip_suffix(".Dockerfile"))
            && Name::parse(name).is_ok()
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Gets the recipe of a provider's image: of `$BB_HOME/images/NAME.Dockerfile`, else of the shipped one. `None` where
/// there is neither.
///
/// # Errors
/// `usage` where the home's own cannot be read.
pub fn of_provider(provider: &str, home: &Home) -> Result<Option<Recipe>> {
    if Name::parse(provider).is_err() {
        return Ok(None);
    }
    let own = home.root.join("images").join(format!("{provider}.Dockerfile"));
    let place = own.display().to_string();
    let (text, place) = match bounded(&own, LONGEST) {
        Ok(text) => (text, place),
        Err(e) if e.kind() == ErrorKind::NotFound => match SHIPPED.iter().find(|(name, _)| *name == provider) {
            Some((_, text)) => ((*text).to_owned(), format!("images/{provider}.Dockerfile")),
            None => return Ok(None),
        },
        // Not the shipped one: what the user's own file says is unknown then.
        Err(e) => return Err(unreadable(&place, &e)),
    };
    let mut context = Tar::default();
    context.file(ALONE.as_bytes(), 0o644, text.as_bytes());
    Ok(Some(Recipe::new(provider, place, ALONE.to_owned(), context)))
}

/// As [`of_provider`], where somebody has named it.
///
/// # Errors
/// `usage` where there is none, with those that there are.
pub fn of_named_provider(provider: &str, home: &Home) -> Result<Recipe> {
    of_provider(provider, home)?.ok_or_else(|| {
        let names = names(home);
        let message = format!("there is no Dockerfile for `{}`", provider.escape_debug());
        let hint = match nearest(provider, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}; yours goes to $BB_HOME/images/NAME.Dockerfile", names.join(", ")),
        };
        Error::new(Kind::Usage, message).hint(hint)
    })
}

/// Where a Dockerfile that somebody names may lie.
pub struct Desk<'a> {
    /// The home; paths that are not absolute count from there.
    pub home: &'a Home,
    /// `$HOME`.
    pub user_home: Option<&'a Path>,
    /// The agent's workspace: what it writes must not become a program that the host's secrets are shown to.
    pub workspace: Option<&'a Path>,
}

/// Gets the recipe of the Dockerfile at a path; its context is the directory that it lies in.
///
/// # Errors
/// `usage` where it cannot be read or its context is too large, `workspace_unsafe` where it lies where it must not.
pub fn of_file(provider: &str, path: &str, desk: &Desk<'_>) -> Result<Recipe> {
    let given = match (path.strip_prefix("~/"), desk.user_home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => desk.home.root.join(path),
    };
    let place = given.display().to_string();
    let file = given.canonicalize().map_err(|e| unreadable(&place, &e))?;
    let (Some(directory), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        return Err(unreadable(&place, &ErrorKind::InvalidInput.into()));
    };
    bounded(&file, LONGEST).map_err(|e| unreadable(&place, &e))?;
    refuse_places(directory, desk).map_err(|e| e.at(place.clone()))?;
    let context = context::of(directory, name).map_err(|error| match error.place {
        Some(_) => error,
        None => error.at(directory.display().to_string()),
    })?;
    Ok(Recipe::new(provider, place, name.to_owned(), context))
}

/// Refuses a context that would show a build what it must not see, or that an agent could write.
fn refuse_places(directory: &Path, desk: &Desk<'_>) -> Result<()> {
    let refused = |what: &str| {
        Err(Error::new(Kind::WorkspaceUnsafe, format!("the Dockerfile lies {what}"))
            .hint("move it into a directory of its own, such as one in $BB_HOME/images"))
    };
    if desk.home.root.starts_with(directory) {
        return refused("where everything beside it, bb's own state too, would be its context");
    }
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if desk.user_home.map(real).is_some_and(|home| home.starts_with(directory)) {
        return refused("in a home: all of it would be its context");
    }
    let workspace: Option<PathBuf> = desk.workspace.map(real);
    if workspace.is_some_and(|workspace| directory.starts_with(&workspace) || workspace.starts_with(directory)) {
        return refused("in the workspace: the agent could change what is built of it");
    }
    Ok(())
}

fn unreadable(place: &str, e: &std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("the Dockerfile cannot be read: {e}"))
        .at(place)
        .hint("make it a text file of at most 256 KiB, or correct the path")
}

/// Decides the image of a bottle: what was said, else the provider's own. `None` where there is nothing to make it of.
///
/// # Errors
/// As [`of_provider`] and [`of_file`].
pub fn wanted(said: Option<Said>, provider: &str, desk: &Desk<'_>) -> Result<Option<Wanted>> {
    Ok(match said {
        Some(Said::Image(name)) => Some(Wanted::Named(name)),
        Some(Said::Dockerfile(path)) => Some(Wanted::Made(of_file(provider, &path, desk)?)),
        None => of_provider(provider, desk.home)?.map(Wanted::Made),
    })
}

/// Makes text of a build fit to be shown: one line, bounded, nothing that a terminal would obey.
pub fn clean(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (n, c) in text.trim().chars().enumerate() {
        if n == most {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\t' => out.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
