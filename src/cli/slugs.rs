//! The argument that most commands have: which bottle, or which bottles. Arguments only.

// The help of a command is its own: words on these types would take its place.
#![allow(missing_docs)]

#[derive(Debug, clap::Args)]
pub struct One {
    /// Slug, or a unique beginning of one
    #[arg(value_name = "SLUG", add = super::completions::slugs())]
    pub slug: String,
}

/// Which bottles an act of the operator's is for: those that are named, or all that run.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Slugs, or unique beginnings of slugs
    #[arg(
        required_unless_present = "all",
        conflicts_with = "all",
        value_name = "SLUG",
        add = super::completions::slugs()
    )]
    pub slugs: Vec<String>,
    /// Every bottle that runs, in rehearsals too
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, clap::Args)]
pub struct Many {
    /// Slugs, or unique beginnings of slugs
    #[arg(required = true, value_name = "SLUG", add = super::completions::slugs())]
    pub slugs: Vec<String>,
}
