//! What a launch is charged to, by the shapes that manifests may have, and who may say a budget.

use super::*;

/// Manifests of every shape, and the path that a launch is charged to: everything once, the nearest first, whether it says a limit
/// or not.
#[test]
fn every_manifest_of_a_launch_is_on_its_budget_path_once() {
    let place = Place::new("paths")
        .bottle("root", DEMO)
        .bottle("left", "extends: root\nbudget: 5k\n")
        .bottle("right", "extends: [root]\nbudget: {tokens: 9k, per: week}\n")
        .bottle("diamond", "extends: [left, right]\n")
        .bottle("deep", "extends: diamond\n")
        .bottle("alone", DEMO)
        .agent("plain", "bottle: alone\n", "")
        .agent("under", "bottle: deep\nbudget: {demo: {tokens: 1k, lifetime: true}, \"*\": 2k}\n", "");
    let whole = |agent: &str, bottles: &[&str]| {
        let bottles = bottles.iter().map(|name| (*name).to_owned()).collect();
        place.draft(&Choice { bottles, ..choice(agent) }).unwrap().launch
    };
    let path = |agent: &str, bottles: &[&str]| {
        let launch = api::Launch { id: "1".into(), ..whole(agent, bottles) };
        launch.nodes_of_its_own().join(" ")
    };
    // Each as its node of this launch and the one by name.
    let pairs = |names: &[&str]| {
        let pair = |name: &&str| format!("{name}@1 {name}");
        std::iter::once("bottle:1".to_owned()).chain(names.iter().map(pair)).collect::<Vec<_>>().join(" ")
    };
    for (agent, bottles, names) in [
        ("plain", &[][..], &["agent:plain", "manifest:alone"][..]),
        (
            "under",
            &[],
            &["agent:under", "manifest:deep", "manifest:diamond", "manifest:left", "manifest:root", "manifest:right"],
        ),
        ("plain", &["left", "right"], &["agent:plain", "manifest:left", "manifest:root", "manifest:right"]),
        ("plain", &["right", "left", "right"], &["agent:plain", "manifest:right", "manifest:root", "manifest:left"]),
        (
            "plain",
            &["alone", "diamond"],
            &["agent:plain", "manifest:alone", "manifest:diamond", "manifest:left", "manifest:root", "manifest:right"],
        ),
    ] {
        assert_eq!(path(agent, bottles), pairs(names), "{agent} {bottles:?}");
    }
    // What counts by name is said at the one node, what counts per launch at the other, also where one manifest says both.
    let said: Vec<(String, Vec<String>)> = whole("under", &[])
        .nodes
        .iter()
        .flat_map(|node| node.limits_by_node("1"))
        .filter(|(_, limits)| !limits.is_empty())
        .map(|(node, limits)| (node, limits.iter().map(|l| format!("{} {:?}", l.provider, l.tokens)).collect()))
        .collect();
    let is = |node: &str, limit: &str| (node.to_owned(), vec![limit.to_owned()]);
    assert_eq!(
        said,
        [
            is("agent:under@1", "* Some(2000)"),
            is("agent:under", "demo Some(1000)"),
            is("manifest:left@1", "* Some(5000)"),
            is("manifest:right", "* Some(9000)"),
        ]
    );
    let rows = place.draft(&choice("under")).unwrap().rows(Some(&[]));
    let shown: String = rows.iter().map(|row| format!("{}={}\n", row.key, row.value)).collect();
    for part in [
        "budget=agent under for demo: 1,000 tokens in all launches, 1,000 left",
        "budget=agent under: 2,000 tokens, 2,000 left",
        "budget=bottle manifest right: 9,000 tokens a week, 9,000 left",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn a_repositorys_agent_cannot_say_a_budget_and_the_hosts_of_that_name_can() {
    for budget in ["unlimited", "1k", "{tokens: 1k, per: day}", "{demo: {tokens: 1, lifetime: true}}"] {
        let place = Place::new("repo").bottle("dev", &format!("{DEMO}budget: 40k\n"));
        let text = format!("---\nbottle: dev\nbudget: {budget}\n---\n");
        let place = place.write("project/.bot-bottle/agents/helper.md", &text);
        let refused = place.draft(&choice("helper")).unwrap_err();
        assert!(refused.message.contains("counts for nothing in a repository's agent"), "{budget}: {refused}");
        let place = place.write("bb/agents/helper.md", &text);
        let launch = place.draft(&choice("helper")).unwrap().launch;
        assert_eq!(launch.nodes[0].limits.len(), 1, "{budget}");
    }
}
