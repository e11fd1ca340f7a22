//! Programs that live in the user's home work in a bottle; what lies beside them is not there.

use crate::support::World;

#[test]
fn a_toolchain_in_the_home_works_read_only_and_without_its_credentials() {
    for world in World::each() {
        let hello = world.write(".cargo/bin/hello", "#!/bin/sh\necho hello from $0\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&hello, mode).unwrap();
        world.write(".cargo/credentials.toml", "token = \"s3cr3t\"");
        world.write(".netrc", "password s3cr3t");
        let (bin, home) = (hello.parent().unwrap().display().to_string(), world.home().display().to_string());
        let script = format!(
            "hello; echo x > {bin}/hello && echo WRITTEN; cat {home}/.cargo/credentials.toml {home}/.netrc; \
             grep -rs s3cr3t {home} ~; touch ~/mine && echo own home"
        );
        let recipe = world.recipe(
            "tool.lua",
            "--- @bb needs launch\nlocal b = bb.launch { command = { 'sh', '-c', bb.args[1] }, budget = 'unlimited' }\n\
             b:wait { check = false }\nfor frame in b:logs() do print(frame.text) end\n",
        );
        let run = world.command(&["run", "--grant", "all", &recipe, "--", &script]);
        let output = run.env("PATH", format!("{bin}:/usr/bin:/bin")).run().expect(0);
        let said = &output.stdout;
        assert!(said.contains(&format!("hello from {bin}/hello")) && said.contains("own home"), "{output}");
        assert!(said.contains("Read-only file system"), "{output}");
        assert_eq!(said.matches("No such file").count(), 2, "{output}");
        assert!(!said.contains("s3cr3t\"") && !said.contains("WRITTEN"), "{output}");
        assert_eq!(std::fs::read_to_string(&hello).unwrap(), "#!/bin/sh\necho hello from $0\n");
    }
}
