//! The battery as one table: every row, where it is played, and whether every kind of attack is covered or explained.

use std::collections::BTreeSet;

use super::elsewhere::{self, Elsewhere};
use super::kinds::{KINDS, Standing};
use super::{Row, addresses, credentials, framing, host, kernel, model, names, processes};

/// Rows that are played together.
pub struct Section {
    /// What they have in common.
    pub name: &'static str,
    /// The rows.
    pub rows: &'static [Row],
    /// What must stay silent, or as it was, while they are played.
    pub canary: &'static str,
    /// The allowed twin of those of them that name none of their own.
    pub twin: &'static str,
}

const NETWORK: &str = "servers on every address of the test's network, its name server, the listed hosts themselves";
/// What is allowed where requests are refused.
const GOOD: &str = "req https://good.example/hello | fine 'welcome /hello'";
const KERNEL: &str = "the host's own files, kernel settings and processes; servers on every address";

/// All rows, in the order of the page.
pub const SECTIONS: &[Section] = &[
    Section { name: "Names", rows: names::ROWS, canary: NETWORK, twin: GOOD },
    Section { name: "Addresses, ports, transports", rows: addresses::ROWS, canary: NETWORK, twin: GOOD },
    Section { name: "TLS and HTTP", rows: framing::ROWS, canary: NETWORK, twin: GOOD },
    Section {
        name: "Credentials",
        rows: credentials::ROWS,
        canary: NETWORK,
        twin: "req https://keyed.example/hello | fine 'welcome /hello'",
    },
    Section {
        name: "Model APIs",
        rows: model::ROWS,
        canary: "servers on every address; the ledger, in which nothing but the allowed twins may be",
        // It costs nothing, so that the ledger has the other twins' rows only.
        twin: "req https://api.anthropic.com/v1/messages/count_tokens -H 'content-type: application/json' \
               -d '{\"model\":\"m\",\"messages\":[]}' | fine input_tokens",
    },
    Section {
        name: "Privileges, devices, the system's files",
        rows: kernel::ROWS,
        canary: KERNEL,
        twin: "echo own >~/twin && chmod 600 ~/twin && cat ~/twin | fine own; rm ~/twin",
    },
    Section {
        name: "Other processes, namespaces, system calls",
        rows: processes::ROWS,
        canary: KERNEL,
        twin: "sleep 60 & kill -STOP $!; kill -CONT $!; kill -KILL $!; cat /proc/$$/status | fine ^Uid:.*1000",
    },
    Section {
        name: "The host's files",
        rows: kernel::HIDDEN,
        canary: "a word in each of them, which no output may have",
        twin: "cat found.txt | fine canary",
    },
    Section {
        name: "The control plane",
        rows: host::ROWS,
        canary: "the controller, its sockets and its ledger",
        twin: "python3 -c 'import socket; a, b = socket.socketpair(); a.send(b\"own\"); print(b.recv(3))' | fine own",
    },
    Section {
        name: "What host tools run",
        rows: host::GUARDED,
        canary: "the files, compared after the bottle's end",
        twin: "echo own >own.txt && cat own.txt | fine own",
    },
];

/// Gets the rows and tests that cover a kind: their names.
pub fn covering(number: u8) -> Vec<&'static str> {
    let rows = SECTIONS.iter().flat_map(|s| s.rows).filter(|r| r.covers.contains(&number)).map(|r| r.name);
    let tests = elsewhere::ALL.iter().filter(|e| e.covers.contains(&number)).map(|e| e.name);
    rows.chain(tests).collect()
}

/// Gets the allowed thing that is most like a row: its own twin, or its section's.
pub fn twin(row: &Row) -> &'static str {
    let of_section = || SECTIONS.iter().find(|section| section.rows.iter().any(|one| one.name == row.name));
    if row.twin.is_empty() { of_section().map_or("", |section| section.twin) } else { row.twin }
}

/// Gets how a container answers a row, where it is played there.
pub fn in_containers(row: &Row) -> Option<&'static Row> {
    kernel::OTHERWISE.iter().find(|other| other.name == row.name)
}

/// Gets what a row's output must have in it.
fn promises(row: &Row) -> impl Iterator<Item = &'static str> {
    let counted = row.each.iter().filter(|(_, times)| *times > 0).map(|(said, _)| *said);
    row.says.iter().copied().chain(counted)
}

/// Words that say what came back.
const ANSWERS: [&str; 7] = [
    "Operation not permitted",
    "Permission denied",
    "No such file",
    "Read-only file system",
    "No space left",
    "command not found",
    "must be superuser",
];

/// Gets what comes back, as the row's own promises say it.
pub fn comes_back(row: &Row) -> String {
    if !row.comes.is_empty() {
        return row.comes.to_owned();
    }
    let mut found: Vec<String> = Vec::new();
    let mut add = |text: String| {
        if !found.contains(&text) {
            found.push(text);
        }
    };
    if let Some((kind, _)) = row.denied {
        add(format!("`{kind}`"));
    }
    for said in promises(row) {
        for answer in ANSWERS.iter().filter(|answer| said.contains(**answer)) {
            add(format!("\"{answer}\""));
        }
        if let Some(kind) = said.strip_prefix("x-bb-deny: ").filter(|kind| !kind.is_empty()) {
            add(format!("`{kind}`"));
        }
        if said.starts_with("route_missing") {
            add("`route_missing`".to_owned());
        }
        for word in said.split_whitespace() {
            let error = word.len() > 3 && word.starts_with('E') && word.bytes().all(|b| b.is_ascii_uppercase());
            let status = word.len() == 3 && word.starts_with('4') && word.bytes().all(|b| b.is_ascii_digit());
            if error || status {
                add(format!("`{word}`"));
            }
        }
    }
    if found.is_empty() && promises(row).any(|said| said.contains("rcode 0")) {
        found.push("an answer without an address".to_owned());
    }
    found.join(", ")
}

/// The kinds that rows or tests have to cover.
fn must_be_covered() -> BTreeSet<u8> {
    (1..=35).chain(39..=41).chain(43..=59).chain(65..=69).collect()
}

#[test]
fn every_kind_is_covered_or_explained() {
    let numbers: Vec<u8> = KINDS.iter().map(|kind| kind.number).collect();
    assert_eq!(numbers, (1..=75).collect::<Vec<u8>>(), "each has a number of its own, in order");
    let required = must_be_covered();
    let mut cannot = 0;
    for kind in KINDS {
        let covered = covering(kind.number);
        match kind.standing {
            Standing::Tested => {
                assert!(!covered.is_empty(), "nothing covers {}: {}", kind.number, kind.what);
            }
            Standing::Cannot(why) => {
                cannot += 1;
                assert!(!why.is_empty() && covered.is_empty(), "{}: {}", kind.number, kind.what);
            }
            // What there is of it already may be a row.
            Standing::NotYet(why) => {
                assert!(!why.is_empty() && !required.contains(&kind.number), "{} has to be covered", kind.number);
            }
        }
    }
    assert!(cannot <= 5, "{cannot} kinds are said to be impossible to try");
    let known = |covers: &[u8]| covers.iter().all(|number| numbers.contains(number));
    assert!(SECTIONS.iter().flat_map(|s| s.rows).all(|row| known(row.covers)));
    assert!(elsewhere::ALL.iter().all(|one| known(one.covers) && !one.covers.is_empty()));
}

#[test]
fn every_kind_is_tried_on_the_embedded_backend_and_in_containers() {
    let rows = || SECTIONS.iter().flat_map(|section| section.rows);
    for kind in KINDS.iter().filter(|kind| kind.standing == Standing::Tested) {
        let number = kind.number;
        let here = rows().any(|row| row.covers.contains(&number) && row.embedded_only.is_empty());
        let on = |place: &str| elsewhere::ALL.iter().any(|one| one.covers.contains(&number) && one.on == place);
        assert!(here || on(elsewhere::BOTH), "{number}: {}", kind.what);
    }
}

#[test]
fn every_row_says_what_comes_back_and_has_a_name_of_its_own() {
    let (mut names, mut silent) = (BTreeSet::new(), Vec::new());
    for row in SECTIONS.iter().flat_map(|section| section.rows) {
        assert!(names.insert(row.name), "two rows are called {:?}", row.name);
        if comes_back(row).is_empty() {
            silent.push(row.name);
        }
        assert!(!row.says.is_empty() || !row.each.is_empty(), "{:?} promises nothing", row.name);
    }
    for row in SECTIONS.iter().flat_map(|section| section.rows).chain(kernel::OTHERWISE) {
        assert!(!twin(row).is_empty(), "{:?} has no allowed twin", row.name);
    }
    assert!(silent.is_empty(), "these say nothing of what comes back: {silent:?}");
    for row in kernel::OTHERWISE {
        assert!(names.contains(row.name) && !comes_back(row).is_empty(), "{:?}", row.name);
    }
}

/// Tells whether a file has a test of that name which is run with all others: its attributes say so, and none leaves it out.
fn is_run(text: &str, test: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |line: &str| {
        ["", "pub ", "async ", "pub async "].iter().any(|way| line.starts_with(&format!("{way}fn {test}(")))
    };
    let Some(at) = lines.iter().position(|line| begins(line)) else { return false };
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let attributes: Vec<&str> = above.copied().filter(|line| line.starts_with("#[")).collect();
    let is_test = |line: &str| line == "#[test]" || line.starts_with("#[tokio::test");
    attributes.iter().any(|line| is_test(line))
        && !attributes.iter().any(|line| line.contains("ignore") || line.contains("cfg"))
}

#[test]
fn a_proof_that_is_left_out_is_none() {
    for (above, run) in [
        ("#[test]", true),
        ("#[tokio::test]", true),
        ("#[test]\n/// Says what it shows.", true),
        ("#[test]\n#[ignore]", false),
        ("#[ignore = \"slow\"]\n#[test]", false),
        ("#[test]\n#[cfg_attr(debug_assertions, ignore)]", false),
        ("#[test]\n#[cfg(feature = \"x\")]", false),
        ("", false),
        ("#[test]\nfn other() {}\n", false),
    ] {
        assert_eq!(is_run(&format!("use x;\n\n{above}\nasync fn proof() {{\n"), "proof"), run, "{above}");
    }
    assert!(!is_run("#[test]\nfn proof_of_more() {", "proof") && !is_run("// fn proof()", "proof"));
}

#[test]
fn every_test_that_is_named_as_proof_is_there() {
    for Elsewhere { name, tests, .. } in elsewhere::ALL {
        assert!(!tests.is_empty(), "{name}");
        for (file, test) in *tests {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(is_run(&text, test), "{name}: {file} has no test {test} that is run");
        }
    }
}
