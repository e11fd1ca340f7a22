//! What a build learns of this machine: proxies, and where packages come from.
//!
//! Proxies are build arguments that every builder knows and none writes down. What may hold a token (npm's, pip's and apt's
//! configuration) is a secret: a step sees it that asks for it by name, and no layer has it. Only settings about
//! registries are taken; nothing here is printed.

use std::collections::BTreeMap;
use std::path::Path;

use zeroize::Zeroizing;

use crate::bottle::docker::image::Secrets;
use crate::error::{Error, Kind, Result};
use crate::yaml::read::bounded;

/// Largest file of settings that is looked at, bytes, and most of apt's.
const MOST_BYTES: u64 = 64 << 10;
const MOST_FILES: usize = 200;

/// The proxy variables that are predefined build arguments, in lower case.
const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy"];

/// The variable that names the network of a build's steps.
const NETWORK: &str = "BB_BUILD_NETWORK";

/// What a build learns.
#[derive(Default)]
pub struct Host {
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: Secrets,
    /// The network of its steps.
    pub network: Option<String>,
}

impl Host {
    /// Looks at this process's environment, home and system.
    ///
    /// # Errors
    /// As [`Host::look`].
    pub fn of_process() -> Result<Host> {
        let home = std::env::var_os("HOME").filter(|dir| !dir.is_empty());
        Host::look(&|name| std::env::var(name).ok(), home.as_deref().map(Path::new), Path::new("/etc/apt"))
    }

    /// Looks at an environment, a home and apt's directory.
    ///
    /// # Errors
    /// `usage` where the network is none that there is.
    pub fn look(lookup: &dyn Fn(&str) -> Option<String>, home: Option<&Path>, apt: &Path) -> Result<Host> {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let either = |name: &str| get(name).or_else(|| get(&name.to_ascii_uppercase()));
        let mut host = Host { network: get(NETWORK), ..Host::default() };
        if let Some(network) = host.network.as_deref() {
            check_network(network).map_err(|e| e.at(NETWORK))?;
        }
        for name in PROXIES {
            if let Some(value) = either(name) {
                // Some programs read only the one, some only the other.
                host.args.insert(name.to_owned(), value.clone());
                host.args.insert(name.to_ascii_uppercase(), value);
            }
        }
        let mut add = |name: &'static str, text: String| {
            if !text.is_empty() {
                host.secrets.insert(name, Zeroizing::new(text));
            }
        };
        let file =
            either("npm_config_userconfig").map(std::path::PathBuf::from).or(home.map(|home| home.join(".npmrc")));
        let text = file.and_then(|file| bounded(&file, MOST_BYTES).ok()).map(Zeroizing::new);
        add("npmrc", npmrc(text.as_deref().map_or("", String::as_str), either("npm_config_registry"), &get));
        add("pip", pip(&get));
        add("apt", apt_proxies(apt));
        Ok(host)
    }
}

/// Checks the name of a build's network.
///
/// # Errors
/// `usage`.
pub fn check_network(network: &str) -> Result<()> {
    if ["none", "host"].contains(&network) {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("a build has no network `{}`", network.escape_debug()))
        .hint("write none or host; without it the engine's own is used"))
}

/// Takes what is about registries out of npm's settings.
fn npmrc(text: &str, registry: Option<String>, get: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        let plain = ["_auth", "_authToken", "always-auth", "proxy", "https-proxy", "noproxy", "strict-ssl"];
        let own = key == "registry" && registry.is_none();
        if own || key.starts_with("//") || key.ends_with(":registry") || plain.contains(&key) {
            out.push_str(&format!("{key}={}\n", expanded(value, get)));
        }
    }
    if let Some(registry) = registry {
        out.push_str(&format!("registry={}\n", registry.trim()));
    }
    out
}

/// Puts in the variables that npm would.
fn expanded(value: &str, get: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(get(name).unwrap_or_default().lines().next().unwrap_or_default());
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Writes pip's settings as a file.
fn pip(get: &dyn Fn(&str) -> Option<String>) -> String {
    let mut lines = String::new();
    for (variable, key) in [
        ("PIP_INDEX_URL", "index-url"),
        ("PIP_EXTRA_INDEX_URL", "extra-index-url"),
        ("PIP_TRUSTED_HOST", "trusted-host"),
    ] {
        if let Some(value) = get(variable) {
            lines.push_str(&format!("{key} = {}\n", value.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    if lines.is_empty() { lines } else { format!("[global]\n{lines}") }
}

/// Takes the proxies out of apt's settings.
fn apt_proxies(apt: &Path) -> String {
    let mut files: Vec<_> = std::fs::read_dir(apt.join("apt.conf.d"))
        .into_iter()
        .flatten()
        .flatten()
        .take(MOST_FILES)
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files.push(apt.join("apt.conf"));
    let mut out = String::new();
    for text in files.iter().filter_map(|file| bounded(file, MOST_BYTES).ok()) {
        let is_proxy = |line: &&str| {
            let line = line.to_ascii_lowercase();
            ["acquire::http::proxy", "acquire::https::proxy"].iter().any(|key| line.starts_with(key))
                && line.ends_with(';')
        };
        for line in text.lines().map(str::trim).filter(is_proxy) {
            out.push_str(&format!("{line}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(env: &[(&str, &str)], home: &Path) -> Host {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Host::look(&lookup, Some(home), &home.join("apt")).unwrap()
    }

    #[test]
    fn what_is_about_registries_and_proxies_is_taken_and_nothing_else() {
        let home = std::env::temp_dir().join(format!("bb-image-host-{}", std::process::id()));
        std::fs::create_dir_all(home.join("apt/apt.conf.d")).unwrap();
        std::fs::write(
            home.join(".npmrc"),
            "# mine\nregistry=https://npm.corp/\n@corp:registry = https://npm.corp/c\n//npm.corp/:_authToken=${TOKEN}-x\n\
             nodedir=/usr\nprefix=/home/me\n",
        )
        .unwrap();
        let apt = "// x\nAcquire::http::Proxy \"http://apt:3142\";\nAPT::Install-Recommends \"0\";\n";
        std::fs::write(home.join("apt/apt.conf.d/50proxy"), apt).unwrap();
        let env = [
            ("TOKEN", "canary"),
            ("HTTPS_PROXY", "http://p:1"),
            ("no_proxy", "a,b"),
            ("PIP_INDEX_URL", "https://pip.corp/simple"),
            ("PATH", "/bin"),
        ];
        let host = look(&env, &home);
        let names: Vec<&str> = host.args.keys().map(String::as_str).collect();
        assert_eq!(names, ["HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy"]);
        let npmrc = "registry=https://npm.corp/\n@corp:registry=https://npm.corp/c\n//npm.corp/:_authToken=canary-x\n";
        assert_eq!(*host.secrets["npmrc"], npmrc);
        assert_eq!(*host.secrets["pip"], "[global]\nindex-url = https://pip.corp/simple\n");
        assert_eq!(*host.secrets["apt"], "Acquire::http::Proxy \"http://apt:3142\";\n");
        // The environment goes before the file.
        let host = look(&[("npm_config_registry", "https://other/")], &home);
        assert!(
            host.secrets["npmrc"].ends_with("registry=https://other/\n")
                && !host.secrets["npmrc"].contains("npm.corp/\n@")
        );
        std::fs::remove_dir_all(&home).unwrap();
        let host = look(&[], &home);
        assert!(host.args.is_empty() && host.secrets.is_empty() && host.network.is_none());
    }

    #[test]
    fn a_network_is_one_that_every_engine_has() {
        let with = |network: &str| {
            let lookup = |name: &str| (name == NETWORK).then(|| network.to_owned());
            Host::look(&lookup, None, Path::new("/nonexistent"))
        };
        assert_eq!(with("host").unwrap().network.as_deref(), Some("host"));
        let error = with("container:x").err().unwrap();
        assert_eq!((error.kind, error.place.as_deref()), (Kind::Usage, Some(NETWORK)));
    }
}
