//! What of the host's programs a bottle shows: the system's directories, and toolchains that live in a home.
//!
//! An allow-list. Looks at directories, runs nothing.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::plan::Bind;

/// Directories of the system, shown whole; where the host has a link, the bottle has the same link.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"];

/// What of `/etc` programs need. No accounts, no keys, no host's name resolution.
const ETC: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "default/locale",
    "fonts",
    "gai.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "os-release",
    "perl",
    "pki",
    "protocols",
    "python3",
    "services",
    "shells",
    "ssl",
    "terminfo",
    "timezone",
    "xml",
];

/// Toolchains below a home: when PATH has the first, the rest is shown too (relative to the home). With the variable
/// that tells the toolchain where it lives, since the bottle's home is another one.
type InHome = (&'static str, &'static [&'static str], Option<(&'static str, &'static str)>);
const IN_HOME: &[InHome] = &[
    (".cargo/bin", &[".cargo/bin", ".rustup/toolchains", ".rustup/settings.toml"], Some(("RUSTUP_HOME", ".rustup"))),
    (".pyenv", &[".pyenv"], Some(("PYENV_ROOT", ".pyenv"))),
    (".nvm", &[".nvm"], Some(("NVM_DIR", ".nvm"))),
    (".volta", &[".volta"], Some(("VOLTA_HOME", ".volta"))),
    (".bun", &[".bun/bin", ".bun/install/global"], None),
    (".deno", &[".deno/bin"], None),
    (".asdf", &[".asdf"], Some(("ASDF_DIR", ".asdf"))),
    (".rbenv", &[".rbenv"], Some(("RBENV_ROOT", ".rbenv"))),
    (".sdkman", &[".sdkman/candidates"], None),
    (".local/share/mise", &[".local/share/mise"], None),
    (".local/share/fnm", &[".local/share/fnm"], None),
    // Beside those of uv lie its credentials.
    (
        ".local/bin",
        &[
            ".local/bin",
            ".local/share/claude",
            ".local/share/uv/python",
            ".local/share/uv/tools",
            ".local/share/pipx",
            ".local/lib",
        ],
        None,
    ),
    ("go/bin", &["go/bin"], None),
    // Beside them lies `etc/npmrc`, with tokens of registries.
    (".npm-global", &[".npm-global/bin", ".npm-global/lib"], None),
];

/// What lies beside `bin` in installations that work only as a whole.
const INSTALLED: &[&str] = &["pyvenv.cfg", "conda-meta", "lib/rustlib", "pkg/tool"];

/// What of such an installation is shown: what runs, and never the whole, since a project may be made one (`python -m venv .`), and
/// settings with passwords may lie beside (`pip.conf`, `.condarc`).
const PARTS: &[&str] = &[
    "lib",
    "lib64",
    "libexec",
    "include",
    "share",
    "ssl",
    "pyvenv.cfg",
    "conda-meta",
    "pkg",
    "src",
    "api",
    "misc",
    "go.env",
    "VERSION",
];

/// What is shown beside the workspace.
#[derive(Debug, Default)]
pub struct Toolchains {
    /// Mounts.
    pub binds: Vec<Bind>,
    /// Links of the root: (target, path).
    pub links: Vec<(String, PathBuf)>,
    /// Directories of PATH that can be seen in the bottle, in order.
    pub path: Vec<PathBuf>,
    /// Variables that tell toolchains where they live.
    pub env: Vec<(String, String)>,
}

/// Collects the system's directories.
fn system(found: &mut Toolchains) {
    for path in SYSTEM {
        let path = Path::new(path);
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => {
                if let Ok(target) = fs::read_link(path) {
                    found.links.push((target.display().to_string(), path.to_owned()));
                }
            }
            Ok(meta) if meta.is_dir() => found.binds.push(Bind::read_only(path)),
            _ => {}
        }
    }
    let java = fs::read_dir("/etc").into_iter().flatten().flatten().map(|e| e.file_name());
    let java = java.filter_map(|n| n.into_string().ok()).filter(|n| n.starts_with("java"));
    for name in ETC.iter().map(|n| (*n).to_owned()).chain(java) {
        let path = Path::new("/etc").join(&name);
        match fs::symlink_metadata(&path) {
            // A link is made again, so that it points into the bottle's own tree.
            Ok(meta) if meta.is_symlink() => {
                if let Ok(target) = fs::read_link(&path) {
                    found.links.push((target.display().to_string(), path));
                }
            }
            Ok(_) => found.binds.push(Bind::read_only(path).optional()),
            Err(_) => {}
        }
    }
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        let path = Path::new("/dev").join(device);
        let mut bind = Bind::read_only(path).optional();
        bind.device = true;
        found.binds.push(bind);
    }
}

/// Collects what a bottle shows for a front end whose PATH is `host_path`, whose home is `user_home`, and whose agent is
/// run as `argv0`. `allowed` says of a directory whether it may be shown at all. What lies in `writable`, the agent's own
/// places, is shown by them and by nothing else: an agent could have put a link to elsewhere there.
pub fn collect(
    host_path: &str,
    user_home: Option<&Path>,
    argv0: &str,
    writable: &[PathBuf],
    allowed: impl Fn(&Path) -> bool,
) -> Toolchains {
    let mut found = Toolchains::default();
    system(&mut found);
    let agents_own = |dir: &Path| {
        !writable.is_empty() && dir.ancestors().any(|a| a.canonicalize().is_ok_and(|a| writable.contains(&a)))
    };
    let allowed = |dir: &Path| !agents_own(dir) && allowed(dir);
    for dir in host_path.split(':').map(Path::new).filter(|d| is_plain(d) && d.is_dir()) {
        if agents_own(dir) {
            found.path.push(dir.to_owned());
            continue;
        }
        if !covered(&found, dir) {
            let in_home = user_home.and_then(|h| dir.strip_prefix(h).ok());
            let known = in_home.and_then(|d| IN_HOME.iter().find(|(mark, ..)| d.starts_with(mark)));
            match (known, user_home) {
                (Some((_, shown, variable)), Some(home)) => {
                    for part in shown.iter().map(|p| home.join(p)).filter(|p| p.exists() && allowed(p)) {
                        found.binds.push(Bind::read_only(part).optional());
                    }
                    if let Some((name, place)) = variable {
                        found.env.push(((*name).to_owned(), home.join(place).display().to_string()));
                    }
                }
                _ if allowed(dir) => {
                    let parts = installation(dir).into_iter().filter(|part| part != dir && allowed(part));
                    found.binds.extend(parts.map(|part| Bind::read_only(part).optional()));
                    if !covered(&found, dir) {
                        found.binds.push(Bind::read_only(dir).optional());
                    }
                }
                _ => continue,
            }
        }
        if covered(&found, dir) && !found.path.iter().any(|p| p == dir) {
            found.path.push(dir.to_owned());
        }
    }
    for dir in ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(Path::new) {
        if !found.path.iter().any(|p| p == dir) {
            found.path.push(dir.to_owned());
        }
    }
    if let Some(program) = find(argv0, host_path)
        && let Ok(real) = program.canonicalize()
    {
        for place in [package_of(&real), program.parent().map(Path::to_owned)].into_iter().flatten() {
            if !covered(&found, &place) && allowed(&place) {
                found.binds.push(Bind::read_only(place).optional());
            }
        }
    }
    found
}

/// Gets what the programs of a directory of PATH need beside it, where it is known by what lies there: a virtual environment
/// of Python, one of Conda, a toolchain of Rust or Go, packages of npm. Links are left out.
fn installation(dir: &Path) -> Vec<PathBuf> {
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_symlink());
    let Some(parent) = dir.parent().filter(|_| is_there(dir)) else { return Vec::new() };
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("bin") if INSTALLED.iter().any(|mark| parent.join(mark).exists()) => {
            PARTS.iter().map(|part| parent.join(part)).filter(|part| is_there(part)).collect()
        }
        Some(".bin") if parent.ends_with("node_modules") => vec![parent.to_owned()],
        _ => Vec::new(),
    }
}

/// Absolute and without `..`.
fn is_plain(dir: &Path) -> bool {
    dir.is_absolute() && dir.components().all(|c| !matches!(c, Component::ParentDir))
}

/// Tells whether a path can be seen already: below something shown, or through one of the system's links.
fn covered(found: &Toolchains, path: &Path) -> bool {
    found.binds.iter().any(|b| path.starts_with(&b.target))
        || found.links.iter().any(|(_, link)| path.starts_with(link))
}

/// Finds a program as a shell would, in absolute directories only.
pub fn find(name: &str, path: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |p: &Path| fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|p| p.is_absolute() && runs(p));
    }
    path.split(':').map(Path::new).filter(|d| is_plain(d)).map(|d| d.join(name)).find(|p| runs(p))
}

/// Gets the directory that a program needs around it: the outermost `node_modules` it lies in, else its own directory.
fn package_of(real: &Path) -> Option<PathBuf> {
    let mut at = PathBuf::new();
    for part in real.components() {
        at.push(part);
        if part.as_os_str() == "node_modules" {
            return Some(at);
        }
    }
    real.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_from_npm_brings_its_whole_tree() {
        let real = Path::new("/home/a/agents/node_modules/@x/cli/node_modules/y/bin/cli");
        assert_eq!(package_of(real), Some(PathBuf::from("/home/a/agents/node_modules")));
        assert_eq!(package_of(Path::new("/home/a/.local/bin/tool")), Some(PathBuf::from("/home/a/.local/bin")));
    }

    #[test]
    fn a_toolchain_is_shown_without_the_credentials_beside_it() {
        let home = std::env::temp_dir().join(format!("bb-toolchain-{}", std::process::id()));
        let runs = [
            ".cargo/bin",
            ".rustup/toolchains",
            ".npm-global/bin",
            ".npm-global/lib",
            ".local/bin",
            ".local/share/uv/python",
            ".local/share/uv/tools",
        ];
        let secrets =
            [".cargo/credentials.toml", ".npm-global/etc/npmrc", ".local/share/uv/credentials/credentials.toml"];
        for dir in runs.iter().chain(&["private/bin"]) {
            fs::create_dir_all(home.join(dir)).unwrap();
        }
        for secret in secrets {
            fs::create_dir_all(home.join(secret).parent().unwrap()).unwrap();
            fs::write(home.join(secret), "secret").unwrap();
        }
        let path = format!(
            "{0}/.cargo/bin:relative:{0}/private/bin:{0}/missing:{0}/.npm-global/bin:{0}/.local/bin",
            home.display()
        );
        let found = collect(&path, Some(&home), "true", &[], |p| !p.ends_with("private/bin"));
        let sources: Vec<_> = found.binds.iter().map(|b| b.source.clone()).collect();
        for dir in runs {
            assert!(sources.contains(&home.join(dir)), "{dir}: {sources:?}");
        }
        for secret in secrets {
            assert!(!sources.iter().any(|s| home.join(secret).starts_with(s)), "{secret}: {sources:?}");
        }
        assert!(!found.path.iter().any(|p| p.ends_with("private/bin") || p.is_relative()));
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn what_an_installation_needs_is_shown_beside_its_programs_and_nothing_else() {
        let base = std::env::temp_dir().join(format!("bb-toolchain-whole-{}", std::process::id()));
        for dir in
            ["venv/bin", "rust/bin", "rust/lib/rustlib", "x/node_modules/.bin", "plain/bin", "plain/lib", "kept/bin"]
        {
            fs::create_dir_all(base.join(dir)).unwrap();
        }
        for file in ["venv/pyvenv.cfg", "venv/pip.conf", "venv/.env"] {
            fs::write(base.join(file), "").unwrap();
        }
        fs::create_dir_all(base.join("venv/lib/python3/site-packages")).unwrap();
        fs::create_dir_all(base.join("venv/secret")).unwrap();
        fs::write(base.join("kept/pyvenv.cfg"), "").unwrap();
        for (dir, shown) in [
            ("venv/bin", &["venv/lib", "venv/pyvenv.cfg", "venv/bin"][..]),
            ("rust/bin", &["rust/lib", "rust/bin"]),
            ("x/node_modules/.bin", &["x/node_modules"]),
            ("plain/bin", &["plain/bin"]),
            ("kept/bin", &["kept/bin"]),
        ] {
            let path = base.join(dir);
            let found = collect(&path.display().to_string(), None, "true", &[], |p| !p.ends_with("kept/pyvenv.cfg"));
            let ours: Vec<_> = found.binds.iter().map(|b| &b.source).filter(|s| s.starts_with(&base)).collect();
            let shown: Vec<_> = shown.iter().map(|shown| base.join(shown)).collect();
            assert_eq!(ours, shown.iter().collect::<Vec<_>>(), "{dir}");
            assert!(found.path.contains(&path), "{dir}");
        }
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_directory_of_path_that_an_agent_could_have_turned_elsewhere_is_not_followed() {
        let base = std::env::temp_dir().join(format!("bb-toolchain-own-{}", std::process::id()));
        fs::create_dir_all(base.join("project/node_modules")).unwrap();
        fs::create_dir_all(base.join("letters")).unwrap();
        std::os::unix::fs::symlink(base.join("letters"), base.join("project/node_modules/.bin")).unwrap();
        std::os::unix::fs::symlink(base.join("project"), base.join("p")).unwrap();
        let project = base.join("project").canonicalize().unwrap();
        for way in ["project", "p"] {
            let bin = base.join(way).join("node_modules/.bin");
            let shown = |writable: &[PathBuf]| {
                let found = collect(&bin.display().to_string(), None, "true", writable, |_| true);
                (found.binds.iter().any(|b| b.source == bin), found.path.contains(&bin))
            };
            assert_eq!(shown(&[]), (true, true), "the allowed twin");
            assert_eq!(shown(std::slice::from_ref(&project)), (false, true), "{way}");
        }
        fs::remove_dir_all(base).unwrap();
    }
}
