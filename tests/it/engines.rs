//! Container engines that do not run on this system as a bottle needs it: each is refused with its kind and the reason, before
//! anything is made by it. None of them runs on the machine of the tests, so each is played, as far as what it says of itself.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::World;
use crate::support::engine::helper;

/// What an engine says that could make bottles.
fn version() -> Value {
    json!({"ApiVersion": "1.41", "Version": "27.1", "Components": [{"Name": "Engine"}]})
}

/// Answers one request, and tells its first line.
fn answer(stream: UnixStream, info: &Value, told: impl FnOnce(String)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match path {
        "/version" => ("200 OK", version()),
        path if path.ends_with("/info") => ("200 OK", info.clone()),
        _ => ("500 Internal Server Error", json!({"message": "this one only says what it is"})),
    };
    let body = body.to_string();
    told(first.trim().to_owned());
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    reader.get_mut().write_all(format!("{head}{body}").as_bytes())
}

/// Plays an engine of which `info` holds, as long as the test runs; gets its address, and what it is asked.
fn played(world: &World, name: &str, info: Value) -> (String, Arc<Mutex<Vec<String>>>) {
    let path = world.dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Noted before it is answered: who has the answer may look.
            let _ = answer(stream, &info, |first| heard.lock().unwrap().push(first));
        }
    });
    (format!("unix://{}", path.display()), asked)
}

#[test]
fn an_engine_that_cannot_hand_over_sockets_or_files_is_refused_with_the_reason() {
    let Some(helper) = helper() else { return };
    for world in World::each() {
        let recipe = world.recipe(
            "engine.lua",
            "--- @bb needs launch\nbb.launch{command = {'true'}, backend = 'docker', image = 'x'}:wait()\n",
        );
        let launch = |address: &str| {
            let command = world.command(&["run", "--grant", "all", &recipe]).env("DOCKER_HOST", address);
            command.env("BB_HELPER", helper.display().to_string()).run()
        };
        let seccomp = "name=seccomp,profile=builtin";
        for (name, info, reason, hint) in [
            (
                "desktop",
                json!({"OperatingSystem": "Docker Desktop", "SecurityOptions": [seccomp]}),
                "Docker Desktop runs its containers in a virtual machine, where sockets cannot be handed over",
                "use backend `linux`, or an engine that runs on this system itself",
            ),
            (
                "rootless",
                json!({"OperatingSystem": "Debian", "SecurityOptions": [seccomp, "name=rootless"]}),
                "rootless Docker cannot show a user's own files as the agent's",
                "use rootless Podman, or backend `linux`",
            ),
            (
                "remapped",
                json!({"OperatingSystem": "Debian", "SecurityOptions": [seccomp, "name=userns"]}),
                "Docker with `userns-remap` cannot show a user's own files as the agent's",
                "use rootless Podman, or backend `linux`",
            ),
        ] {
            let (address, asked) = played(&world, name, info);
            let output = launch(&address);
            output.fails(5, "backend_unavailable", &format!("{}/{name}", world.dir().display()), hint);
            assert!(output.stderr.contains(reason), "{output}");
            let asked = asked.lock().unwrap();
            assert!(
                asked.len() >= 2 && asked.iter().all(|line| line.starts_with("GET /")),
                "nothing is made: {asked:?}"
            );
        }
        // One of this system gets as far as being asked for the image.
        let (address, asked) =
            played(&world, "plain", json!({"OperatingSystem": "Debian", "SecurityOptions": [seccomp]}));
        launch(&address).fails(5, "backend_unavailable", "plain", "bb doctor");
        assert!(
            asked.lock().unwrap().iter().any(|line| line.contains("/images/x/json")),
            "{:?}",
            asked.lock().unwrap()
        );
        assert!(world.bb(&["ps", "--json"]).expect(0).stdout.is_empty());
        world.assert_silent(&[]);
    }
}
