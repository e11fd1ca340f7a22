//! What the module promises, without an engine.

use super::*;

/// A directory of a test's own; removed when it is dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("bb-image-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Place(dir)
    }

    fn home(&self) -> Home {
        Home::open(&self.0.join("home/.bot-bottle"), None).unwrap()
    }

    fn put(&self, path: &str, text: &str) -> String {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_shipped_dockerfiles_install_what_is_tested() {
    let pins = include_str!("../../tests/agents/package.json");
    fn named(text: &str) -> (&str, &str) {
        let version = text.lines().find_map(|line| line.strip_prefix("ARG VERSION=")).unwrap();
        (text.split('"').nth(1).unwrap().strip_suffix("@${VERSION}").unwrap(), version)
    }
    for (name, text) in SHIPPED {
        let (package, version) = named(text);
        assert!(pins.contains(&format!("\"{package}\": \"{version}\"")), "{name}: {package} {version}");
        assert!(text.contains("\nARG BASE=node:22-bookworm-slim\nFROM ${BASE}\n"), "{name}");
        for wanted in ["id=apt,", "id=npmrc,", "git", "ripgrep", "ca-certificates"] {
            assert!(text.contains(wanted), "{name}: {wanted}");
        }
        // They have the same steps, so what a test shows of the one that it builds is so of all.
        let steps = |text: &str, package: &str, version: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
            lines.map(|line| line.replace(package, "PACKAGE").replace(version, "N")).collect::<Vec<_>>()
        };
        let (_, first) = SHIPPED[0];
        let (package_of_first, version_of_first) = named(first);
        assert_eq!(steps(text, package, version), steps(first, package_of_first, version_of_first), "{name}");
    }
}

#[test]
fn a_homes_own_dockerfile_stands_in_for_the_shipped_one_and_changes_the_tag() {
    let place = Place::new("own");
    let home = place.home();
    let shipped = of_provider("claude", &home).unwrap().unwrap();
    let (name, hex) = shipped.tag.split_once(':').unwrap();
    assert_eq!((name, hex.len()), ("bb/claude", 12));
    assert_eq!(of_provider("claude", &home).unwrap().unwrap().tag, shipped.tag, "nothing but the content decides");
    assert_ne!(of_provider("codex", &home).unwrap().unwrap().tag.split_once(':').unwrap().1, hex);
    assert!(of_provider("command", &home).unwrap().is_none());
    assert!(of_provider("../claude", &home).unwrap().is_none());
    place.put("home/.bot-bottle/images/claude.Dockerfile", "FROM debian:12\n");
    place.put("home/.bot-bottle/images/mine.Dockerfile", "FROM debian:12\n");
    let own = of_provider("claude", &home).unwrap().unwrap();
    assert_ne!(own.tag, shipped.tag);
    assert!(own.place.ends_with("images/claude.Dockerfile") && own.place.starts_with('/'));
    assert_eq!(names(&home), ["claude", "codex", "gemini", "mine", "pi"]);
    assert!(of_named_provider("cluade", &home).err().unwrap().hint.unwrap().contains("`claude`"));
    // What cannot be read is not passed over for the shipped one.
    std::fs::remove_file(home.root.join("images/claude.Dockerfile")).unwrap();
    std::fs::create_dir(home.root.join("images/claude.Dockerfile")).unwrap();
    assert_eq!(of_provider("claude", &home).err().unwrap().kind, Kind::Usage);
    std::fs::remove_dir(home.root.join("images/claude.Dockerfile")).unwrap();
    std::os::unix::fs::symlink("/nonexistent/Dockerfile", home.root.join("images/claude.Dockerfile")).unwrap();
    assert_eq!(of_provider("claude", &home).err().unwrap().kind, Kind::Usage);
}

#[test]
fn the_tag_of_a_named_dockerfile_follows_everything_beside_it() {
    let place = Place::new("named");
    let home = place.home();
    let path = place.put("ctx/Dockerfile", "FROM debian:12\nCOPY . /x\n");
    place.put("ctx/sub/file", "one");
    std::os::unix::fs::symlink("/etc/passwd", place.0.join("ctx/out")).unwrap();
    let desk = Desk { home: &home, user_home: Some(&place.0.join("home")), workspace: None };
    let tag = |desk: &Desk<'_>| of_file("claude", &path, desk).unwrap().tag;
    let first = tag(&desk);
    place.put("ctx/.git/HEAD", "x");
    assert_eq!(tag(&desk), first, ".git is left out");
    let recipe = of_file("claude", &path, &desk).unwrap();
    let packed = String::from_utf8_lossy(recipe.context.so_far()).into_owned();
    assert!(packed.contains("sub/file") && !packed.contains("root:x:0"), "a link stays a link");
    place.put("ctx/sub/file", "two");
    let second = tag(&desk);
    assert_ne!(second, first);
    // Another Dockerfile of the same directory is another image.
    let other = place.put("ctx/Other", "FROM debian:12\nCOPY . /x\n");
    assert_ne!(of_file("claude", &other, &desk).unwrap().tag, tag(&desk));
    let below = of_file("claude", "images/x.Dockerfile", &desk).err().unwrap();
    assert!(below.place.unwrap().contains(".bot-bottle/images/x.Dockerfile"), "it counts from the home");
}

/// The files and directories of a context, as `tar` lists them.
fn packed(recipe: &Recipe) -> Vec<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut list = Command::new("tar").arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    list.stdin.take().unwrap().write_all(&recipe.context.clone().finish()).unwrap();
    let said = String::from_utf8(list.wait_with_output().unwrap().stdout).unwrap();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn what_a_dockerignore_names_is_in_no_context() {
    let place = Place::new("ignore");
    let home = place.home();
    for (path, text) in [
        ("ctx/Dockerfile", "FROM x\nCOPY . /x\n"),
        ("ctx/Other", "FROM x\n"),
        ("ctx/.env", "SECRET=1\n"),
        ("ctx/sub/key.pem", "secret"),
        ("ctx/sub/deep/public.pem", "public"),
        ("ctx/sub/deep/a", "a"),
        ("ctx/target/x", "x"),
        ("ctx/.dockerignore", "# what nobody is to have\n.env\n**/*.pem\n!sub/deep/public.pem\ntarget\nDockerfile\n"),
    ] {
        place.put(path, text);
    }
    let path = |name: &str| place.0.join("ctx").join(name).display().to_string();
    let desk = Desk { home: &home, user_home: None, workspace: None };
    let of = |name: &str| of_file("claude", &path(name), &desk);
    let recipe = of("Dockerfile").unwrap();
    // A build has to have its Dockerfile, whatever is said.
    assert_eq!(packed(&recipe), ["Dockerfile", "Other", "sub/", "sub/deep/", "sub/deep/a", "sub/deep/public.pem"]);
    place.put("ctx/.env", "SECRET=2\n");
    assert_eq!(of("Dockerfile").unwrap().tag, recipe.tag, "what is left out decides nothing");
    // One of a Dockerfile's own goes before it; what lies on the way to an exception comes with it.
    place.put("ctx/Other.dockerignore", "*\n!sub/deep/a\n!.env\n");
    assert_eq!(packed(&of("Other").unwrap()), [".env", "Other", "sub/", "sub/deep/", "sub/deep/a"]);
    // What cannot be read keeps nothing out, so nothing is built.
    let refused = |name: &str, said: &str| {
        let error = of(name).err().unwrap();
        let place = error.place.clone().unwrap();
        assert_eq!(error.kind, Kind::Usage);
        assert!(
            place.ends_with("ctx/.dockerignore") && error.message.contains(said) && error.hint.is_some(),
            "{error}"
        );
    };
    place.put("ctx/.dockerignore", "a\n[b\n");
    refused("Dockerfile", "line 2");
    assert!(of("Other").is_ok(), "its own is another");
    std::fs::write(path(".dockerignore"), [0xff, 0xfe, b'a']).unwrap();
    refused("Dockerfile", "cannot be read");
    std::fs::remove_file(path(".dockerignore")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", path(".dockerignore")).unwrap();
    refused("Dockerfile", "cannot be read");
    // A context that is too large is not where what makes it so is left out.
    std::fs::remove_file(path(".dockerignore")).unwrap();
    std::fs::File::create(place.0.join("ctx/target/large")).unwrap().set_len(65 << 20).unwrap();
    assert_eq!(of("Dockerfile").err().unwrap().kind, Kind::Usage);
    place.put("ctx/.dockerignore", "target/\n");
    assert!(of("Dockerfile").is_ok());
}

#[test]
fn a_dockerfile_where_an_agent_writes_or_secrets_lie_is_refused() {
    let place = Place::new("places");
    let home = place.home();
    let user = place.0.join("home");
    let refused = |path: &str, workspace: Option<&Path>| {
        let desk = Desk { home: &home, user_home: Some(&user), workspace };
        let error = of_file("claude", path, &desk).err().unwrap_or_else(|| panic!("{path} is taken"));
        assert!(error.place.is_some() && error.hint.is_some(), "{error}");
        error.kind
    };
    for path in ["home/Dockerfile", "home/.bot-bottle/Dockerfile", "Dockerfile"] {
        let path = place.put(path, "FROM x\n");
        assert_eq!(refused(&path, None), Kind::WorkspaceUnsafe, "{path}");
    }
    let path = place.put("work/docker/Dockerfile", "FROM x\n");
    let work = place.0.join("work");
    assert_eq!(refused(&path, Some(&work)), Kind::WorkspaceUnsafe);
    assert_eq!(refused(&path, Some(&work.join("docker/sub"))), Kind::WorkspaceUnsafe);
    std::os::unix::fs::symlink(&work, place.0.join("link")).unwrap();
    assert_eq!(
        refused(&place.0.join("link/docker/Dockerfile").display().to_string(), Some(&work)),
        Kind::WorkspaceUnsafe
    );
    let desk = Desk { home: &home, user_home: Some(&user), workspace: Some(&place.0.join("elsewhere")) };
    assert!(of_file("claude", &path, &desk).is_ok(), "the allowed twin");
    // Sparse: nobody reads that much.
    let large = std::fs::File::create(work.join("docker/large")).unwrap();
    large.set_len(65 << 20).unwrap();
    assert_eq!(refused(&path, None), Kind::Usage);
    assert_eq!(refused("/nonexistent/Dockerfile", None), Kind::Usage);
    assert_eq!(refused(&place.0.display().to_string(), None), Kind::Usage);
}

#[test]
fn build_arguments_are_in_the_name_of_what_is_made_with_them() {
    let place = Place::new("args");
    let home = place.home();
    let with = |args: &[(&str, &str)]| {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Wanted::Made(of_provider("claude", &home).unwrap().unwrap()).with_args(args)
    };
    let plain = of_provider("claude", &home).unwrap().unwrap().tag;
    let names: Vec<String> = [&[][..], &[("A", "1")], &[("A", "2")], &[("A", "1"), ("B", "1")]]
        .map(|args| with(args).unwrap().name().to_owned())
        .into();
    assert_eq!(names[0], plain);
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len(), "{names:?}");
    assert_eq!(with(&[("B", "1"), ("A", "1")]).unwrap().name(), names[3]);
    assert_eq!(with(&[("a b", "1")]).unwrap_err().kind, Kind::Usage);
    let named = Wanted::Named("debian:12".to_owned()).with_args([("A".to_owned(), "1".to_owned())].into());
    assert_eq!(named.unwrap().name(), "debian:12");
}

#[test]
fn one_of_the_two_keys_is_said() {
    assert_eq!(Said::of(None, None).unwrap(), None);
    assert_eq!(Said::of(Some("x"), None).unwrap(), Some(Said::Image("x".to_owned())));
    assert_eq!(Said::of(None, Some("x")).unwrap(), Some(Said::Dockerfile("x".to_owned())));
    assert_eq!(Said::of(Some("x"), Some("y")).unwrap_err().kind, Kind::Usage);
}

#[test]
fn what_a_build_says_is_made_fit_for_a_terminal() {
    assert_eq!(clean("a\x1b[2J\tb\u{202e}\r\n", 100), "a\\u{1b}[2J b\\u{202e}");
    assert_eq!(clean("abcdef", 3), "abc…");
}
