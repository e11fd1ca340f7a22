//! Files that are copied in and out: whose they are, and that links which an agent plants lead nowhere.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::support::desk::Desk;

pub fn are_copied_and_links_lead_nowhere(desk: &Desk<'_>) {
    let secret = desk.own("secret", Some("secret\n")).display().to_string();
    let script = format!(
        "mkdir -p d/sub && echo one > d/a && echo two > d/sub/b && ln -s /etc/hostname d/link && ln -s {secret} file && \
         ln -s d dir && echo ready >/tmp/ready"
    );
    desk.bb(&["exec", "box", "--", "sh", "-c", &script]).expect(0);
    let host = desk.own("host", None);
    let to = |path: &str| host.join(path).display().to_string();
    desk.bb(&["cp", "box:d/a", &to("name")]).expect(0);
    desk.bb(&["cp", "box:/tmp/ready", &to("")]).expect(0);
    desk.bb(&["cp", "box:dir/a", &to("through")]).expect(0);
    let output = desk.bb(&["cp", "box:d", &to("")]).expect(1);
    assert!(output.stderr.contains("left out: d/link: a link"), "{output}");
    for (name, text) in [("name", "one\n"), ("through", "one\n"), ("ready", "ready\n"), ("d/sub/b", "two\n")] {
        assert_eq!(fs::read_to_string(host.join(name)).unwrap(), text);
    }
    assert_eq!(fs::metadata(host.join("name")).unwrap().uid(), desk.uid);
    desk.bb(&["cp", "box:file", &to("stolen")]).fails(2, "usage", "file", "links");
    assert!(!host.join("stolen").exists());

    let source = desk.own("source", Some("from the host\n"));
    fs::set_permissions(&source, fs::Permissions::from_mode(0o4755)).unwrap();
    let source = source.display().to_string();
    desk.bb(&["cp", &source, "box:file"]).expect(0);
    desk.bb(&["cp", &to("d"), "box:/tmp"]).expect(0);
    let script = "cat file /tmp/d/sub/b && stat -c %a:%u file && id -u && echo x >>file";
    let said = desk.bb(&["exec", "box", "--", "sh", "-c", script]).expect(0).stdout;
    let uid = said.lines().last().unwrap_or_default();
    assert_eq!(said, format!("from the host\ntwo\n755:{uid}\n{uid}\n"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret\n");
    desk.bb(&["cp", &source, "box:/bin/planted"]).fails(2, "usage", "/bin/planted", "links");
    symlink(&secret, host.join("linked")).unwrap();
    desk.bb(&["cp", &to("linked"), "box:/tmp/taken"]).fails(2, "usage", "linked", "links");
}
