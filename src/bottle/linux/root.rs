//! The file system of a bottle: an allow-list of the host's, read-only, with scratch places and the workspace on top.
//!
//! Runs in pid 1 before it is confined. What is shown is decided in the plan; here it is only carried out.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::sys::{self, Links, attr};
use crate::bottle::plan::{Bind, Plan};

/// Where the new root is mounted while it is built. The host's own content of it is not seen by then: every source has
/// been opened before.
const BUILDING: &str = "/tmp";

/// Kernel files that tell about the host or act on it. Hidden by an empty file.
const HIDDEN_PROC: &[&str] =
    &["kcore", "keys", "key-users", "timer_list", "sched_debug", "latency_stats", "kmsg", "kpagecount", "kpageflags"];

/// Kernel files that can be read but not written.
const READ_ONLY_PROC: &[&str] = &["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// Something went wrong at a path.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// Takes a detached copy of each source. The mounts belong to whoever calls: root before it becomes the agent's user,
/// or the bottle's own pid 1.
///
/// # Errors
/// Those of opening a source that is not optional.
pub fn open_sources(binds: &[Bind], idmap: Option<&OwnedFd>) -> io::Result<Vec<Option<OwnedFd>>> {
    binds
        .iter()
        .map(|bind| {
            let tree = match sys::clone_tree(None, &bind.source).and_then(|tree| unmoved(bind, tree)) {
                Ok(tree) => tree,
                Err(e) if bind.optional && e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(at(&bind.source)(e)),
            };
            let mut set = attr::NOSUID;
            if !bind.rw {
                set |= attr::RDONLY;
            }
            if !bind.device {
                set |= attr::NODEV;
            }
            sys::set_attributes(tree.as_raw_fd(), set, None, true).map_err(at(&bind.source))?;
            if bind.idmap {
                sys::set_attributes(tree.as_raw_fd(), 0, idmap, false).map_err(|e| {
                    io::Error::new(
                        io::ErrorKind::Unsupported,
                        format!("{}: its file system knows no translated mounts: {e}", bind.source.display()),
                    )
                })?;
            }
            Ok(Some(tree))
        })
        .collect()
}

/// Refuses a writable source that is no longer the directory that was checked: its path had no links then, and another
/// bottle that can write above it could have put one in since.
fn unmoved(bind: &Bind, tree: OwnedFd) -> io::Result<OwnedFd> {
    if bind.rw {
        let host = fs::File::open("/")?;
        let checked = sys::open_below(host.as_fd(), &bind.source, Links::Refused)?;
        let id = |fd: &OwnedFd| fd.try_clone().map(fs::File::from)?.metadata().map(|m| (m.dev(), m.ino()));
        if id(&checked)? != id(&tree)? {
            return Err(io::Error::other("it was replaced while the bottle was set up"));
        }
    }
    Ok(tree)
}

/// Builds the root from the plan and the opened sources, and moves into it.
///
/// # Errors
/// Those of the system calls, with the path.
pub fn build(plan: &Plan, sources: &[Option<OwnedFd>]) -> io::Result<()> {
    let root = Path::new(BUILDING);
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    tmpfs(root, "size=64m,mode=755")?;
    let root_fd = OwnedFd::from(fs::File::open(root)?);

    let one = if plan.one_scratch { Some(Scratch::mount(root, plan.scratch_bytes)?) } else { None };
    let whole = plan.scratch_bytes.to_string();
    for (path, size, mode) in [
        (Path::new("/tmp"), whole.as_str(), 0o1777),
        (Path::new("/var/tmp"), &whole, 0o1777),
        (Path::new("/run"), "64m", 0o755),
        (&plan.home, &whole, 0o755),
    ] {
        let place = below(root, path);
        directory(&place)?;
        match &one {
            Some(one) => one.part(&place, mode)?,
            None => tmpfs(&place, &format!("size={size},mode={mode:o}"))?,
        }
    }
    directory(&below(root, Path::new("/dev")))?;
    tmpfs(&below(root, Path::new("/dev")), "size=64k,mode=755")?;
    directory(&below(root, Path::new("/sys")))?;
    if plan.workspace.starts_with(&plan.home) {
        directory(&below(root, &plan.workspace))?;
    }

    for (target, path) in &plan.links {
        let place = below(root, path);
        if let Some(parent) = place.parent() {
            directory(parent)?;
        }
        symlink(target, &place).map_err(at(path))?;
    }
    devices(root, one.as_ref())?;
    if let Some(one) = one {
        one.finish()?;
    }
    for (bind, source) in plan.binds.iter().zip(sources) {
        if let Some(source) = source {
            attach(&root_fd, source, &bind.target).map_err(at(&bind.target))?;
        }
    }
    if plan.overlay.is_some() {
        match sources.get(plan.binds.len()..) {
            Some([Some(lower), Some(layer)]) => overlay(&root_fd, lower, layer, &plan.workspace)?,
            _ => return Err(io::Error::other("the sources of the overlay are missing")),
        }
    }
    for file in &plan.files {
        let bytes = file.bytes().map_err(at(&file.path))?;
        write_file(&root_fd, &file.path, &bytes, file.mode).map_err(at(&file.path))?;
    }
    proc(root, &root_fd)?;
    for path in &plan.masks {
        hide(&root_fd, path).map_err(at(path))?;
    }
    guards(plan, &root_fd)?;

    nix::unistd::chdir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    // The old root now lies on top of the new one; taking it away leaves the new one.
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    let root_fd = fs::File::open("/")?;
    sys::set_attributes(root_fd.as_raw_fd(), attr::RDONLY | attr::NOSUID | attr::NODEV, None, false)?;
    let dev = fs::File::open("/dev")?;
    sys::set_attributes(dev.as_raw_fd(), attr::RDONLY | attr::NOSUID, None, false)
}

/// One file system for all that a bottle writes beside its workspace, so that it has one bound.
struct Scratch(PathBuf);

impl Scratch {
    fn mount(root: &Path, bytes: u64) -> io::Result<Scratch> {
        let place = root.join(".bb-scratch");
        directory(&place)?;
        tmpfs(&place, &format!("size={bytes},mode=755"))?;
        Ok(Scratch(place))
    }

    /// Shows a directory of it at `place`.
    fn part(&self, place: &Path, mode: u32) -> io::Result<()> {
        let name = place.components().map(|c| c.as_os_str().to_string_lossy().replace('/', "")).collect::<Vec<_>>();
        let part = self.0.join(name.join("-"));
        fs::DirBuilder::new().create(&part)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(mode))?;
        mount(Some(&part), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| at(place)(e.into()))
    }

    /// Takes away the place where all of it can be seen.
    fn finish(self) -> io::Result<()> {
        umount2(&self.0, MntFlags::MNT_DETACH)?;
        fs::remove_dir(&self.0)
    }
}

/// Gets where an absolute path of the bottle lies below the root that is being built.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn tmpfs(path: &Path, options: &str) -> io::Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .map_err(|e| at(path)(e.into()))
}

fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(at(path))
}

/// Gets a directory of the new root, making what is missing of it. Links are followed as they will be in the bottle: until
/// the old root is gone, the kernel would follow an absolute one to the host's own files.
fn directory_below(root_fd: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mut at = PathBuf::from("/");
    let mut place = root_fd.try_clone()?;
    for part in path.components().filter(|p| matches!(p, Component::Normal(_))) {
        at.push(part);
        place = match sys::open_below(root_fd.as_fd(), &at, Links::Inside) {
            Ok(next) => next,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                mkdirat(&place, Path::new(part.as_os_str()), Mode::from_bits_truncate(0o755))?;
                sys::open_below(root_fd.as_fd(), &at, Links::Inside)?
            }
            Err(e) => return Err(e),
        };
    }
    Ok(place)
}

/// Opens the directory that a file of the new root lies in; with the file's name.
fn parent_below<'a>(root_fd: &OwnedFd, path: &'a Path) -> io::Result<(OwnedFd, &'a Path)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((directory_below(root_fd, path.parent().unwrap_or(Path::new("/")))?, Path::new(name)))
}

/// Mounts the workspace as a layer over a directory of the host. Both trees are put where only this process sees them, since
/// an overlay takes paths; it keeps them by itself afterwards.
fn overlay(root_fd: &OwnedFd, lower: &OwnedFd, layer: &OwnedFd, target: &Path) -> io::Result<()> {
    let places = [Path::new("/.bb-lower"), Path::new("/.bb-layer")];
    for (place, tree) in places.iter().zip([lower, layer]) {
        sys::attach(tree, directory_below(root_fd, place)?.as_fd())?;
    }
    let [lower, layer] = places.map(|place| below(Path::new(BUILDING), place));
    let options =
        format!("lowerdir={0},upperdir={1}/upper,workdir={1}/work,userxattr", lower.display(), layer.display());
    let place = directory_below(root_fd, target)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), &through, Some("overlay"), flags, Some(options.as_str()))
        .map_err(|e| io::Error::new(io::ErrorKind::Unsupported, format!("an overlay cannot be mounted: {e}")))?;
    for path in [lower, layer] {
        umount2(&path, MntFlags::MNT_DETACH)?;
        fs::remove_dir(&path)?;
    }
    Ok(())
}

/// Puts a detached tree at `target`, making the place for it where there is none.
fn attach(root_fd: &OwnedFd, tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let is_directory = fs::File::from(tree.try_clone()?).metadata()?.is_dir();
    let place = match sys::open_below(root_fd.as_fd(), target, Links::Inside) {
        Ok(place) => place,
        Err(_) if is_directory => directory_below(root_fd, target)?,
        Err(_) => {
            let (parent, name) = parent_below(root_fd, target)?;
            openat(&parent, name, NEW_FILE | OFlag::O_EXCL, Mode::from_bits_truncate(0o444))?;
            sys::open_below(root_fd.as_fd(), target, Links::Inside)?
        }
    };
    sys::attach(tree, place.as_fd())
}

/// How a file of the new root is made.
const NEW_FILE: OFlag = OFlag::O_CREAT.union(OFlag::O_WRONLY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn write_file(root_fd: &OwnedFd, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (parent, name) = parent_below(root_fd, path)?;
    // In a place that outlived an earlier bottle anything may lie there, a pipe that nobody reads say.
    let there = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_mode & libc::S_IFMT);
    if there.is_some_and(|kind| kind != libc::S_IFREG && kind != libc::S_IFDIR) {
        unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?;
    }
    let fd = openat(&parent, name, NEW_FILE | OFlag::O_TRUNC, Mode::from_bits_truncate(mode & 0o777))?;
    fs::File::from(fd).write_all(bytes)
}

/// What is in `/dev` beside the devices that the plan binds.
fn devices(root: &Path, one: Option<&Scratch>) -> io::Result<()> {
    let dev = below(root, Path::new("/dev"));
    directory(&dev.join("shm"))?;
    match one {
        Some(one) => one.part(&dev.join("shm"), 0o1777)?,
        None => tmpfs(&dev.join("shm"), "size=256m,mode=1777")?,
    }
    directory(&dev.join("pts"))?;
    mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("newinstance,ptmxmode=0666,mode=620"),
    )
    .map_err(|e| at(Path::new("/dev/pts"))(e.into()))?;
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

/// A `/proc` of the bottle's own process namespace, less what acts on the host.
fn proc(root: &Path, root_fd: &OwnedFd) -> io::Result<()> {
    let place = below(root, Path::new("/proc"));
    directory(&place)?;
    mount(
        Some("proc"),
        &place,
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .map_err(|e| at(Path::new("/proc"))(e.into()))?;
    for name in READ_ONLY_PROC {
        let path = Path::new("/proc").join(name);
        match sys::open_below(root_fd.as_fd(), &path, Links::Refused) {
            Ok(place) => set_over_itself(&place, true).map_err(at(&path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at(&path)(e)),
        }
    }
    for name in HIDDEN_PROC {
        hide(root_fd, &Path::new("/proc").join(name))?;
    }
    for name in ["acpi", "scsi"] {
        hide(root_fd, &Path::new("/proc").join(name))?;
    }
    Ok(())
}

/// Covers a path with nothing: a file by the null device, a directory by an empty one. A missing one is fine.
fn hide(root_fd: &OwnedFd, path: &Path) -> io::Result<()> {
    let place = match sys::open_below(root_fd.as_fd(), path, Links::Inside) {
        Ok(place) => place,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let through = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    if fs::metadata(&through)?.is_dir() {
        return tmpfs(&through, "size=0,mode=555,ro");
    }
    let null = sys::open_below(root_fd.as_fd(), Path::new("/dev/null"), Links::Refused)?;
    sys::attach(&sys::clone_tree(Some(null.as_raw_fd()), Path::new(""))?, place.as_fd())
}

/// Mounts a place over itself: then it can be neither renamed nor removed, and if wanted not written either.
fn set_over_itself(place: &OwnedFd, read_only: bool) -> io::Result<()> {
    let tree = sys::clone_tree(Some(place.as_raw_fd()), Path::new(""))?;
    if read_only {
        sys::set_attributes(tree.as_raw_fd(), attr::RDONLY, None, true)?;
    }
    sys::attach(&tree, place.as_fd())
}

/// Guards paths of the workspace. A link among them could be turned elsewhere, so it is an error.
fn guards(plan: &Plan, root_fd: &OwnedFd) -> io::Result<()> {
    let workspace = sys::open_below(root_fd.as_fd(), &plan.workspace, Links::Inside)?;
    for guard in &plan.guards {
        let path = plan.workspace.join(&guard.path);
        let place = sys::open_below(workspace.as_fd(), &guard.path, Links::Refused).map_err(at(&path))?;
        set_over_itself(&place, guard.read_only).map_err(at(&path))?;
    }
    Ok(())
}
