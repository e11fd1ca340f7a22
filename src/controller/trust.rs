//! What makes the programs of a bottle trust its authority: a merged bundle at the places where they look, a key store for
//! Java, and the variables that toolchains read.
//!
//! Writes below the bottle's state directory only. The authority's key is never here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ring::digest::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::bottle::plan::Bind;

/// Where the trust of the bottle lies.
const TRUST: &str = "/etc/bb";

/// Bundles of trusted authorities that distributions keep, first found first.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Key stores that distributions keep for every Java.
const KEY_STORES: &[&str] =
    &["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts"];

/// Directories in which Javas lie beside each other; those that begin with `~/` in a home.
const JAVAS: &[&str] = &["/usr/lib/jvm", "/opt", "~/.sdkman/candidates/java", "~/.asdf/installs/java"];

/// Variables by which toolchains are told of authorities: those that take a whole bundle, and those that add to their own.
const WHOLE_BUNDLE: &[&str] = &[
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "CODEX_CA_CERTIFICATE",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "PERL_LWP_SSL_CA_FILE",
];
const ADDED: &[&str] = &["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Where Pythons and their environments lie in what a bottle shows (pyenv, mise and asdf, pipx, uv; Conda's and Miniforge's as one of
/// them); `*` is any rest of a name.
const PYTHONS: &[&str] =
    &["", "envs/*", "versions/*", "versions/*/envs/*", "installs/*/*", "installs/*/*/envs/*", "venvs/*"];
/// Directories in which each entry may be one, or have some, and where those lie.
const OF_MANY: &[(&str, &[&str])] = &[
    ("/opt", &["*", "*/*", "*/envs/*", "*/versions/*", "*/*/envs/*"]),
    ("/usr/local", &["*", "*/envs/*"]),
    ("uv/python", &["*"]),
    ("uv/tools", &["*"]),
];
/// Where packages lie in the `lib` of one of them.
const PACKAGES: &[&str] = &["python*/site-packages", "python*/dist-packages", "pypy*/site-packages"];
/// The bundle that many packages for Python bring along, and trust whatever variables say.
const CERTIFI: &str = "certifi/cacert.pem";
/// Most directories looked at for one `*`.
const MOST: usize = 64;

/// Adds the variables.
pub fn variables(env: &mut BTreeMap<String, String>) {
    for (names, file) in [(WHOLE_BUNDLE, "ca-bundle.pem"), (ADDED, "ca.pem")] {
        env.extend(names.iter().map(|name| ((*name).to_owned(), format!("{TRUST}/{file}"))));
    }
    // Bun and newer Node read the system's authorities only when told to.
    env.insert("NODE_USE_SYSTEM_CA".to_owned(), "1".to_owned());
}

/// Writes the bottle's authority, the merged bundle and, where there is a Java, its key store into `state`, and shows them:
/// at their own place, and over the host's.
///
/// # Errors
/// Those of writing.
pub fn show(state: &Path, ca_pem: &str, user_home: Option<&Path>, binds: &mut Vec<Bind>) -> io::Result<()> {
    let host = BUNDLES.iter().find(|b| Path::new(b).exists()).map(Path::new);
    let text = host.and_then(|b| fs::read_to_string(b).ok()).unwrap_or_default();
    let (ca, bundle) = (state.join("ca.pem"), state.join("ca-bundle.pem"));
    fs::write(&ca, ca_pem)?;
    fs::write(&bundle, format!("{}\n{ca_pem}", text.trim_end()))?;
    binds.push(Bind::read_only(&ca).at(Path::new(TRUST).join("ca.pem")));
    binds.push(Bind::read_only(&bundle).at(Path::new(TRUST).join("ca-bundle.pem")));
    for place in BUNDLES {
        // Through links the bundle would be mounted elsewhere than where programs look.
        if let Ok(real) = Path::new(place).canonicalize()
            && real == Path::new(place)
        {
            binds.push(Bind::read_only(&bundle).at(*place));
        }
    }
    let brought: Vec<PathBuf> = binds.iter().flat_map(brought_along).collect();
    binds.extend(brought.into_iter().map(|place| Bind::read_only(&bundle).at(place).optional()));
    let stores = key_stores(user_home);
    if !stores.is_empty() {
        let store = state.join("cacerts");
        fs::write(&store, key_store(&begun(host, &text), ca_pem))?;
        binds.extend(stores.into_iter().map(|place| Bind::read_only(&store).at(place).optional()));
    }
    Ok(())
}

/// As [`show`], for a bottle that an image is made into: the bundle lies where most images have theirs.
///
/// # Errors
/// Those of writing.
pub fn show_in_image(state: &Path, ca_pem: &str, binds: &mut Vec<Bind>) -> io::Result<()> {
    let mut all = Vec::new();
    show(state, ca_pem, None, &mut all)?;
    all.retain(|bind| bind.target.starts_with(TRUST));
    binds.append(&mut all);
    binds.push(Bind::read_only(state.join("ca-bundle.pem")).at(BUNDLES[0]));
    Ok(())
}

/// Gets the bundles that Pythons bring along in a directory that is shown, by where the bottle has them.
fn brought_along(bind: &Bind) -> Vec<PathBuf> {
    let Some(real) = (!bind.rw && !bind.device).then(|| bind.source.canonicalize().ok()).flatten() else {
        return Vec::new();
    };
    // The system's own programs look where the system has its bundle; what was added to them does not.
    let real = if real == Path::new("/usr") { real.join("local") } else { real };
    let many = OF_MANY.iter().filter(|(dir, _)| real.ends_with(dir)).flat_map(|(_, among)| among.iter());
    let pythons = PYTHONS.iter().chain(many).flat_map(|python| directories(&real, python));
    // Of an installation on the PATH the `lib` is shown by itself.
    let libs = pythons.map(|python| if python.ends_with("lib") { python } else { python.join("lib") });
    let libs = libs.filter(|lib| lib.is_dir());
    let packages = libs.flat_map(|lib| PACKAGES.iter().flat_map(move |packages| directories(&lib, packages)));
    let bundles = packages.map(|packages| packages.join(CERTIFI));
    // Through links it would be mounted elsewhere than where programs look.
    let plain = bundles.filter(|bundle| bundle.canonicalize().is_ok_and(|file| file == *bundle));
    plain
        .filter_map(|bundle| Some(bind.target.join(bundle.strip_prefix(bind.source.canonicalize().ok()?).ok()?)))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Gets the directories below `at` that a pattern names.
fn directories(at: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![at.to_owned()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let below = |dir: PathBuf| -> Vec<PathBuf> {
            let Some(start) = part.strip_suffix('*') else { return vec![dir.join(part)] };
            // A `lib` has thousands of files beside what is looked for.
            let is_one = |entry: &fs::DirEntry| {
                entry.file_name().as_encoded_bytes().starts_with(start.as_bytes())
                    && entry.file_type().is_ok_and(|kind| kind.is_dir())
            };
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter(is_one).take(MOST).map(|entry| entry.path()).collect()
        };
        found = found.into_iter().flat_map(below).filter(|dir| dir.is_dir()).collect();
    }
    found
}

/// Gets the key stores of the host's Javas; each once, links resolved.
fn key_stores(user_home: Option<&Path>) -> BTreeSet<PathBuf> {
    let mut places: Vec<PathBuf> = KEY_STORES.iter().map(PathBuf::from).collect();
    for dir in JAVAS {
        let dir = match (dir.strip_prefix("~/"), user_home) {
            (None, _) => PathBuf::from(dir),
            (Some(rest), Some(home)) => home.join(rest),
            (Some(_), None) => continue,
        };
        let javas = fs::read_dir(dir).into_iter().flatten().flatten();
        places.extend(javas.map(|java| java.path().join("lib/security/cacerts")));
    }
    places.into_iter().filter_map(|place| place.canonicalize().ok()).collect()
}

/// The beginning of a key store: the host's authorities, with the digest so far.
struct Begun {
    bytes: Vec<u8>,
    digest: Context,
}

/// By what a change of the bundle is known: when, and its length.
type Version = (Option<SystemTime>, usize);

/// Gets the beginning of a key store with the host's authorities, and room for one more. Kept until the bundle changes: it
/// has some 140 certificates.
fn begun(bundle: Option<&Path>, text: &str) -> Arc<Begun> {
    static LAST: Mutex<Option<(Version, Arc<Begun>)>> = Mutex::new(None);
    let version = (bundle.and_then(|b| fs::metadata(b).and_then(|m| m.modified()).ok()), text.len());
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((known, begun)) if *known == version => Arc::clone(begun),
        _ => {
            let begun = Arc::new(begin(text));
            *last = Some((version, Arc::clone(&begun)));
            begun
        }
    }
}

/// Begins a key store of type JKS (`sun.security.provider.JavaKeyStore` in OpenJDK: magic, version 2, number of entries,
/// entries, SHA-1 over password, a fixed phrase and all before it), which every Java since 1.2 reads. The password is the
/// usual one.
fn begin(host: &str) -> Begun {
    let (count, entries) = entries(host, "host");
    let mut bytes = Vec::with_capacity(entries.len() + 12);
    bytes.extend(0xfeed_feed_u32.to_be_bytes());
    bytes.extend(2u32.to_be_bytes());
    bytes.extend((count + 1).to_be_bytes());
    bytes.extend(entries);
    let mut digest = Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    let password: Vec<u8> = "changeit".encode_utf16().flat_map(u16::to_be_bytes).collect();
    digest.update(&password);
    digest.update(b"Mighty Aphrodite");
    digest.update(&bytes);
    Begun { bytes, digest }
}

/// Ends a key store with the bottle's authority.
fn key_store(begun: &Begun, ca_pem: &str) -> Vec<u8> {
    let (_, own) = entries(ca_pem, "bb");
    let mut digest = begun.digest.clone();
    digest.update(&own);
    [begun.bytes.as_slice(), &own, digest.finish().as_ref()].concat()
}

/// Makes the entries of the certificates in `pem`.
fn entries(pem: &str, alias: &str) -> (u32, Vec<u8>) {
    let (mut count, mut bytes) = (0, Vec::new());
    let utf = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u16).to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
        bytes.extend(2u32.to_be_bytes());
        utf(&mut bytes, &format!("{alias}{count}"));
        bytes.extend(0u64.to_be_bytes());
        utf(&mut bytes, "X.509");
        bytes.extend((certificate.len() as u32).to_be_bytes());
        bytes.extend(certificate.as_ref());
        count += 1;
    }
    (count, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_a_python_brings_along_is_found_where_the_bottle_has_it() {
        let base = std::env::temp_dir().join(format!("bb-trust-{}", std::process::id())).join("py");
        let bundles = ["lib/python3.11/site-packages/certifi", "versions/3.9/lib/python3.9/dist-packages/certifi"];
        for dir in bundles {
            fs::create_dir_all(base.join(dir)).unwrap();
            fs::write(base.join(dir).join("cacert.pem"), "").unwrap();
        }
        fs::create_dir_all(base.join("lib/python3.12/site-packages")).unwrap();
        std::os::unix::fs::symlink(base.join(bundles[0]), base.join("lib/python3.12/site-packages/certifi")).unwrap();
        let mut found = brought_along(&Bind::read_only(&base).at("/shown"));
        found.sort();
        assert_eq!(found, bundles.map(|dir| Path::new("/shown").join(dir).join("cacert.pem")));
        assert!(
            brought_along(&Bind { rw: true, ..Bind::read_only(&base) }).is_empty(),
            "what is the agent's own stays so"
        );
        fs::remove_dir_all(base.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_bundle_is_found_in_each_layout_that_installs_pythons() {
        let base = std::env::temp_dir().join(format!("bb-trust-layouts-{}", std::process::id()));
        let packages = "lib/python3.12/site-packages/certifi";
        // What is shown, and where a Python lies in it.
        for (at, (shown, python)) in [
            (".local/share/mise", "installs/python/3.12.1"),
            (".asdf", "installs/python/3.12.1"),
            (".asdf", "installs/python/miniforge3-24/envs/data"),
            (".pyenv", "versions/miniforge3-24/envs/data"),
            (".local/share/uv/python", "cpython-3.12.1-linux-x86_64-gnu"),
            (".local/share/uv/tools", "ruff"),
            (".local/share/pipx", "venvs/black"),
            ("miniforge3", ""),
            ("miniforge3", "envs/data"),
            ("miniforge3/envs/data", ""),
        ]
        .into_iter()
        .enumerate()
        {
            let home = base.join(at.to_string());
            let dir = home.join(shown).join(python).join(packages);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cacert.pem"), "").unwrap();
            // As many files beside it as Conda's have.
            for n in 0..200 {
                fs::write(dir.ancestors().nth(3).unwrap().join(format!("{n}.so")), "").unwrap();
            }
            assert_eq!(brought_along(&Bind::read_only(home.join(shown))), [dir.join("cacert.pem")], "{shown} {python}");
            // Where only its `lib` is shown.
            let lib = dir.ancestors().nth(3).unwrap();
            assert_eq!(brought_along(&Bind::read_only(lib)), [dir.join("cacert.pem")], "{shown} {python}: lib");
        }
        fs::remove_dir_all(base).unwrap();
        let among =
            |real: &Path| OF_MANY[0].1.iter().any(|p| directories(real, p).iter().any(|d| d.ends_with("b/envs/x")));
        let opt = std::env::temp_dir().join(format!("bb-trust-opt-{}", std::process::id()));
        fs::create_dir_all(opt.join("b/envs/x")).unwrap();
        assert!(among(&opt), "what `/opt` may have");
        fs::remove_dir_all(opt).unwrap();
    }

    #[test]
    fn a_key_store_has_the_host_and_the_bottle_in_it() {
        let ca = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap().cert;
        let store = key_store(&begin(&format!("# a comment\n{}{}", ca.pem(), ca.pem())), &ca.pem());
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 3]);
        let found = store.windows(ca.der().len()).filter(|w| *w == ca.der().as_ref()).count();
        assert_eq!(found, 3);
    }
}
