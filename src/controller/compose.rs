//! From a launch to a plan: what is shown, what is guarded, which files and variables the bottle gets.
//!
//! The one place that derives it, at a start and at a resume. Looks at the host's files and makes the bottle's state directory;
//! starts nothing and knows no credential.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::{routes, trust};
use crate::api::{Launch, WorkspaceMode};
use crate::bottle::backend::Choice;
use crate::bottle::docker;
use crate::bottle::guard;
use crate::bottle::places::{Forbidden, check_target};
use crate::bottle::plan::{Bind, Image, Overlay, Plan, PlannedFile, Starter};
use crate::bottle::toolchain;
use crate::bottle::{AGENT_ID, GATE_V4, RESERVED_ID, forbidden};
use crate::egress::proxy;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::settings::Settings;
use crate::workspace::{kept, prepare, put, session};

/// The agent's home in the bottle.
pub use crate::bottle::AGENT_HOME;

/// Bound of each writable place of a bottle: its home (with a scratch workspace), `/tmp` and `/var/tmp`.
const SCRATCH_BYTES: u64 = 4 << 30;

/// Everything that is needed to start a bottle, less its secrets.
#[derive(Debug)]
pub struct Composed {
    /// For the keeper.
    pub plan: Plan,
    /// Environment of the agent and of every exec, without what a launch adds.
    pub env: BTreeMap<String, String>,
    /// What was made on the host and goes away with the bottle.
    pub placeholders: Vec<PathBuf>,
    /// The workspace's path.
    pub workspace: PathBuf,
    /// What was asked for and is not enforced.
    pub warnings: Vec<String>,
}

/// Where this process lives, as far as bottles care.
#[derive(Clone, Debug)]
pub struct Host {
    /// Directories of this `BB_HOME`.
    pub home: Home,
    /// `$HOME` of the user.
    pub user_home: Option<PathBuf>,
    /// This executable.
    pub exe: PathBuf,
    /// PATH where a launch names none.
    pub path: String,
    /// Environment for a controller that a keeper starts.
    pub controller_env: Vec<String>,
}

/// Composes the plan of `launch` for the bottle `slug`, whose authority is `ca_pem`.
///
/// # Errors
/// `workspace_unsafe`, `agent_missing`, `usage`, or `internal` where a directory cannot be made.
pub fn compose(host: &Host, launch: &Launch, slug: &str, ca_pem: &str) -> Result<Composed> {
    compose_unless(&AtomicBool::new(false), host, launch, slug, ca_pem)
}

/// As [`compose`]; a copy of the workspace is given up once `given_up` is true.
///
/// # Errors
/// Those of [`compose`], and `timeout` where it was given up.
pub fn compose_unless(
    given_up: &AtomicBool,
    host: &Host,
    launch: &Launch,
    slug: &str,
    ca_pem: &str,
) -> Result<Composed> {
    let state = host.home.state(slug);
    let image = image(host, launch, &state)?;
    let internal = |e: std::io::Error| Error::internal(e.to_string()).at(state.display().to_string());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&state).map_err(internal)?;
    // What is taken up again may be of an older bb, which let others list it.
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).map_err(internal)?;
    kept::mark(&state).map_err(internal)?;
    let owner = match &launch.workspace {
        Some(path) => fs::metadata(path).ok().map(|meta| (meta.uid(), meta.gid())),
        None => None,
    };
    // Run by root for somebody else (sudo), that person's home is to be kept from an agent too.
    let homes = host.user_home.iter().cloned().chain(owner.and_then(|(uid, _)| home_of(uid)));
    // Settings that cannot be read launch nothing.
    let named = Settings::load(&host.home).unwrap_or_default().credentials.for_user(host.user_home.as_deref());
    let logins = launch.logins.values().map(|login| login.file.clone()).collect();
    let places = Forbidden::of(&host.home, homes).and(named.files()).and(logins).and_run(named.programs());
    let as_root = nix::unistd::geteuid().is_root();
    let mode = launch.workspace_mode.unwrap_or_default();
    let of_root = launch.workspace.is_some() && owner.is_some_and(|(uid, _)| uid == 0);
    if image.is_some() && as_root && mode != WorkspaceMode::Copy && of_root {
        return Err(Error::new(Kind::WorkspaceUnsafe, "it belongs to root, as whom no agent runs in a container")
            .at(launch.workspace.clone().unwrap_or_default())
            .hint("use workspace mode `copy`, give it to an ordinary user (chown), or use backend `linux`"));
    }

    // What is to be shown, and where. A scratch workspace is a directory of the bottle's home: bounded, and gone with it.
    let source = match &launch.workspace {
        Some(path) => {
            let real = places.check_writable(Path::new(path))?;
            check_target(&real)?;
            if !real.is_dir() {
                return Err(Error::new(Kind::WorkspaceUnsafe, "the workspace is not a directory")
                    .at(path.clone())
                    .hint("name the directory that the agent is to work in"));
            }
            Some(real)
        }
        None => None,
    };
    let workspace = source.clone().unwrap_or_else(|| PathBuf::from(AGENT_HOME).join("work"));
    if mode != WorkspaceMode::Mount && source.is_none() {
        return Err(Error::new(Kind::Usage, format!("workspace mode `{}` without a workspace", mode.as_str()))
            .hint("name the directory, or leave the mode out: a scratch workspace is the bottle's own"));
    }
    if let (Some(source), WorkspaceMode::Overlay, Some(_)) = (&source, mode, &image)
        && let Some(why) = docker::layer::obstacle(source, &state.join(kept::LAYER))
    {
        return Err(Error::new(Kind::FsUnsupported, why)
            .at(source.display().to_string())
            .hint("use workspace mode `copy` or `mount`"));
    }
    let owner = owner.unwrap_or((RESERVED_ID, RESERVED_ID));
    let (host_uid, host_gid, idmap) = if !as_root {
        (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), false)
    } else if owner.0 == 0 {
        (RESERVED_ID, RESERVED_ID, true)
    } else {
        (owner.0, if owner.1 == 0 { owner.0 } else { owner.1 }, false)
    };
    if as_root {
        forbidden::check_mapped(host_uid)?;
    }
    // What is taken up again had it at its launch, and has to be the same directory.
    if let Some(source) = source.as_deref().filter(|_| image.is_none() && launch.resume.is_none()) {
        // A directory of root's is shown as the agent's, and root's group as the agent's.
        let known = if idmap { 0 } else { host_gid };
        let whole = mode == WorkspaceMode::Overlay || mode == WorkspaceMode::Mount && idmap;
        if whole && owner.1 != known && (idmap || owner.0 == host_uid) {
            return Err(unknown_group(source, mode, owner.1, known));
        }
    }

    let (disk, unbound) = disk(launch)?;
    let path = launch.host_path.as_deref().unwrap_or(&host.path);
    let argv0 = launch.argv.first().map_or("", String::as_str);
    if argv0.is_empty() {
        return Err(Error::new(Kind::Usage, "the launch has no command line"));
    }
    let mut writable: Vec<PathBuf> = source.iter().cloned().collect();
    writable.extend(launch.mounts.iter().filter(|m| m.rw).filter_map(|m| Path::new(&m.source).canonicalize().ok()));
    let shown = |p: &Path| places.check(p).is_ok();
    // An image has its own programs.
    let mut tools = match image {
        Some(_) => toolchain::Toolchains::default(),
        None => toolchain::collect(path, host.user_home.as_deref(), argv0, &writable, shown),
    };
    let mut masks = Vec::new();
    for bind in &tools.binds {
        masks.extend(
            places
                .inside(&bind.source)
                .into_iter()
                .filter_map(|p| Some(bind.target.join(p.strip_prefix(bind.source.canonicalize().ok()?).ok()?))),
        );
    }
    let own_bin = Path::new("/run/bb/bin");
    if image.is_some() {
        // What is in the image is found there, by the way in.
    } else if argv0 == "bb" {
        tools.binds.push(Bind::read_only(&host.exe).at(own_bin.join("bb")));
        tools.path.push(own_bin.to_owned());
    } else if !argv0.contains('/')
        && toolchain::find(argv0, path).is_none()
        && toolchain::find(argv0, SYSTEM_PATH).is_none()
    {
        return Err(Error::new(Kind::AgentMissing, format!("`{argv0}` is not on this machine"))
            .at(format!("PATH={path}"))
            .hint(format!(
                "install `{argv0}` on the host, or run another provider (`demo` with --rehearse needs nothing)"
            )));
    }
    let mut overlay = None;
    match (&source, mode) {
        (Some(source), WorkspaceMode::Mount) => {
            tools.binds.push(Bind { rw: true, idmap, ..Bind::read_only(source).at(&workspace) });
        }
        (Some(source), WorkspaceMode::Overlay) => {
            let lower = Bind { idmap, ..Bind::read_only(source).at(&workspace) };
            let layer = Bind { rw: true, ..Bind::read_only(state.join(kept::LAYER)).at(&workspace) };
            overlay = Some(Overlay { lower, layer });
        }
        (Some(_), WorkspaceMode::Copy) => {
            tools.binds.push(Bind { rw: true, ..Bind::read_only(state.join(kept::COPY)).at(&workspace) });
        }
        (None, _) => {}
    }
    let mut targets = Vec::new();
    for mount in &launch.mounts {
        let source = Path::new(&mount.source);
        let real = if mount.rw { places.check_writable(source) } else { places.check(source) }?;
        let target = mount.target.as_ref().map_or_else(|| PathBuf::from(&mount.source), PathBuf::from);
        if !target.is_absolute() {
            return Err(Error::new(Kind::Usage, "a mount's target is not absolute").at(target.display().to_string()));
        }
        check_target(&target)?;
        targets.push(target.clone());
        // As a workspace of root's is: else "writable" would be a word only.
        let of_root = as_root && mount.rw && fs::metadata(&real).is_ok_and(|meta| meta.uid() == 0);
        tools.binds.push(Bind { rw: mount.rw, idmap: of_root && image.is_none(), ..Bind::read_only(real).at(target) });
    }
    match &image {
        Some(_) => trust::show_in_image(&state, ca_pem, &mut tools.binds),
        None => trust::show(&state, ca_pem, host.user_home.as_deref(), &mut tools.binds),
    }
    .map_err(internal)?;

    // In a container the agent has its number of the host, else its own.
    let (uid, gid) = if image.is_some() { (host_uid, host_gid) } else { (AGENT_ID, AGENT_ID) };
    let mut files = accounts(slug, uid, gid);
    for file in &launch.files {
        let (path, text) = file.filled(&workspace.display().to_string());
        let path = match path.strip_prefix("~/") {
            Some(rest) => PathBuf::from(AGENT_HOME).join(rest),
            None => PathBuf::from(path),
        };
        if !path.is_absolute() || path.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
            return Err(
                Error::new(Kind::Usage, "a file's path must be absolute, or begin with `~/`").at(file.path.clone())
            );
        }
        let planned = PlannedFile { path, text, base64: file.base64, mode: file.mode.unwrap_or(0o600) & 0o777 };
        if planned.bytes().is_err() {
            return Err(Error::new(Kind::Usage, "the text of a file is no base64").at(file.path.clone()));
        }
        // It is written where the bottle is built, as whoever the agent is on the host: into a mount it would be written there.
        if let Some(target) = targets.iter().find(|target| planned.path.starts_with(target)) {
            return Err(Error::new(Kind::WorkspaceUnsafe, "a file of the launch lies in what is mounted there")
                .at(format!("{} in {}", planned.path.display(), target.display()))
                .hint("mount it at another place: the provider needs that file for the agent"));
        }
        files.push(planned);
    }
    let ports = routes::ports(&launch.routes, launch.proxy)?;

    let mut env = environment(&tools, &workspace);
    if image.is_some() {
        // The image's own PATH counts, and its shell may be another one.
        env.remove("PATH");
        env.insert("SHELL".to_owned(), "/bin/sh".to_owned());
    }
    if launch.proxy {
        let found = proxy::variables(GATE_V4.into());
        env.extend(found.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    env.extend(launch.env.clone());
    // Last, since it writes into the workspace: nothing fails after it. What the agent does to a layer or a copy is judged when
    // it is brought over.
    let guarded = match &source {
        Some(source) if mode == WorkspaceMode::Mount => guard::prepare(source, owner)?,
        Some(source) => {
            let owner = as_root.then_some((host_uid, host_gid));
            let resumes = launch.resume.is_some();
            let (id, state) = (&launch.id, &state);
            let order = prepare::Order { slug, id, state, workspace: source, mode, owner, resumes, given_up };
            prepare::prepare(&order)?;
            guard::Guarded::default()
        }
        None => guard::Guarded::default(),
    };
    if let Some(wanted) = &launch.session {
        let owner = as_root.then_some((host_uid, host_gid));
        let places = session::prepare(&state, &launch.id, &launch.counted(), wanted, owner).inspect_err(|_| {
            guard::remove_placeholders(&guarded.made);
        })?;
        if let Err(e) = put::renew(&places, wanted, &launch.files) {
            guard::remove_placeholders(&guarded.made);
            return Err(internal(e));
        }
        let shown = places
            .into_iter()
            .map(|(place, below)| Bind { rw: true, ..Bind::read_only(place).at(Path::new(AGENT_HOME).join(below)) });
        tools.binds.extend(shown);
        let saved = session::home_archive(&state);
        if image.is_some() && launch.resume.is_some() && saved.exists() {
            tools.binds.push(Bind::read_only(saved).at(docker::commit::SAVED));
        }
    }
    // For whoever cleans up when this controller and the keeper are both gone.
    let list = serde_json::to_vec(&guarded.made).unwrap_or_default();
    if let Err(e) = fs::write(state.join(kept::PLACEHOLDERS), list) {
        guard::remove_placeholders(&guarded.made);
        return Err(internal(e));
    }
    if let Some(source) = &source
        && mode == WorkspaceMode::Mount
        && let Err(e) = hide_from_git(source, &guarded.made, &state, &mut tools.binds)
    {
        guard::remove_placeholders(&guarded.made);
        return Err(internal(e));
    }
    let plan = Plan {
        slug: slug.to_owned(),
        socket: host.home.keeper_socket(slug),
        log: state.join("output.log"),
        host_uid,
        host_gid,
        as_root,
        binds: tools.binds,
        links: tools.links,
        masks,
        guards: guarded.guards,
        files,
        home: PathBuf::from(AGENT_HOME),
        scratch_bytes: disk.unwrap_or(SCRATCH_BYTES),
        one_scratch: disk.is_some(),
        cgroups: Vec::new(),
        workspace: workspace.clone(),
        overlay,
        ports,
        controller: Starter { exe: host.exe.clone(), env: host.controller_env.clone(), stopped: host.home.stopped() },
        image,
    };
    Ok(Composed { plan, env, placeholders: guarded.made, workspace, warnings: unbound.into_iter().collect() })
}

/// Gets the bound of what the bottle writes beside its workspace; with what of the limit cannot be enforced.
fn disk(launch: &Launch) -> Result<(Option<u64>, Option<String>)> {
    let Some(limits) = launch.limits.as_ref().filter(|limits| limits.disk.is_some()) else { return Ok((None, None)) };
    if launch.workspace.is_none() {
        return Ok((limits.disk, None));
    }
    let why = "disk: what the agent writes into its workspace lies on the host's disk, which bb cannot bound";
    if limits.best_effort {
        return Ok((limits.disk, Some(why.to_owned())));
    }
    Err(Error::new(Kind::BackendUnavailable, format!("a limit cannot be enforced here: {why}"))
        .at("limits")
        .hint(
            "say `limits.best_effort: true`, which bounds what is written beside the workspace, or take `disk` out; a recipe \
             may leave the workspace out for a scratch one, which is bound",
        ))
}

/// Says that nothing of a workspace could be changed: the kernel changes and copies up only what has an owner and a group that
/// the bottle has, which are one of each.
fn unknown_group(source: &Path, mode: WorkspaceMode, group: u32, known: u32) -> Error {
    let what = format!("its group {group} is not the agent's ({known}), and the kernel would refuse each change in it");
    let (mode, place) = (mode.as_str(), source.display());
    Error::new(Kind::FsUnsupported, format!("workspace mode `{mode}`: {what}"))
        .at(place.to_string())
        .hint(format!("use workspace mode `copy`, or give it the agent's group: chgrp -R {known} {place}"))
}

/// Gets what a container engine needs for the launch; `None` where the embedded backend makes the bottle.
fn image(host: &Host, launch: &Launch, state: &Path) -> Result<Option<Image>> {
    if Choice::parse(launch.backend.as_deref().unwrap_or("linux"))? == Choice::Linux {
        return Ok(None);
    }
    let Some(name) = launch.image.clone().filter(|name| !name.is_empty()) else {
        return Err(Error::new(Kind::Usage, "backend docker makes a bottle of an image, and none is named")
            .hint("write image = \"debian:12\" in the launch, or `image: debian:12` in settings.yml"));
    };
    if !docker::is_image_name(&name) {
        return Err(Error::new(Kind::Usage, "this is no image's name")
            .at(format!("image {}", name.escape_debug()))
            .hint("write it as `docker pull` takes it, such as debian:12"));
    }
    let helper = docker::own_helper(&host.exe)?;
    let (engine, home) = (launch.engine.clone(), host.home.root.clone());
    let limits = launch.limits.clone().unwrap_or_default();
    let (memory, cpus, pids, best_effort) = (limits.memory, limits.cpus, limits.pids, limits.best_effort);
    Ok(Some(Image { name, engine, helper, state: state.to_owned(), home, memory, cpus, pids, best_effort }))
}

/// Has the bottle's git ignore the placeholders, so that an agent that commits everything does not commit them: over the
/// repository's list of excluded files lies one that names them, in the bottle only.
fn hide_from_git(workspace: &Path, made: &[PathBuf], state: &Path, binds: &mut Vec<Bind>) -> std::io::Result<()> {
    let list = workspace.join(".git/info/exclude");
    // Where it is not there or leads elsewhere, nothing is put there.
    if list.canonicalize().ok().as_ref() != Some(&list) || !list.is_file() {
        return Ok(());
    }
    let mut text = fs::read_to_string(&list).unwrap_or_default();
    text.push_str("\n# What stands in for files that agents must not make.\n");
    for path in made.iter().filter_map(|path| path.strip_prefix(workspace).ok()) {
        text.push_str(&format!("/{}\n", path.display()));
    }
    let shown = state.join("exclude");
    fs::write(&shown, text)?;
    binds.push(Bind::read_only(shown).at(list));
    Ok(())
}

/// Gets the home of an account.
fn home_of(uid: u32) -> Option<PathBuf> {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.dir)
}

/// Where programs of the system lie.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The account files and the resolver's configuration of a bottle.
fn accounts(slug: &str, uid: u32, gid: u32) -> Vec<PlannedFile> {
    let shell = if uid == AGENT_ID { "/bin/bash" } else { "/bin/sh" };
    let file =
        |name: &str, text: String| PlannedFile { path: Path::new("/etc").join(name), text, base64: false, mode: 0o644 };
    vec![
        file(
            "passwd",
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:{uid}:{gid}:agent:{AGENT_HOME}:{shell}\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        file("group", format!("root:x:0:\nagent:x:{gid}:\nnogroup:x:65534:\n")),
        file(
            "nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nservices: files\n\
             protocols: files\nrpc: files\nethers: files\nnetgroup: files\n"
                .to_owned(),
        ),
        // Without it a name of two families in `hosts`, localhost that is, has one.
        file("host.conf", "multi on\n".to_owned()),
        file("resolv.conf", "nameserver 198.18.0.3\noptions timeout:2 attempts:2\n".to_owned()),
        file("hosts", format!("127.0.0.1 localhost {slug}\n::1 localhost ip6-localhost ip6-loopback\n")),
        file("hostname", format!("{slug}\n")),
    ]
}

/// The variables of every process of a bottle.
fn environment(tools: &toolchain::Toolchains, workspace: &Path) -> BTreeMap<String, String> {
    let path: Vec<String> = tools.path.iter().map(|p| p.display().to_string()).collect();
    let mut env: BTreeMap<String, String> = [
        ("PATH", path.join(":")),
        ("HOME", AGENT_HOME.to_owned()),
        ("USER", "agent".to_owned()),
        ("LOGNAME", "agent".to_owned()),
        ("SHELL", "/bin/bash".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TERM", "dumb".to_owned()),
        ("TMPDIR", "/tmp".to_owned()),
        ("PWD", workspace.display().to_string()),
        ("BB_BOTTLE", "1".to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into();
    trust::variables(&mut env);
    env.extend(tools.env.iter().cloned());
    env
}
