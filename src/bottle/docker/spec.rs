//! From a plan to what an engine is asked for: the two containers of a bottle, as JSON.
//!
//! Pure. What is decided in the plan is only said in the engine's words here; what every bottle lacks is said here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::engine::Engine;
use super::{EMPTY_IMAGE, Shown, layer};
use crate::bottle::linux::gate;
use crate::bottle::plan::{Image, Plan};

/// Where the static build of bb is shown in a container.
pub const OWN: &str = "/run/bb/bin/bb";

/// Most processes of one bottle.
const PROCESSES: u32 = 4096;

/// Labels of a bottle's containers, `name=value`.
pub fn labels(slug: &str, image: &Image) -> Vec<String> {
    vec![format!("bb.home={}", image.home.display()), format!("bb.slug={slug}")]
}

/// Labels of what has a role in a bottle.
pub fn label_table(slug: &str, image: &Image, role: &str) -> Value {
    json!({"bb.home": image.home.display().to_string(), "bb.slug": slug, "bb.role": role})
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Value {
    // Read-only is meant of the mount itself: what is mounted below would stay writable, and so is not shown.
    json!({
        "Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": read_only},
    })
}

/// Gets the directories between the home and what of the host is shown deeper in it. An engine would make them as root's,
/// so each is a place in memory like the home.
fn between(plan: &Plan) -> BTreeSet<&Path> {
    let targets = || plan.binds.iter().map(|bind| bind.target.as_path());
    let covered = |dir: &Path| targets().any(|target| dir.starts_with(target)) || dir.starts_with(&plan.workspace);
    targets()
        .flat_map(|target| target.ancestors().skip(1))
        .filter(|dir| *dir != plan.home && dir.starts_with(&plan.home) && !covered(dir))
        .collect()
}

/// Podman gives its containers limits that it may not be allowed to raise to; these are small enough for any service.
fn limits() -> Value {
    use nix::sys::resource::{Resource, getrlimit};
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard.min(16_384));
    json!([
        {"Name": "nofile", "Soft": files.min(1024), "Hard": files},
        {"Name": "nproc", "Soft": PROCESSES, "Hard": PROCESSES},
    ])
}

/// The agent's container: no network, no capability, no way to new privileges, one user, a root that cannot be written.
/// `volume` is the name of the layer's volume.
pub fn agent(engine: &Engine, plan: &Plan, image: &Image, shown: &[Shown], volume: &str) -> Value {
    let user = format!("{}:{}", plan.host_uid, plan.host_gid);
    // Podman adds the user's own options; Docker takes exactly these.
    // With a bound for all together each has its part: one file system at several places is what engines cannot make.
    let part = |of: u64, usual: u64| if plan.one_scratch { plan.scratch_bytes / of } else { usual };
    let scratch = |mode: &str, of: u64| {
        let owner = if engine.podman { String::new() } else { format!(",uid={},gid={}", plan.host_uid, plan.host_gid) };
        format!("rw,exec,nosuid,nodev,size={},mode={mode}{owner}", part(of, plan.scratch_bytes))
    };
    let home_mode = if engine.podman { "1777" } else { "755" };
    let mut mounts = vec![bind(&image.helper, Path::new(OWN), true)];
    for bind_of in &plan.binds {
        mounts.push(bind(&bind_of.source, &bind_of.target, !bind_of.rw));
    }
    for Shown { source, target } in shown {
        mounts.push(bind(source, target, true));
    }
    for guard in &plan.guards {
        let path = plan.workspace.join(&guard.path);
        mounts.push(bind(&path, &path, guard.read_only));
    }
    let mut host = json!({
        "NetworkMode": "none",
        "AutoRemove": true,
        "RestartPolicy": {"Name": "no"},
        "Privileged": false,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": true,
        "IpcMode": "private",
        "ShmSize": part(32, 256 << 20),
        "LogConfig": {"Type": "none"},
        "Tmpfs": {
            "/tmp": scratch("1777", 4),
            "/var/tmp": scratch("1777", 8),
            "/run": format!("rw,noexec,nosuid,nodev,size={},mode=755", part(16, 64 << 20)),
            plan.home.display().to_string(): scratch(home_mode, 2),
        },
        "Mounts": mounts,
        // The listeners stand on ports below 1024 in this namespace, and are made without a privilege.
        "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
    });
    let between = between(plan);
    for dir in &between {
        host["Tmpfs"][dir.display().to_string()] = json!(scratch(home_mode, 32 * between.len() as u64));
    }
    layer::show(engine, plan, image, volume, &mut host);
    if gate::has_ipv6() {
        // Engines switch it off where they give no network.
        for name in ["all", "default", "lo"] {
            host["Sysctls"][format!("net.ipv6.conf.{name}.disable_ipv6")] = json!("0");
        }
    }
    if engine.podman {
        host["Ulimits"] = limits();
    }
    if engine.rootless {
        // The agent is the user outside, and root inside is one of the user's own spare numbers.
        host["UsernsMode"] = json!("keep-id");
    } else {
        host["PidsLimit"] = json!(image.pids.map_or(PROCESSES, |n| PROCESSES.min(n)));
    }
    if let Some(memory) = image.memory {
        // Without swap: else it would have as much again.
        host["Memory"] = json!(memory);
        host["MemorySwap"] = json!(memory);
    }
    if let Some(thousandths) = image.cpus {
        host["NanoCpus"] = json!(u64::from(thousandths) * 1_000_000);
    }
    if let (Some(pids), true) = (image.pids, engine.rootless) {
        host["PidsLimit"] = json!(pids);
    }
    json!({
        "Image": image.name,
        "Entrypoint": [OWN],
        "Cmd": ["__inside", "init"],
        "User": user,
        "Hostname": plan.slug,
        "WorkingDir": "/",
        // Pid 1 heeds no other, and an engine that removes it would wait ten seconds.
        "StopSignal": "SIGKILL",
        "Healthcheck": {"Test": ["NONE"]},
        "Tty": false,
        "OpenStdin": true, "StdinOnce": true,
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        "Labels": label_table(&plan.slug, image, "agent"),
        "HostConfig": host,
    })
}

/// Gets the limits of a bottle that are not enforced: those of which an engine's warnings say so, and of one that says nothing all
/// but the disk's.
pub fn lacking(engine: &Engine, image: &Image, warnings: &[String]) -> Vec<String> {
    let limits = [
        ("memory", image.memory.is_some(), &["memory", "swap"][..]),
        ("cpus", image.cpus.is_some(), &["cpu", "cfs"]),
        ("pids", image.pids.is_some(), &["pids"]),
    ];
    let mut lacking = Vec::new();
    for (limit, _, words) in limits.iter().filter(|(_, wanted, _)| *wanted) {
        if engine.boundless {
            lacking.push(format!("{limit}: an engine without root bounds nothing by control groups of version 1"));
            continue;
        }
        let of_all = |text: &str| text.contains("resource limits");
        let about = |text: &&String| {
            let text = text.to_lowercase();
            of_all(&text) || words.iter().any(|word| text.contains(word))
        };
        lacking.extend(warnings.iter().find(about).map(|text| {
            let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
            format!("{limit}: the engine says: {text}")
        }));
    }
    lacking
}

/// The helper's container: the network of the agent's, and of the host only the keeper's socket and bb itself.
pub fn helper(engine: &Engine, plan: &Plan, image: &Image, agent: &str, socket_dir: &Path) -> Value {
    let mut command: Vec<String> = vec!["__helper".to_owned()];
    command.extend(plan.ports.iter().map(ToString::to_string));
    let own = PathBuf::from("/bb");
    let mut host = json!({
        "NetworkMode": format!("container:{agent}"),
        "AutoRemove": true,
        "RestartPolicy": {"Name": "no"},
        "Privileged": false,
        "CapDrop": ["ALL"],
        // For the route, the packet socket, and to become nobody with nothing left when both are there.
        "CapAdd": ["NET_ADMIN", "NET_RAW", "SETUID", "SETGID", "SETPCAP"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": true,
        "IpcMode": "private",
        "LogConfig": {"Type": "none"},
        "Mounts": [bind(&image.helper, &own, true), bind(socket_dir, Path::new("/keeper"), true)],
    });
    if engine.podman {
        host["Ulimits"] = limits();
    }
    if engine.rootless {
        // Capabilities over the agent's network are had in its user namespace only.
        host["UsernsMode"] = json!(format!("container:{agent}"));
    } else {
        host["PidsLimit"] = json!(16);
    }
    json!({
        "Image": EMPTY_IMAGE,
        "Entrypoint": [own],
        "Cmd": command,
        "User": "0:0",
        "WorkingDir": "/",
        "StopSignal": "SIGKILL",
        "Tty": false,
        "Labels": label_table(&plan.slug, image, "helper"),
        "HostConfig": host,
    })
}

/// Gets labels as a table, for what has a role.
pub fn labelled(labels: &[String], role: &str) -> Value {
    let pairs = labels.iter().filter_map(|label| label.split_once('=')).chain([("bb.role", role)]);
    pairs.map(|(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

/// What removes of a layer what belongs to root of a rootless engine's user namespace, whom this user is not.
pub fn cleaner(labels: &[String], helper: &Path, layer: &Path) -> Value {
    let own = PathBuf::from("/bb");
    // The kernel's own directory in the layer's one for its work.
    let left = Path::new("/layer").join("work").join("work");
    json!({
        "Image": EMPTY_IMAGE,
        "Entrypoint": [own],
        "Cmd": ["__inside", "clear", left],
        "User": "0:0",
        "WorkingDir": "/",
        "Labels": labelled(labels, "cleaner"),
        "HostConfig": {
            "NetworkMode": "none",
            "RestartPolicy": {"Name": "no"},
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": true,
            "LogConfig": {"Type": "none"},
            "UsernsMode": "keep-id",
            "Ulimits": limits(),
            "Mounts": [bind(helper, &own, true), bind(layer, Path::new("/layer"), false)],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottle::docker::engine::tests::engine;
    use crate::bottle::docker::tests::plan;
    use crate::bottle::plan::Bind;

    #[test]
    fn an_agent_gets_nothing_that_is_not_said() {
        let plan = plan();
        let image = plan.image.clone().unwrap();
        let spec = agent(&engine(false), &plan, &image, &[], "v");
        let host = &spec["HostConfig"];
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["CapDrop"], json!(["ALL"]));
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
        assert_eq!(host["ReadonlyRootfs"], true);
        assert!(host.get("CapAdd").is_none() && host.get("UsernsMode").is_none());
        assert_eq!(spec["User"], "1001:1001");
        let rows = host["Mounts"].as_array().unwrap();
        let row = |target: &str| rows.iter().find(|m| m["Target"] == target).unwrap();
        assert_eq!((&row("/w")["ReadOnly"], &row("/w/.git/hooks")["ReadOnly"]), (&json!(false), &json!(true)));
        assert_eq!(row("/w/.git")["ReadOnly"], false);
        assert!(!rows.iter().any(|m| m["Target"] == "/keeper"), "nothing is shared with the helper");
    }

    #[test]
    fn an_engine_that_drops_a_limit_says_so_and_what_is_written_in_memory_is_bound_together() {
        let mut plan = plan();
        let dropped = ["Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.".to_owned()];
        let mut image = plan.image.clone().unwrap();
        let docker = engine(false);
        assert!(lacking(&docker, &image, &dropped).is_empty(), "none is wanted");
        image.memory = Some(1 << 30);
        assert!(lacking(&docker, &image, &dropped)[0].starts_with("memory: the engine says: Your kernel"));
        assert!(lacking(&docker, &Image { memory: None, pids: Some(9), ..image.clone() }, &dropped).is_empty());
        let all = ["Resource limits are not supported and ignored on cgroups V1 rootless systems".to_owned()];
        assert_eq!(lacking(&docker, &Image { cpus: Some(500), ..image.clone() }, &all).len(), 2);
        let mut silent = engine(true);
        silent.boundless = true;
        let said = lacking(&silent, &Image { pids: Some(9), ..image.clone() }, &[]);
        assert!(said.len() == 2 && said[0].starts_with("memory: ") && said[1].starts_with("pids: "), "{said:?}");
        plan.one_scratch = true;
        plan.scratch_bytes = 64 << 20;
        let host = agent(&engine(false), &plan, &image, &[], "v")["HostConfig"].clone();
        let sizes = host["Tmpfs"].as_object().unwrap().values().map(|options| {
            let size = options.as_str().unwrap().split(',').find_map(|o| o.strip_prefix("size=")).unwrap();
            size.parse::<u64>().unwrap()
        });
        let sum = sizes.sum::<u64>() + host["ShmSize"].as_u64().unwrap();
        assert!((60 << 20..=64 << 20).contains(&sum), "{sum}");
    }

    #[test]
    fn a_rootless_engine_maps_the_agent_to_the_user() {
        let plan = plan();
        let image = plan.image.clone().unwrap();
        assert_eq!(agent(&engine(true), &plan, &image, &[], "v")["HostConfig"]["UsernsMode"], "keep-id");
        let helper = helper(&engine(true), &plan, &image, "abc", Path::new("/k"));
        assert_eq!(helper["HostConfig"]["UsernsMode"], "container:abc");
        assert_eq!(helper["HostConfig"]["NetworkMode"], "container:abc");
    }

    #[test]
    fn what_lies_between_the_home_and_a_sessions_place_is_the_agents() {
        let mut plan = plan();
        let place = |target: &str| Bind { rw: true, ..Bind::read_only("/s/keep/0").at(target) };
        plan.binds.extend([place("/home/agent/.cli/sessions/a"), place("/home/agent/.cli/sessions/a/b/c")]);
        let image = plan.image.clone().unwrap();
        let spec = agent(&engine(false), &plan, &image, &[], "v");
        let memory = spec["HostConfig"]["Tmpfs"].as_object().unwrap();
        let below: Vec<&String> = memory.keys().filter(|path| path.starts_with("/home/agent/")).collect();
        assert_eq!(below, ["/home/agent/.cli", "/home/agent/.cli/sessions"]);
        assert!(memory["/home/agent/.cli"].as_str().unwrap().contains("uid=1001"));
    }
}
