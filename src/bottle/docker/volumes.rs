//! What an image calls a volume: an engine would make a place of it that the agent can write, on the host's disk and without a
//! bound. It is shown read-only, as the rest of the image. Must not touch what a bottle has of its own.

use std::path::Path;

use serde_json::{Value, json};

use super::engine::Engine;
use super::spec;
use crate::bottle::plan::{Image, Plan};
use crate::error::Result;

/// Most of them that an image may have.
const MOST: usize = 32;

/// Gets the places that `said`, what the engine says of an image, calls volumes and where the container of `spec` has nothing of its
/// own.
///
/// # Errors
/// One that something of the bottle's own lies in: it cannot be held read-only, since a place has to be made in it.
fn of_image(spec: &Value, said: &Value) -> std::result::Result<Vec<String>, String> {
    let texts = |value: &Value| -> Vec<String> {
        let table = value.as_object().into_iter().flatten();
        table.map(|(path, _)| path.trim_end_matches('/').to_owned()).collect()
    };
    let host = &spec["HostConfig"];
    let mut own = texts(&host["Tmpfs"]);
    own.extend(host["Mounts"].as_array().into_iter().flatten().filter_map(|m| Some(m["Target"].as_str()?.to_owned())));
    // Of `SOURCE:TARGET:OPTIONS`.
    let binds = host["Binds"].as_array().into_iter().flatten();
    own.extend(binds.filter_map(|bind| Some(bind.as_str()?.split(':').nth(1)?.to_owned())));
    let mut free = texts(&said["Config"]["Volumes"]);
    free.retain(|path| path.starts_with('/') && !own.contains(path));
    match free.iter().find(|path| own.iter().any(|own| Path::new(own).starts_with(path))) {
        Some(above) => Err(above.clone()),
        None => Ok(free),
    }
}

/// Has the container of `spec` show them read-only. The volumes are known as the bottle's by their labels, and go with what is left of
/// it; their names begin with `name`.
///
/// # Errors
/// The engine's, and `backend_unavailable` for an image that has too many, or one around what the bottle has of its own.
pub fn hold(engine: &Engine, plan: &Plan, image: &Image, said: &Value, name: &str, spec: &mut Value) -> Result<()> {
    let places = of_image(spec, said).map_err(|path| {
        super::failed(
            "volumes",
            format!("the image {} makes {path} a volume, in which this bottle has a place", image.name),
        )
        .hint(format!("take `VOLUME {path}` out of the image, or name the places in it one by one"))
    })?;
    if places.len() > MOST {
        return Err(super::failed("volumes", format!("the image {} has more than {MOST}", image.name)));
    }
    for (number, place) in places.iter().enumerate() {
        let name = format!("{name}-{number}");
        let labels = spec::label_table(&plan.slug, image, "volume");
        let volume = json!({"Name": name, "Driver": "local", "Labels": labels});
        engine.json("POST", "/volumes/create", Some(&volume))?;
        if let Some(mounts) = spec["HostConfig"]["Mounts"].as_array_mut() {
            mounts.push(json!({"Type": "volume", "Source": name, "Target": place, "ReadOnly": true}));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottle::docker::engine::tests::engine;
    use crate::bottle::docker::tests::plan;

    #[test]
    fn what_an_image_calls_a_volume_is_held_where_a_bottle_has_nothing_of_its_own() {
        let plan = plan();
        let image = plan.image.clone().unwrap();
        let spec = spec::agent(&engine(false), &plan, &image, &[], "v");
        let of = |volumes: Value| of_image(&spec, &json!({"Config": {"Volumes": volumes}}));
        for none in [json!(null), json!({}), json!({"": {}, "/": {}, "rel": {}}), json!(["/data"])] {
            assert!(of(none.clone()).unwrap().is_empty(), "{none}");
        }
        // The workspace, and what is memory already, stay what they are.
        let said = json!({"/data/": {}, "/w": {}, "/tmp": {}, "/run": {}, "/w2": {}});
        assert_eq!(of(said).unwrap(), ["/data", "/w2"]);
        assert_eq!(of(json!({"/data": {}, "/home": {}})).unwrap_err(), "/home", "the agent's home lies in it");
    }
}
