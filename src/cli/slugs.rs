//! The argument that most commands have: which bottle, or which bottles. Arguments only.

// The help of a command is its own: words on these types would take its place.
#![allow(missing_docs)]

#[derive(Debug, clap::Args)]
pub struct One {
    /// Slug, or a unique beginning of one
    #[arg(value_name = "SLUG", add = super::completions::slugs())]
    pub slug: String,
}

#[derive(Debug, clap::Args)]
pub struct Many {
    /// Slugs, or unique beginnings of slugs
    #[arg(required = true, value_name = "SLUG", add = super::completions::slugs())]
    pub slugs: Vec<String>,
}
