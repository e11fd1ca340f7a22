//! Saves what an agent has put into its home, while its bottle runs: the way in writes it as an archive, in the container and
//! as the agent, and it lies in the bottle's state directory until the bottle is taken up again.
//!
//! The agent's processes are stopped meanwhile. Asks the engine by itself, so that a keeper is not held up. Must not look
//! into the archive, and must not follow anything of the agent's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::archive::{self, MOST_BYTES};
use super::engine::Engine;
use super::http::{encoded, frame};
use super::{RECORD, Record, is_image_name, spec};
use crate::bottle::linux::sys;
use crate::error::{Error, Kind, Result};

/// Longest that saving may take, and that nothing may come.
const PATIENCE: Duration = Duration::from_secs(300);
const SILENCE: Duration = Duration::from_secs(60);

/// Longest that an engine may take to know the exit code.
const CODE_PATIENCE: Duration = Duration::from_secs(20);

/// What of an archive is no content: headers, padding.
const MOST_BESIDE: u64 = 2 << 30;

/// Most that is heard of why it failed.
const MOST_NOISE: usize = 4096;

/// Where a saved home is shown in a container.
pub const SAVED: &str = "/run/bb/home.tar";

/// Where it lies in an image that was made of a container.
const IN_IMAGE: &str = "/.bb-home.tar";

fn failed(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("the agent's home cannot be saved: {what}"))
        .hint("its session is kept all the same; look at the space below BB_HOME and at the size of its home")
}

/// Tells whether the bottle with this state directory is made of containers.
pub fn is_container(state: &Path) -> bool {
    state.join(RECORD).exists()
}

/// Saves `home`, less `skip`, as the file `to`, in one step; `owner` is the agent, where that is somebody else than who does
/// this. Gets its size.
///
/// # Errors
/// `backend_unavailable` with what stands in the way; what was saved before stays then.
pub fn save(state: &Path, home: &Path, skip: &[PathBuf], to: &Path) -> Result<u64> {
    let record = Record::read(&state.join(RECORD)).ok_or_else(|| failed("the bottle has ended"))?;
    let engine = Engine::at(&record.engine)?;
    let labels = [&record.labels[..], &["bb.role=agent".to_owned()]].concat();
    let [agent] = &engine.labelled(&labels)?[..] else { return Err(failed("its container has ended")) };
    let part = to.with_extension("part");
    let saved = (|| {
        let mut file = File::create(&part).map_err(failed)?;
        let bytes = fetch(&engine, agent, home, skip, &mut file)?;
        file.sync_all().and_then(|()| fs::rename(&part, to)).map_err(failed)?;
        Ok(bytes)
    })();
    if saved.is_err() {
        let _ = fs::remove_file(&part);
        // Whatever has become of the one that stopped them.
        let spec = json!({"Cmd": [spec::OWN, "__inside", "go-on"], "WorkingDir": "/", "Tty": false});
        if let Ok(exec) = engine.exec(agent, &spec) {
            let _ = engine.json("POST", &format!("/exec/{exec}/start"), Some(&json!({"Detach": true})));
        }
    }
    saved
}

/// Checks the name of an image that is to be made.
///
/// # Errors
/// `usage`.
pub fn check_name(name: &str) -> Result<()> {
    if is_image_name(name) && !name.contains('@') {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "this is no name for an image")
        .at(format!("image {}", name.escape_debug()))
        .hint("write it as `docker tag` takes it, such as me/worker:1"))
}

/// Has the engine make the image `name` of the image of a bottle and its saved home. Bottles of it begin with that home.
///
/// # Errors
/// The engine's.
pub fn make_image(state: &Path, archive: &Path, name: &str) -> Result<()> {
    check_name(name)?;
    let file = File::open(archive).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let record = Record::read(&state.join(RECORD)).ok_or_else(|| failed("the bottle has ended"))?;
    let engine = Engine::at(&record.engine)?;
    let labels = [&record.labels[..], &["bb.role=agent".to_owned()]].concat();
    let [agent] = &engine.labelled(&labels)?[..] else { return Err(failed("its container has ended")) };
    let base = engine.json("GET", &format!("/containers/{agent}/json"), None)?["Image"].clone();
    let of_base = engine.image(base.as_str().unwrap_or_default())?.unwrap_or_default();
    let has = |key: &str| of_base["Config"][key].as_array().is_some_and(|list| !list.is_empty());
    let mut spec = json!({
        "Image": base, "Labels": spec::labelled(&record.labels, "image"), "HostConfig": {"NetworkMode": "none"},
    });
    if !has("Cmd") && !has("Entrypoint") {
        // Engines make no container that would run nothing.
        spec["Cmd"] = json!(["/bin/sh"]);
    }
    let made = engine.create(&format!("bb-image-{}", uuid::Uuid::now_v7().simple()), &spec)?;
    let done = (|| {
        let (mut wrapped, length) = archive::wrapped(IN_IMAGE.trim_start_matches('/'), file, size);
        engine.put(&made, &mut wrapped, length)?;
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (name, "latest"),
        };
        // Containers of the image are none of this bottle's: they must not be taken for such.
        let changes =
            ["bb.home", "bb.slug", "bb.role"].map(|label| format!("&changes={}", encoded(&format!("LABEL {label}=-"))));
        let path = format!(
            "/commit?container={made}&repo={}&tag={}&pause=false{}",
            encoded(repository),
            encoded(tag),
            changes.concat()
        );
        engine.json("POST", &path, Some(&json!({}))).map(drop)
    })();
    engine.remove(&made);
    done
}

fn fetch(engine: &Engine, agent: &str, home: &Path, skip: &[PathBuf], file: &mut File) -> Result<u64> {
    let mut command = vec![json!(spec::OWN), json!("__inside"), json!("save"), json!(home)];
    command.extend(skip.iter().map(|path| json!(path)));
    let spec = json!({"AttachStdout": true, "AttachStderr": true, "Cmd": command, "WorkingDir": "/", "Tty": false});
    let exec = engine.exec(agent, &spec)?;
    let mut stream = engine.exec_streams(&exec).map_err(failed)?;
    stream.get_ref().set_read_timeout(Some(SILENCE)).map_err(failed)?;
    let (began, mut bytes, mut noise) = (Instant::now(), 0u64, Vec::new());
    while let Some((kind, part)) = frame(&mut stream).map_err(failed)? {
        if kind == 1 {
            bytes += part.len() as u64;
            if bytes > MOST_BYTES + MOST_BESIDE {
                return Err(failed("it is too large"));
            }
            file.write_all(&part).map_err(failed)?;
        } else if noise.len() < MOST_NOISE {
            noise.extend(part);
        }
        if began.elapsed() > PATIENCE {
            return Err(failed(format!("it takes more than {} s", PATIENCE.as_secs())));
        }
    }
    let until = Instant::now() + CODE_PATIENCE;
    loop {
        match engine.exec_code(&exec) {
            Some(0) => return Ok(bytes),
            None if Instant::now() < until && engine.knows_exec(&exec) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => {
                let said: String = String::from_utf8_lossy(&noise).trim().chars().take(300).collect();
                return Err(failed(if said.is_empty() { "the way in ended without a word".to_owned() } else { said }));
            }
        }
    }
}

/// Everything in the container but this process and pid 1 is stopped for as long as the value lives.
struct Stopped;

/// Every process but this one and pid 1.
const ALL: Pid = Pid::from_raw(-1);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(ALL, Signal::SIGCONT);
    }
}

/// Standard output, which somebody has to read: who waits for ever would leave the agent stopped for ever.
struct Heard(io::StdoutLock<'static>);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.0.as_fd();
        let wait = u16::try_from(SILENCE.as_millis()).unwrap_or(u16::MAX);
        if poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::from(wait))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // That much a pipe takes at once when it takes anything (pipe(7), PIPE_BUF).
        Ok(nix::unistd::write(fd, &bytes[..bytes.len().min(libc::PIPE_BUF)])?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `bb __inside save HOME SKIP...`: writes the home to standard output.
///
/// # Errors
/// Those of [`archive::write`].
pub fn write_home(home: &str, skip: &[&str]) -> io::Result<()> {
    sys::set_dumpable(false)?;
    let skip: Vec<PathBuf> = skip.iter().map(PathBuf::from).collect();
    let _ = kill(ALL, Signal::SIGSTOP);
    let _stopped = Stopped;
    archive::write(Path::new(home), &skip, io::BufWriter::with_capacity(64 << 10, Heard(io::stdout().lock())))
}

/// Lays out the home that was saved, in pid 1 of a container, if one was: the bottle's own, else that of its image.
///
/// # Errors
/// Those of [`archive::lay_out`].
pub fn lay_out(home: &Path) -> io::Result<()> {
    for place in [SAVED, IN_IMAGE] {
        // An image may have anything there, a pipe that nobody writes say.
        if !fs::symlink_metadata(place).is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        match File::open(place) {
            Ok(file) => return archive::lay_out(io::BufReader::with_capacity(64 << 10, file), home),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
