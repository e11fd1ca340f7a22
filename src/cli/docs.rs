//! Tests that hold the pages on errors, denials, exit codes, architecture and what bot-bottle's users have equal to the code.

use std::collections::BTreeMap;

use crate::egress::deny::Denial;
use crate::error::Kind;

const ERRORS: &str = include_str!("../../docs/errors.md");
const DENIALS: &str = include_str!("../../docs/denials.md");
const EXIT_CODES: &str = include_str!("../../docs/exit-codes.md");

/// Gets the rows of a page's tables whose first cell is code: the cells without their backquotes.
fn rows(page: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect()
    };
    page.lines()
        .filter(|line| line.starts_with("| `"))
        .map(cells)
        .map(|mut row| {
            row[0] = row[0].trim_matches('`').to_owned();
            row
        })
        .collect()
}

/// Gets every kind that the code knows, from the one place that must name each of them.
fn kinds() -> Vec<Kind> {
    let source = include_str!("../error.rs");
    let words = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Kind::")?.split_once(" => \"")?.1.strip_suffix("\","));
    words.map(|word| serde_json::from_value(word.into()).unwrap()).collect()
}

/// Gets the exit codes that commands can end with.
pub(super) fn codes() -> Vec<u8> {
    let mut codes: Vec<u8> = kinds().into_iter().map(Kind::exit_code).chain([0]).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn every_error_is_documented_with_its_exit_code() {
    let code: Vec<(String, String)> = kinds().iter().map(|k| (k.as_str().into(), k.exit_code().to_string())).collect();
    assert!(code.len() > 20, "the kinds are not where this test looks");
    let page: Vec<(String, String)> = rows(ERRORS).into_iter().map(|r| (r[0].clone(), r[1].clone())).collect();
    assert_eq!(page, code);
    assert!(rows(ERRORS).iter().all(|r| r.len() == 4 && r.iter().all(|c| !c.is_empty())), "a cell is empty");
}

#[test]
fn every_denial_is_documented_with_its_status_and_meaning() {
    let code: Vec<Vec<String>> = Denial::ALL
        .iter()
        .map(|d| vec![d.as_str().to_owned(), d.status().as_u16().to_string(), d.meaning().to_owned()])
        .collect();
    let page: Vec<Vec<String>> = rows(DENIALS).iter().map(|r| r[..3].to_vec()).collect();
    assert_eq!(page, code);
    assert!(rows(DENIALS).iter().all(|r| r.len() == 4 && !r[3].is_empty()), "a remedy is missing");
}

#[test]
fn every_exit_code_is_documented_with_its_kinds() {
    let mut of_code: BTreeMap<u8, Vec<&str>> = codes().into_iter().map(|c| (c, vec![])).collect();
    for kind in kinds() {
        of_code.entry(kind.exit_code()).or_default().push(kind.as_str());
    }
    let page: BTreeMap<u8, Vec<String>> = rows(EXIT_CODES)
        .into_iter()
        .map(|r| {
            (
                r[0].parse().unwrap(),
                r[2].split(", ").filter(|k| *k != "-").map(|k| k.trim_matches('`').to_owned()).collect(),
            )
        })
        .collect();
    for (code, kinds) in of_code {
        assert_eq!(page.get(&code).map(Vec::as_slice).unwrap_or_default(), kinds, "exit code {code}");
        assert!(page.contains_key(&code), "exit code {code} is not documented");
    }
}

/// Gets the names of the tests in a source: of functions that are marked as one and are not left out.
fn tests_of(source: &str) -> Vec<&str> {
    let mut found = vec![];
    let (mut marked, mut ignored) = (false, false);
    for line in source.lines().map(str::trim) {
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ").and_then(|f| f.split_once("()"));
        match name {
            _ if line.starts_with("#[test]") || line.starts_with("#[tokio::test") => marked = true,
            _ if line.starts_with("#[ignore") => ignored = true,
            _ if line.starts_with("#[") || line.starts_with("///") => {}
            Some((name, _)) if marked && !ignored => {
                found.push(name);
                marked = false;
            }
            _ => (marked, ignored) = (false, false),
        }
    }
    found
}

/// Gets the text of every source below a directory, tests included.
fn sources_below(dir: &std::path::Path) -> Vec<String> {
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
    found
}

#[test]
fn a_test_is_a_function_that_is_marked_as_one() {
    let source = "fn helper() {}\n#[test]\nfn one() {\n    fn inner() {}\n}\n#[tokio::test(flavor = \"x\")]\n\
        async fn two() {}\n#[test]\n#[ignore]\nfn three() {}\n/// Text.\npub fn four() {}\n#[test]\nfn five() {}\n";
    assert_eq!(tests_of(source), ["one", "two", "five"]);
}

/// What the page has to speak of, with a test or as missing: the words of each thing that bot-bottle's users have.
const THEIRS: [&str; 45] = [
    "`--dry-run`",
    "`--cwd`",
    "`--backend`",
    "`--headless`",
    "`--bottle`",
    "`--label`",
    "`--color`",
    "`--prompt`",
    "`BOT_BOTTLE_BACKEND`",
    "`BOT_BOTTLE_DRY_RUN=1`",
    "agent picker",
    "bottle multi-select",
    "name and colour",
    "y/N",
    "merged in the order given",
    "-2, -3",
    "sixteen",
    "standard streams",
    "word for word",
    "`-`",
    "`-p PROMPT`",
    "session ended (exit N)",
    "to resume",
    "freeze",
    "commit",
    "capability",
    "`~/.bot-bottle",
    "`[a-z][a-z0-9-]*`",
    "named in a warning",
    "`extends`",
    "`env`",
    "`agent_provider`",
    "`auth`",
    "`matches`",
    "`dlp`",
    "`git-gate`",
    "`user`",
    "`repos`",
    "`supervise`",
    "`role`",
    "credentialed route",
    "`identity` or `key`",
    "`cutoff`",
    "`kill`",
    "`count_tokens`",
];

#[test]
fn every_line_of_what_bot_bottles_users_have_names_a_test_that_exists() {
    let page = include_str!("../../docs/bot-bottle.md");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<String> = ["src", "tests/it"].iter().flat_map(|dir| sources_below(&root.join(dir))).collect();
    let tests: std::collections::BTreeSet<&str> = sources.iter().flat_map(|source| tests_of(source)).collect();
    assert!(tests.len() > 400, "the tests are not where this test looks: {}", tests.len());

    let (there, missing) = page.split_once("\n## Not yet\n").unwrap();
    let is_row =
        |line: &&str| line.starts_with('|') && !line.starts_with("| what they have |") && !line.starts_with("| --- |");
    let rows: Vec<&str> = there.lines().filter(is_row).collect();
    assert!(rows.len() > 40, "{}", rows.len());
    for row in &rows {
        let cells = row.trim_matches('|').rsplit_once(" | ");
        let (what, named) = cells.map(|(what, named)| (what.trim(), named.trim())).unwrap_or_default();
        assert!(!what.is_empty(), "not two cells: {row}");
        assert!(named.starts_with('`') && named.ends_with('`'), "no test: {row}");
        for test in named.trim_matches('`').split("`, `") {
            assert!(tests.contains(test), "there is no test {test}: {row}");
        }
    }
    // What is missing says which capability brings it.
    let items: Vec<&str> = missing.lines().filter(|line| !line.is_empty()).collect();
    assert!(items.iter().all(|item| item.starts_with("- ") && item.contains(" **")), "{items:#?}");
    let said = |word: &&str| rows.iter().chain(&items).any(|line| line.contains(word));
    let unsaid: Vec<&str> = THEIRS.into_iter().filter(|word| !said(word)).collect();
    assert!(unsaid.is_empty(), "the page is silent on {unsaid:?}");
}

#[test]
fn every_action_that_enforcement_writes_is_on_the_page_about_the_api() {
    let code = include_str!("../controller/live/decide.rs");
    let words = |line: &str| -> Vec<String> { line.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    let written = code.split("\"action\": \"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    let chosen = code.lines().filter(|line| line.trim().starts_with("let action = ")).flat_map(words);
    let written: std::collections::BTreeSet<String> = written.chain(chosen).collect();
    let page = include_str!("../../docs/controller-api.md");
    let row = page.lines().find(|line| line.starts_with("| `enforced` |")).unwrap();
    let cell = row.split(" | ").nth(1).unwrap();
    let named: std::collections::BTreeSet<String> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(named, written);
}

/// Gets the files below a directory that are no tests, with the code of each: no comments, no tests at its foot.
fn code_below(dir: &std::path::Path) -> Vec<(String, String)> {
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            found.extend(code_below(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            found.push((path.display().to_string(), lines.collect::<Vec<_>>().join("\n")));
        }
    }
    found
}

#[test]
fn the_page_on_architecture_names_every_part_and_the_pure_ones_use_no_other() {
    let page = include_str!("../../docs/architecture.md");
    let table = page.split("| layer | may use | must not |").nth(1).unwrap().split("\n\n").next().unwrap();
    let layers = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let mut named: Vec<&str> = layers.flat_map(|cell| cell.trim_end_matches('`').split("`, `")).collect();
    named.sort_unstable();
    let parts = include_str!("../lib.rs").lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    assert_eq!(named, parts.collect::<Vec<_>>());

    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let bounded: [(&str, &[&str]); 4] = [
        ("budget", &["api", "budget", "types"]),
        ("meter", &["meter", "types"]),
        ("os", &["os"]),
        // Nothing of supervision, of front ends or of the controller: it works whatever becomes of those.
        ("enforce", &["egress", "enforce", "ledger", "types"]),
    ];
    for (part, known) in bounded {
        let files = code_below(&src.join(part));
        assert!(!files.is_empty(), "{part} is not where this test looks");
        for (file, code) in files {
            for of in code.split("crate::").skip(1) {
                let of = of.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap();
                assert!(known.contains(&of), "{file} uses {of}");
            }
            let acts = ["std::fs", "std::net", "std::process", "std::env", "std::thread", "tokio"];
            let is_pure = ["budget", "meter"].contains(&part);
            let found = acts.iter().find(|what| is_pure && code.contains(**what));
            assert!(found.is_none(), "{file} does I/O: {found:?}");
        }
    }
}
