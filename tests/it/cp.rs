//! Files copied into a bottle and out of it, and what is said of a bottle.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use crate::workspace::{launch, read, work, worlds};

const LONG: Duration = Duration::from_secs(40);

#[test]
fn files_are_copied_in_and_out_and_links_that_an_agent_plants_lead_nowhere() {
    // Links to a directory and a file of the host, in place of what is copied, beside it and on the way to it.
    let script = "mkdir -p d/sub && echo one > d/a && echo two > d/sub/b && ln -s /etc/passwd d/link && mkfifo d/fifo && \
        ln -s SECRETS out && ln -s SECRETS/key file && ln -s d dir && touch /tmp/ready && sleep 600";
    for world in worlds() {
        let secret = world.write("secrets/key", "secret\n");
        let secrets = secret.parent().unwrap().display().to_string();
        work(&world, &[("a", "1\n")]);
        let slug = launch(&world, "copies", "overlay", &script.replace("SECRETS", &secrets));
        assert!(world.until(LONG, || world.bb(&["exec", &slug, "test", "-e", "/tmp/ready"]).code == 0));
        let at = |path: &str| format!("{slug}:{path}");
        let host = world.make_dir("host");
        let to = |path: &str| host.join(path).display().to_string();

        // Out of it: a file under a name, a file into a directory, a directory; what is no file is left out and named.
        world.bb(&["cp", &at("d/a"), &to("name")]).expect(0);
        world.bb(&["cp", &at("/home/agent/../../tmp/ready"), &to("")]).expect(0);
        let output = world.bb(&["cp", &at("d"), &to("")]).expect(1);
        assert!(output.stderr.contains("left out: d/link: a link"), "{output}");
        assert!(output.stderr.contains("left out: d/fifo: neither"), "{output}");
        assert_eq!((read(host.join("name")), read(host.join("d/sub/b"))), ("one\n".into(), "two\n".into()));
        assert!(host.join("ready").exists() && fs::symlink_metadata(host.join("d/link")).is_err());
        assert_eq!(fs::metadata(host.join("name")).unwrap().uid(), world.uid());
        // Through a link that leads inside, as the agent would; one that leads to the host's file leads nowhere.
        world.bb(&["cp", &at("dir/a"), &to("through")]).expect(0);
        world.bb(&["cp", &at("file"), &to("stolen")]).fails(2, "usage", "file", "links");
        world.bb(&["cp", &at("out/key"), &to("stolen")]).fails(2, "usage", "out/key", "links");
        assert!(!host.join("stolen").exists());

        // Into it: over a link the file takes its place; into a link of a directory of the host nothing comes.
        let source = world.write("host/source", "from the host\n").display().to_string();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o4755)).unwrap();
        world.bb(&["cp", &source, &at("file")]).expect(0);
        world.bb(&["cp", &source, &at("d")]).expect(0);
        let said = world
            .bb(&["exec", &slug, "--", "sh", "-c", "cat file && stat -c %a:%U file d/source && echo x >> file"])
            .expect(0);
        assert_eq!(said.stdout, "from the host\n755:agent\n755:agent\n");
        assert_eq!(world.bb(&["cp", &source, &at("out/new")]).code, 2);
        world.bb(&["cp", &to("d"), &at("/tmp")]).expect(0);
        assert_eq!(world.bb(&["exec", &slug, "cat", "/tmp/d/sub/b"]).expect(0).stdout, "two\n");
        assert_eq!(fs::read_dir(&secrets).unwrap().count(), 1);
        assert_eq!(read(secret), "secret\n");
        // What a bottle only shows cannot be written, and a link of the host is not followed either.
        world.bb(&["cp", &source, &at("/usr/bin/planted")]).fails(2, "usage", "/usr/bin/planted", "links");
        std::os::unix::fs::symlink(&secrets, host.join("linked")).unwrap();
        world.bb(&["cp", &to("linked"), &at("/tmp/taken")]).fails(2, "usage", "linked", "links");
        world.bb(&["cp", "a", "b"]).fails(2, "usage", "neither path", "SLUG:PATH");
        world.bb(&["kill", &slug]).expect(0);
        assert_eq!(world.bb(&["cp", &at("d/a"), &to("late")]).code, 2);
    }
}

#[test]
fn inspecting_a_bottle_names_its_credentials_and_never_shows_them() {
    const VALUE: &str = "s3cr3t-value-of-the-host";
    for world in worlds() {
        let recipe = world.recipe(
            "secret.lua",
            "--- @bb needs launch, egress:a.example, credential:SECRET_KEY\n\
             print(bb.launch{ command = {'sleep', '600'}, label = 'secret', detach = true, budget = '5k',\n\
               routes = {{ host = 'a.example', auth = { scheme = 'Bearer', credential = 'SECRET_KEY' } }} }.slug)\n",
        );
        world.command(&["run", "--grant", "all", &recipe]).env("SECRET_KEY", VALUE).run().expect(0);
        for args in [&["inspect", "secret", "--json"][..], &["inspect", "secret"]] {
            let said = world.bb(args).expect(0).stdout;
            assert!(said.contains("SECRET_KEY") && said.contains("a.example") && said.contains("\"bottle:"), "{said}");
            assert!(!said.contains(VALUE), "{said}");
        }
        world.bb(&["inspect", "nobody"]).fails(2, "no_such_bottle", "nobody", "bb ps");
        world.bb(&["kill", "secret"]).expect(0);
        // One that is over is still known.
        assert!(world.bb(&["inspect", "secret"]).expect(0).stdout.contains("\"killed\""));
    }
}
