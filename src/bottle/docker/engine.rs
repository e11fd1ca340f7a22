//! The engine: where its socket is, what it is, and the verbs that are asked of it.
//!
//! Docker Engine and Podman speak the same API. Only engines on this machine will do: the sockets of a bottle are handed
//! over as descriptors, which do not travel further. Nothing here knows what a bottle looks like.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::http::{self, Answer, Request, encoded};
use crate::error::{Error, Kind, Result};

/// Longest that an engine may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Longest that one may take to say what it is.
const HELLO: Duration = Duration::from_secs(30);

/// An engine that answers.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
    /// The version of the API that it speaks best.
    api: String,
    /// Its own name and version, for people.
    pub version: String,
    /// It is Podman.
    pub podman: bool,
    /// It runs without root: users of its containers are not the host's.
    pub rootless: bool,
    /// It bounds nothing by control groups, and does not say so of what it is asked: version 1 of them is root's.
    pub boundless: bool,
}

fn unavailable(message: String) -> Error {
    Error::new(Kind::BackendUnavailable, message)
}

/// Where engines of this machine listen, the likeliest first.
pub fn sockets() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("/var/run/docker.sock")];
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        places.push("/run/podman/podman.sock".into());
    } else {
        let user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        for dir in user.into_iter().chain([PathBuf::from(format!("/run/user/{uid}"))]) {
            places.extend(["docker.sock", "podman/podman.sock"].map(|name| dir.join(name)));
        }
    }
    places.dedup();
    places
}

/// Reads an address as `DOCKER_HOST` has it.
///
/// # Errors
/// `backend_unavailable` where it is not on this machine, `usage` for what is no address.
pub fn socket_of(address: &str) -> Result<PathBuf> {
    let at = |error: Error| error.at(format!("DOCKER_HOST={address}"));
    let path = match address.split_once("://") {
        Some(("unix", path)) => path,
        Some((scheme @ ("tcp" | "ssh" | "http" | "https" | "npipe"), _)) => {
            return Err(at(unavailable(format!(
                "the engine is reached by {scheme}, and a bottle's sockets can only be handed over on this machine"
            ))
            .hint("unset DOCKER_HOST or give it an engine of this machine, such as unix:///var/run/docker.sock")));
        }
        Some(_) => "",
        None => address,
    };
    if !path.starts_with('/') {
        return Err(at(Error::new(Kind::Usage, "this is no address of an engine")
            .hint("write unix:// and the absolute path of its socket")));
    }
    Ok(PathBuf::from(path))
}

impl Engine {
    /// Finds the engine: the one that is named, else the first that answers.
    ///
    /// # Errors
    /// `backend_unavailable` where none answers, or one that cannot hand sockets over.
    pub fn find(address: Option<&str>) -> Result<Engine> {
        if let Some(address) = address.filter(|a| !a.is_empty()) {
            return Engine::at(&socket_of(address)?);
        }
        let mut first = None;
        for socket in sockets() {
            match Engine::at(&socket) {
                Ok(engine) => return Ok(engine),
                // One that is there and does not answer says more than one that is not there.
                Err(error) if socket.exists() => first = first.or(Some(error)),
                Err(_) => {}
            }
        }
        Err(first.unwrap_or_else(|| {
            let tried = sockets().iter().map(|s| s.display().to_string()).collect::<Vec<_>>().join(", ");
            unavailable("no container engine is running".to_owned()).at(tried).hint(
                "start Docker (`systemctl start docker`) or Podman (`systemctl --user start podman.socket`), or set DOCKER_HOST",
            )
        }))
    }

    /// Asks the engine behind a socket what it is.
    ///
    /// # Errors
    /// See [`Engine::find`].
    pub fn at(socket: &Path) -> Result<Engine> {
        let place = socket.display().to_string();
        let get =
            |path| http::call(socket, Request { method: "GET", path, content_type: "text/plain", body: b"" }, HELLO);
        let answer = get("/version").map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => unavailable("the engine's socket may not be opened".to_owned())
                .at(place.clone())
                .hint("join the group that owns it, or use rootless Podman"),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                unavailable("the container engine is not running".to_owned())
                    .at(place.clone())
                    .hint("start it, such as by `systemctl start docker`, or name another one in DOCKER_HOST")
            }
            _ => unavailable(format!("the container engine does not answer: {e}")).at(place.clone()),
        })?;
        let said: Value = serde_json::from_slice(&answer.body)
            .ok()
            .filter(|_| answer.status == 200)
            .ok_or_else(|| unavailable("this is no container engine's socket".to_owned()).at(place.clone()))?;
        let api = said["ApiVersion"].as_str().unwrap_or_default();
        if api.is_empty() || !api.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(unavailable("the engine does not say which API it speaks".to_owned()).at(place));
        }
        let components = said["Components"].as_array().map(Vec::as_slice).unwrap_or_default();
        let podman = components.iter().any(|c| c["Name"].as_str().is_some_and(|n| n.contains("Podman")));
        let version = said["Version"].as_str().unwrap_or("of unknown version");
        let mut engine = Engine {
            socket: socket.to_owned(),
            api: api.to_owned(),
            version: format!("{} {version}", if podman { "Podman" } else { "Docker" }),
            podman,
            rootless: false,
            boundless: false,
        };
        let info = engine.json("GET", "/info", None)?;
        let options = info["SecurityOptions"].as_array().map(Vec::as_slice).unwrap_or_default();
        engine.rootless = options.iter().any(|o| o.as_str().is_some_and(|o| o.contains("rootless")))
            || info["Rootless"].as_bool().unwrap_or_default();
        engine.boundless = engine.rootless && info["CgroupVersion"].as_str() == Some("1");
        if info["OperatingSystem"].as_str().is_some_and(|s| s.contains("Docker Desktop")) {
            return Err(unavailable(
                "Docker Desktop runs its containers in a virtual machine, where sockets cannot be handed over"
                    .to_owned(),
            )
            .at(place)
            .hint("use backend `linux`, or an engine that runs on this system itself"));
        }
        let remapped = options.iter().any(|o| o.as_str().is_some_and(|o| o.starts_with("name=userns")));
        if !podman && (engine.rootless || remapped) {
            let what = if engine.rootless { "rootless Docker" } else { "Docker with `userns-remap`" };
            return Err(unavailable(format!("{what} cannot show a user's own files as the agent's"))
                .at(place)
                .hint("use rootless Podman, or backend `linux`"));
        }
        Ok(engine)
    }

    /// Gets its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Gets the path of a verb in the version of the API that it speaks.
    pub(super) fn path(&self, path: &str) -> String {
        format!("/v{}{path}", self.api)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let path = self.path(path);
        let request = Request { method, path: &path, content_type: "application/json", body: body.as_bytes() };
        http::call(&self.socket, request, PATIENCE)
            .map_err(|e| unavailable(format!("the container engine does not answer: {e}")).at(self.place()))
    }

    fn place(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Turns a refusal into an error with the engine's own words.
    fn refused(&self, what: &str, answer: &Answer) -> Error {
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let said = said["message"].as_str().or(said["cause"].as_str()).unwrap_or("no reason given");
        let said: String = said.chars().take(400).collect();
        unavailable(format!("{}: {what}: {}", self.version, said.trim()))
            .at(self.place())
            .hint("run `bb doctor`: it tries what an engine has to do")
    }

    /// Asks and gets the answer's JSON.
    ///
    /// # Errors
    /// `backend_unavailable` where the engine refuses or does not answer.
    pub fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.ask(method, path, body)?;
        if !(200..300).contains(&answer.status) {
            return Err(self.refused(path.split('?').next().unwrap_or(path), &answer));
        }
        Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// Tells whether it has an image of that name; gets what it says of it.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn image(&self, name: &str) -> Result<Option<Value>> {
        // Slashes of a name are part of the path; nothing else of it may be.
        let path = format!("/images/{}/json", name.split('/').map(encoded).collect::<Vec<_>>().join("/"));
        let answer = self.ask("GET", &path, None)?;
        match answer.status {
            404 => Ok(None),
            200 => Ok(Some(serde_json::from_slice(&answer.body).unwrap_or_default())),
            _ => Err(self.refused("image", &answer)),
        }
    }

    /// Makes an image of a tar archive.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn import(&self, repository: &str, tag: &str, archive: &[u8]) -> Result<()> {
        let path = self.path(&format!("/images/create?fromSrc=-&repo={}&tag={}", encoded(repository), encoded(tag)));
        let request = Request { method: "POST", path: &path, content_type: "application/x-tar", body: archive };
        let answer = http::call(&self.socket, request, PATIENCE)
            .map_err(|e| unavailable(format!("the container engine takes no image: {e}")).at(self.place()))?;
        // The answer is a stream of lines, in which a failure comes with status 200.
        if answer.status != 200 || String::from_utf8_lossy(&answer.body).contains("\"error\"") {
            return Err(self.refused("import of an image", &answer));
        }
        Ok(())
    }

    /// Puts the files of a tar archive of `length` bytes into the root of a container.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn put(&self, container: &str, archive: &mut impl io::Read, length: u64) -> Result<()> {
        let path = self.path(&format!("/containers/{container}/archive?path=%2F"));
        let request = Request { method: "PUT", path: &path, content_type: "application/x-tar", body: b"" };
        let answer = http::upload(&self.socket, request, archive, length, PATIENCE)
            .map_err(|e| unavailable(format!("the container engine takes no files: {e}")).at(self.place()))?;
        if answer.status != 200 {
            return Err(self.refused("files for a container", &answer));
        }
        Ok(())
    }

    /// Makes a container and gets its id.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn create(&self, name: &str, spec: &Value) -> Result<String> {
        self.create_warned(name, spec).map(|(id, _)| id)
    }

    /// As [`Engine::create`], with what the engine says that it leaves out.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn create_warned(&self, name: &str, spec: &Value) -> Result<(String, Vec<String>)> {
        let made = self.json("POST", &format!("/containers/create?name={}", encoded(name)), Some(spec))?;
        let id = made["Id"].as_str().ok_or_else(|| unavailable("a container without an id".to_owned()))?;
        let warnings = made["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok((id.to_owned(), warnings.map(str::to_owned).collect()))
    }

    /// Starts one.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn start(&self, id: &str) -> Result<()> {
        self.json("POST", &format!("/containers/{id}/start"), None).map(drop)
    }

    /// Stops a container's processes, or lets them go on.
    ///
    /// # Errors
    /// The engine's.
    pub fn pause(&self, id: &str, on: bool) -> Result<()> {
        let verb = if on { "pause" } else { "unpause" };
        self.json("POST", &format!("/containers/{id}/{verb}"), None).map(|_| ())
    }

    /// Kills what runs in one. What has ended already is fine.
    pub fn kill(&self, id: &str) {
        let _ = self.ask("POST", &format!("/containers/{id}/kill"), None);
    }

    /// Removes one, whatever runs in it, with its volumes; returns when it is gone, at the latest after some seconds.
    pub fn remove(&self, id: &str) {
        for _ in 0..100 {
            // 409: it is being removed, by its own end. Told again until there is none.
            match self.ask("DELETE", &format!("/containers/{id}?force=true&v=true"), None) {
                Ok(answer) if answer.status == 404 => return,
                Ok(answer) if answer.status < 300 || answer.status == 409 => {}
                _ => return,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lists the ids of containers that have all these labels (`name=value`), ended ones too.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn labelled(&self, labels: &[String]) -> Result<Vec<String>> {
        let filter = serde_json::json!({"label": labels}).to_string();
        let list = self.json("GET", &format!("/containers/json?all=true&filters={}", encoded(&filter)), None)?;
        let ids = list.as_array().into_iter().flatten().filter_map(|c| c["Id"].as_str().map(str::to_owned));
        Ok(ids.collect())
    }

    /// Opens the streams of a container that has not been started yet.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn attach(&self, id: &str) -> Result<io::BufReader<std::os::unix::net::UnixStream>> {
        let path = self.path(&format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1"));
        let request = Request { method: "POST", path: &path, content_type: "application/json", body: b"" };
        http::hijack(&self.socket, request, PATIENCE)
            .map_err(|e| unavailable(format!("{}: attach: {e}", self.version)).at(self.place()))
    }

    /// Prepares a command in a container and gets its id.
    ///
    /// # Errors
    /// As [`Engine::json`].
    pub fn exec(&self, container: &str, spec: &Value) -> Result<String> {
        let made = self.json("POST", &format!("/containers/{container}/exec"), Some(spec))?;
        made["Id"].as_str().map(str::to_owned).ok_or_else(|| unavailable("an exec without an id".to_owned()))
    }

    /// Starts a command and gets its streams.
    ///
    /// # Errors
    /// Those of [`http::hijack`].
    pub fn exec_streams(&self, exec: &str) -> io::Result<io::BufReader<std::os::unix::net::UnixStream>> {
        let path = self.path(&format!("/exec/{exec}/start"));
        let body = br#"{"Detach":false,"Tty":false}"#;
        let request = Request { method: "POST", path: &path, content_type: "application/json", body };
        http::hijack(&self.socket, request, PATIENCE)
    }

    /// Tells whether it still knows a command.
    pub fn knows_exec(&self, exec: &str) -> bool {
        self.ask("GET", &format!("/exec/{exec}/json"), None).is_ok_and(|answer| answer.status == 200)
    }

    /// Gets the exit code of a command that has ended.
    pub fn exec_code(&self, exec: &str) -> Option<i32> {
        let said = self.json("GET", &format!("/exec/{exec}/json"), None).ok()?;
        if said["Running"].as_bool()? {
            return None;
        }
        said["ExitCode"].as_i64().and_then(|code| i32::try_from(code).ok())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn engine(rootless: bool) -> Engine {
        let (socket, api) = (PathBuf::from("/run/docker.sock"), "1.41".to_owned());
        Engine { socket, api, version: "Test 1".to_owned(), podman: rootless, rootless, boundless: false }
    }

    #[test]
    fn an_engine_elsewhere_is_refused_with_the_reason() {
        assert_eq!(socket_of("unix:///run/x.sock").unwrap(), Path::new("/run/x.sock"));
        for far in ["tcp://10.0.0.1:2375", "ssh://user@host", "http://localhost:2375", "npipe:////./pipe/docker_engine"]
        {
            let error = socket_of(far).unwrap_err();
            assert_eq!(error.kind, Kind::BackendUnavailable, "{far}");
            assert!(error.message.contains("handed over") && error.place.unwrap().contains(far));
        }
        for none in ["", "docker", "unix://run/x.sock", "fd://"] {
            assert_eq!(socket_of(none).unwrap_err().kind, Kind::Usage, "{none}");
        }
    }

    #[test]
    fn an_engine_that_does_not_run_is_named() {
        let error = Engine::find(Some("unix:///nonexistent/docker.sock")).unwrap_err();
        assert_eq!(error.kind, Kind::BackendUnavailable);
        assert!(error.place.unwrap().contains("/nonexistent/docker.sock") && error.hint.is_some());
    }
}
