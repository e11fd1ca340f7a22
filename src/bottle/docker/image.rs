//! What is asked of an engine about images: to build one, to pull one, which there are, to remove one.
//!
//! One request each, over the engine's own socket; no other program is started. A build's secrets go the way that each
//! engine has for them and that keeps them out of layers and history: Docker's BuildKit calls back for them ([`session`]),
//! Podman takes them beside the context and moves them out of it before it begins. Decides nothing; what the lines of an
//! answer mean is the caller's.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::engine::{Engine, PATIENCE};
use super::http::{self, Request, encoded};
use super::lines::Lines;
pub use super::session::Secrets;
use super::session::Session;
pub use super::tar::Tar;
use crate::error::{Error, Kind, Result};

/// Longest that a build or a pull may say nothing.
const SILENCE: Duration = Duration::from_secs(30 * 60);

/// A build.
pub struct Build<'a> {
    /// Name and tag of the image.
    pub tag: &'a str,
    /// The Dockerfile in the context.
    pub dockerfile: &'a str,
    /// The context.
    pub context: Tar,
    /// Build arguments.
    pub args: &'a BTreeMap<String, String>,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// What steps may ask for.
    pub secrets: Secrets,
    /// Nothing of an earlier build is used.
    pub no_cache: bool,
    /// The network of its steps: `none`, `host`; the engine's own when absent.
    pub network: Option<&'a str>,
}

/// A build that is under way, or a pull. Dropped, it is ended.
pub struct Work {
    lines: Lines,
    /// Its lines are those of BuildKit.
    pub buildkit: bool,
    _session: Option<Session>,
}

impl Work {
    /// Gets the next line of what it says; `None` at its end.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn line(&mut self) -> std::io::Result<Option<String>> {
        self.lines.line()
    }

    /// Gets the status of the answer.
    pub fn status(&self) -> u16 {
        self.lines.status
    }
}

/// An image that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its names with tags.
    pub names: Vec<String>,
    /// Its id.
    pub id: String,
    /// Size, bytes.
    pub size: u64,
    /// When it was made, seconds since the epoch.
    pub created: i64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    fn silent(&self, e: &std::io::Error) -> Error {
        Error::new(Kind::BackendUnavailable, format!("the container engine does not answer: {e}"))
            .at(format!("unix://{}", self.socket().display()))
    }

    /// Begins a build. Every connection is shown to `keep`, so that somebody else may end it.
    ///
    /// # Errors
    /// `backend_unavailable` where the engine does not answer.
    pub fn build(&self, build: Build<'_>, keep: &mut dyn FnMut(UnixStream)) -> Result<Work> {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let mut query = vec![
            ("t", build.tag.to_owned()),
            ("dockerfile", build.dockerfile.to_owned()),
            ("buildargs", json!(build.args).to_string()),
            ("labels", json!(build.labels).to_string()),
            ("rm", "1".to_owned()),
            ("forcerm", "1".to_owned()),
        ];
        query.extend(build.no_cache.then(|| ("nocache", "1".to_owned())));
        query.extend(build.network.map(|network| ("networkmode", network.to_owned())));
        if self.podman {
            let mut context = build.context;
            let mut secrets = Vec::new();
            for (name, secret) in &build.secrets {
                // It moves the file out of the context before it looks at that.
                let file = format!(".bb-secret-{id}-{name}");
                context.file(file.as_bytes(), 0o600, secret.as_bytes());
                secrets.push(format!("id={name},src={file}"));
            }
            query.push(("layers", "1".to_owned()));
            query.push(("secrets", json!(secrets).to_string()));
            let body = Zeroizing::new(context.finish());
            let lines = self.lines("/build", &query, "application/x-tar", &body, keep)?;
            return Ok(Work { lines, buildkit: false, _session: None });
        }
        let path = self.path("/session");
        let session = Session::open(self.socket(), &path, &id, build.secrets, PATIENCE).map_err(|e| self.silent(&e))?;
        // The answer begins before the context was read, so the context comes in a request of its own.
        let upload = self.path(&format!("/build?version=2&buildid={}", encoded(&format!("upload-request:{id}"))));
        let (socket, body) = (self.socket().to_owned(), build.context.finish());
        std::thread::Builder::new()
            .name("build-context".to_owned())
            .spawn(move || {
                let request = Request { method: "POST", path: &upload, content_type: "application/x-tar", body: &body };
                if let Err(e) = http::call(&socket, request, SILENCE) {
                    tracing::debug!(error = %e, "the context of a build was not taken");
                }
            })
            .map_err(|e| Error::internal(format!("no thread for a build's context: {e}")))?;
        query.push(("version", "2".to_owned()));
        query.push(("session", id.clone()));
        query.push(("remote", "upload-request".to_owned()));
        query.push(("buildid", id));
        let lines = self.lines("/build", &query, "application/x-tar", b"", keep)?;
        Ok(Work { lines, buildkit: true, _session: Some(session) })
    }

    /// Begins to pull an image.
    ///
    /// # Errors
    /// As [`Engine::build`].
    pub fn pull(&self, name: &str, keep: &mut dyn FnMut(UnixStream)) -> Result<Work> {
        let (repository, tag) = reference(name);
        let query = [("fromImage", repository.to_owned()), ("tag", tag.to_owned())];
        let lines = self.lines("/images/create", &query, "text/plain", b"", keep)?;
        Ok(Work { lines, buildkit: false, _session: None })
    }

    fn lines(
        &self,
        path: &str,
        query: &[(&str, String)],
        content_type: &str,
        body: &[u8],
        keep: &mut dyn FnMut(UnixStream),
    ) -> Result<Lines> {
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let path = self.path(&format!("{path}?{}", query.join("&")));
        let request = Request { method: "POST", path: &path, content_type, body };
        Lines::of(self.socket(), request, SILENCE, keep).map_err(|e| self.silent(&e))
    }

    /// Says that it has no image of this name.
    pub fn lacks(&self, name: &str) -> Error {
        let pull = if self.podman { "podman" } else { "docker" };
        Error::new(Kind::BackendUnavailable, format!("{} has no image `{name}`", self.version))
            .at(format!("unix://{}", self.socket().display()))
            .hint(format!("get it first: `{pull} pull {name}`"))
    }

    /// Lists the images that have a label of this name.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn images(&self, label: &str) -> Result<Vec<Listed>> {
        let filter = json!({"label": [label]}).to_string();
        let list = self.json("GET", &format!("/images/json?filters={}", encoded(&filter)), None)?;
        Ok(list.as_array().into_iter().flatten().map(listed).collect())
    }

    /// Removes an image by its name; what else has the same content stays. `false` where there is none.
    ///
    /// # Errors
    /// As [`Engine::json`]: also where a container is made of it.
    pub fn remove_image(&self, name: &str) -> Result<bool> {
        if self.image(name)?.is_none() {
            return Ok(false);
        }
        let path = name.split('/').map(encoded).collect::<Vec<_>>().join("/");
        self.json("DELETE", &format!("/images/{path}"), None).map(|_| true)
    }
}

/// Parts a name from its tag; a digest stays with the name. Without a tag every one would be pulled.
fn reference(name: &str) -> (&str, &str) {
    if name.contains('@') {
        return (name, "");
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

fn listed(image: &Value) -> Listed {
    let names = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let labels = image["Labels"].as_object().into_iter().flatten();
    Listed {
        // Podman writes the registry that Docker leaves out.
        names: names.map(|name| name.strip_prefix("docker.io/").unwrap_or(name).to_owned()).collect(),
        id: image["Id"].as_str().unwrap_or_default().to_owned(),
        size: image["Size"].as_u64().unwrap_or_default(),
        created: image["Created"].as_i64().unwrap_or_default(),
        labels: labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_parted_from_its_tag() {
        for (name, repository, tag) in [
            ("debian", "debian", "latest"),
            ("debian:12", "debian", "12"),
            ("localhost:5000/x", "localhost:5000/x", "latest"),
            ("localhost:5000/x:y", "localhost:5000/x", "y"),
            ("x@sha256:abc", "x@sha256:abc", ""),
        ] {
            assert_eq!(reference(name), (repository, tag), "{name}");
        }
    }

    #[test]
    fn an_image_is_listed_by_the_names_that_people_know() {
        let image = listed(&json!({"RepoTags": ["docker.io/bb/claude:1"], "Id": "sha256:ab", "Size": 5, "Created": 7,
            "Labels": {"bb.image": "claude", "n": 1}}));
        assert_eq!(image.names, ["bb/claude:1"]);
        assert_eq!((image.size, image.created, image.labels.len()), (5, 7, 1));
        assert_eq!(listed(&json!({"RepoTags": null, "Labels": null})).names, [""; 0]);
    }
}
