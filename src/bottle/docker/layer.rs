//! The layer over a workspace, as each engine can show it, and what of it is cleared away.
//!
//! Docker makes a volume that goes with the container. Podman is given a volume by name; without root it has a word of its
//! own for layers, which its runtime mounts inside the user namespace. Marks are attributes of users on each, as on the
//! embedded backend: an agent cannot set them, and whoever reads the layer needs no privilege. Must not look at what an
//! agent wrote.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::engine::Engine;
use super::http::encoded;
use super::spec;
use crate::bottle::plan::{Image, Overlay, Plan};
use crate::error::Result;

/// Longest that the paths of a layer may be together: mount(2) takes one page.
const MOST: usize = 3500;

/// The layer of a bottle, for whoever clears up after a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Its directory.
    dir: PathBuf,
    /// The static build of bb.
    helper: PathBuf,
}

impl Kept {
    /// Gets what is to be remembered of a plan's layer.
    pub fn of(plan: &Plan, image: &Image) -> Option<Kept> {
        plan.overlay.as_ref().map(|o| Kept { dir: o.layer.source.clone(), helper: image.helper.clone() })
    }
}

/// Says why a layer over `lower` with its files in `layer` cannot be written as options of a mount, if it cannot.
pub fn obstacle(lower: &Path, layer: &Path) -> Option<&'static str> {
    let (lower, layer) = (lower.to_str(), layer.to_str());
    let plain = |path: &str| !path.contains([',', ':', '\\', '"']) && !path.contains(char::is_control);
    match (lower, layer) {
        (Some(lower), Some(layer)) if !plain(lower) || !plain(layer) => {
            Some("engines take no layer whose path has a comma, a colon, a quote or a backslash in it")
        }
        (Some(lower), Some(layer)) if lower.len() + 2 * layer.len() > MOST => {
            Some("the paths are too long for the options of a layer")
        }
        (Some(_), Some(_)) => None,
        _ => Some("a path of it is no text"),
    }
}

fn driver(overlay: &Overlay) -> Value {
    let (lower, layer) = (overlay.lower.source.display(), overlay.layer.source.display());
    let options = format!(
        "nosuid,nodev,lowerdir={lower},upperdir={layer}/upper,workdir={layer}/work,redirect_dir=nofollow,metacopy=off,userxattr"
    );
    json!({"type": "overlay", "device": "overlay", "o": options})
}

/// Makes the volume of a layer, where the engine is given one.
///
/// # Errors
/// The engine's.
pub fn make(engine: &Engine, plan: &Plan, image: &Image, name: &str) -> Result<()> {
    let Some(overlay) = plan.overlay.as_ref().filter(|_| engine.podman && !engine.rootless) else { return Ok(()) };
    let labels = spec::label_table(&plan.slug, image, "layer");
    let volume = json!({"Name": name, "Driver": "local", "DriverOpts": driver(overlay), "Labels": labels});
    engine.json("POST", "/volumes/create", Some(&volume)).map(drop)
}

/// Shows the layer of a plan at its workspace; `name` is that of the volume.
pub fn show(engine: &Engine, plan: &Plan, image: &Image, name: &str, host: &mut Value) {
    let Some(overlay) = &plan.overlay else { return };
    if engine.rootless {
        let (lower, layer) = (overlay.lower.source.display(), overlay.layer.source.display());
        let target = plan.workspace.display();
        host["Binds"] = json!([format!("{lower}:{target}:O,upperdir={layer}/upper,workdir={layer}/work")]);
        return;
    }
    let mut mount = json!({"Type": "volume", "Target": plan.workspace, "VolumeOptions": {"NoCopy": true}});
    if engine.podman {
        mount["Source"] = json!(name);
    } else {
        mount["VolumeOptions"]["Labels"] = spec::label_table(&plan.slug, image, "layer");
        mount["VolumeOptions"]["DriverConfig"] = json!({"Name": "local", "Options": driver(overlay)});
    }
    if let Some(mounts) = host["Mounts"].as_array_mut() {
        mounts.push(mount);
    }
}

/// Clears away what the engine and the kernel have left of a layer whose containers are gone. What the agent wrote stays.
///
/// # Errors
/// The engine's.
pub fn clear(engine: &Engine, labels: &[String], kept: Option<&Kept>) -> Result<()> {
    let filter = json!({"label": labels}).to_string();
    let list = engine.json("GET", &format!("/volumes?filters={}", encoded(&filter)), None)?;
    for name in list["Volumes"].as_array().into_iter().flatten().filter_map(|v| v["Name"].as_str()) {
        engine.json("DELETE", &format!("/volumes/{}?force=true", encoded(name)), None)?;
    }
    let Some(kept) = kept.filter(|_| engine.rootless) else { return Ok(()) };
    // The kernel's own directory belongs to root of the user namespace, whom only a container can be.
    let own = nix::unistd::geteuid().as_raw();
    if !std::fs::symlink_metadata(kept.dir.join("work/work")).is_ok_and(|meta| meta.uid() != own) {
        return Ok(());
    }
    super::make_empty_image(engine)?;
    let cleaner = engine.create("", &spec::cleaner(labels, &kept.helper, &kept.dir))?;
    let done = engine.start(&cleaner).and_then(|()| engine.json("POST", &format!("/containers/{cleaner}/wait"), None));
    engine.remove(&cleaner);
    done.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottle::docker::engine::tests::engine;
    use crate::bottle::docker::tests::plan;
    use crate::bottle::plan::Bind;

    #[test]
    fn a_layer_is_a_volume_or_a_word_of_podmans() {
        let mut plan = plan();
        let image = plan.image.clone().unwrap();
        plan.binds.clear();
        plan.overlay = Some(Overlay { lower: Bind::read_only("/w"), layer: Bind::read_only("/s/layer").at("/w") });
        let shown = |rootless| spec::agent(&engine(rootless), &plan, &image, &[], "v")["HostConfig"].clone();
        let rooted = shown(false);
        let mount = rooted["Mounts"].as_array().unwrap().iter().find(|m| m["Type"] == "volume").unwrap();
        let driver = &mount["VolumeOptions"]["DriverConfig"]["Options"];
        assert_eq!((&mount["Target"], &driver["type"]), (&json!("/w"), &json!("overlay")));
        let options = driver["o"].as_str().unwrap();
        for part in ["lowerdir=/w,", "upperdir=/s/layer/upper,", "workdir=/s/layer/work,", "metacopy=off", "userxattr"]
        {
            assert!(options.contains(part), "{part}: {options}");
        }
        assert_eq!(shown(true)["Binds"], json!(["/w:/w:O,upperdir=/s/layer/upper,workdir=/s/layer/work"]));
    }

    #[test]
    fn paths_that_would_be_read_as_options_are_told() {
        assert_eq!(obstacle(Path::new("/home/a b/w"), Path::new("/s/layer")), None);
        for odd in ["/w,upperdir=/etc", "/a:b", "/a\\b", "/a\nb"] {
            assert!(obstacle(Path::new(odd), Path::new("/s")).is_some(), "{odd}");
            assert!(obstacle(Path::new("/w"), Path::new(odd)).is_some(), "{odd}");
        }
        assert!(obstacle(Path::new(&"/x".repeat(2000)), Path::new("/s")).is_some());
    }
}
