//! docs/security.md: the part that is written by hand, and the table of the battery after it.

use std::fmt::Write;
use std::path::Path;

use super::Row;
use super::elsewhere;
use super::kinds::{GROUPS, KINDS, Standing};
use super::table::{SECTIONS, comes_back, covering, in_containers};

/// Begins what is generated.
const MARK: &str =
    "<!-- From here on generated from tests/it/battery: BB_TEST_WRITE=1 cargo test --test it -- battery::page -->\n";

/// Set to `1`, the test writes the page in place of comparing it.
const WRITE: &str = "BB_TEST_WRITE";

fn numbers(covers: &[u8]) -> String {
    if covers.is_empty() {
        return "own".to_owned();
    }
    covers.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn row(out: &mut String, row: &Row) {
    let (mut comes, on) =
        (comes_back(row), if row.embedded_only.is_empty() { elsewhere::BOTH } else { elsewhere::LINUX });
    if let Some(other) = in_containers(row) {
        write!(comes, "; in a container {}", comes_back(other)).unwrap();
    }
    if !row.embedded_only.is_empty() {
        write!(comes, " ({})", row.embedded_only).unwrap();
    }
    let twin = if row.twin.is_empty() { "of all" } else { "own" };
    let whom = if row.embedded_only.is_empty() { "root, user; containers: root" } else { "root, user" };
    writeln!(out, "| {} | {} | {} | {twin} | {on} | {whom} |", numbers(row.covers), cell(row.name), cell(&comes))
        .unwrap();
}

/// Makes what comes after [`MARK`].
fn generated() -> String {
    let mut out = String::from(
        "\n## What is tried\n\n\
         Every row is a command in a real bottle, run as the agent's user. *Comes back* is what it must get, within two seconds, so that a time-out cannot pass for a block;\n\
         the allowed thing most like it is done after it and must work: a *twin* of its *own*, or the one *of all* rows of the part. *linux* is the embedded\n\
         backend, *containers* are those of Docker and of Podman; *bb run by* says whose bottles they were: root's, and an ordinary user's. Numbers are those of the list of kinds at the end; *own* are ours.\n",
    );
    for section in SECTIONS {
        write!(out, "\n### {}\n\nMust stay silent, or as it was: {}.", section.name, section.canary).unwrap();
        write!(out, " The twin of all: `{}`.\n\n", section.twin).unwrap();
        out.push_str(
            "| kind | tried | comes back | twin | played on | bb run by |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for one in section.rows {
            row(&mut out, one);
        }
    }
    out.push_str("\n### By tests of their own\n\nWhat needs more than a command in a bottle.\n\n");
    out.push_str("| kind | tried | comes of it | tests | run on |\n| --- | --- | --- | --- | --- |\n");
    for one in elsewhere::ALL {
        let tests: Vec<_> = one.tests.iter().map(|(file, test)| format!("`{file}`: `{test}`")).collect();
        let (covers, name, comes) = (numbers(one.covers), cell(one.name), cell(one.comes));
        writeln!(out, "| {covers} | {name} | {comes} | {} | {} |", tests.join("<br>"), one.on).unwrap();
    }
    out.push_str("\n## Kinds of attack\n\nA test fails when one of them is neither covered nor explained.\n");
    let mut kinds = KINDS.iter().peekable();
    for (name, last) in GROUPS {
        write!(out, "\n**{name}**\n\n| | kind | rows and tests |\n| --- | --- | --- |\n").unwrap();
        while let Some(kind) = kinds.next_if(|kind| kind.number <= *last) {
            let count = covering(kind.number).len();
            let covered = match (kind.standing, count) {
                (Standing::Tested, count) => count.to_string(),
                (Standing::NotYet(why), 0) => format!("not yet: {why}"),
                (Standing::NotYet(why), count) => format!("{count}; the rest not yet: {why}"),
                (Standing::Cannot(why), _) => format!("cannot be tried: {why}"),
            };
            writeln!(out, "| {} | {} | {} |", kind.number, cell(kind.what), cell(&covered)).unwrap();
        }
    }
    out
}

#[test]
fn the_page_about_security_has_every_row_of_the_battery() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (by_hand, table) = page.split_once(MARK).expect("the line that begins what is generated");
    let wanted = generated();
    if std::env::var_os(WRITE).is_some_and(|v| v == "1") {
        std::fs::write(&path, format!("{by_hand}{MARK}{wanted}")).unwrap();
        return;
    }
    let differs = table.lines().zip(wanted.lines()).find(|(is, should)| is != should);
    assert!(
        table == wanted,
        "docs/security.md is not what the battery says (first: {differs:?}); `{WRITE}=1 cargo test --test it -- battery::page` rewrites it"
    );
}
