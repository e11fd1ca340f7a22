//! Rehearsals repeat: the same scenario gives the same ledger every time, whatever else the machine does meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

use crate::support::{Who, World};

/// A bottle by itself, then two beside each other, with everything that a stand-in can do on demand.
const RECIPE: &str = r#"--- @bb needs launch
local scripted = bb.args.scripted
local function turn(t)
  if not scripted then t.usage = nil end
  return t
end
local function task(path)
  return {
    turn{ text = "I look around.", run = { argv = { "sh", "-c", "echo one; echo two >&2; exit 3" } },
      usage = { input = 1203, cache_write = 301, cache_write_long = 44, output = 87 } },
    turn{ text = "I write.", edit = { path = path, content = "some text\n" }, error = 529, times = 2,
      usage = { input = 51, cache_read = 1599, output = 133, reasoning = 27 } },
    turn{ text = "I say rather a lot, so that it can be broken off in the middle of all that I have to say about it.",
      run = { argv = { "ls" } }, error = "broken", usage = { input = 40, cache_read = 1801, output = 66 } },
    turn{ text = "I ask elsewhere.", fetch = { url = "https://nowhere.example/" }, error = 429,
      usage = { input = 33, cache_read = 1955, output = 21 } },
    turn{ text = "I am done.", chunk_ms = 3, usage = { input = 29, cache_read = 2007, output = 9 } },
  }
end
bb.rehearse{ seed = 5, turns = task("a.txt"), cases = {
  { contains = "spend", loop = true, turns = { turn{ text = "More and more.", run = { argv = { "ls" } }, usage = { input = 2500, output = 301 } } } },
  { contains = "other", turns = task("another.txt") },
} }
local function launch(label, budget)
  return bb.launch{ provider = "demo", prompt = "Do it, " .. label .. ".", label = label, budget = budget }
end
print("alone", launch("alone", "1M"):wait().exit_code)
local two = { launch("spend", 6000), launch("other", "1M") }
for _, bottle in ipairs(two) do
  print(bottle.label, bottle:wait{ check = false }.exit_code)
end
"#;

/// What the book of rehearsals has of each request, by bottle and in order, ids and times apart.
type Rows = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// What differs between any two requests that are the same.
const IDS_AND_TIMES: [&str; 7] = ["id", "hold", "seq", "opened", "ts", "path", "run"];

fn rows(world: &World) -> Rows {
    let book = world.bb_home().join("rehearsal.db");
    let book = Connection::open_with_flags(book, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut read = book.prepare("SELECT * FROM usage ORDER BY opened").unwrap();
    let names: Vec<String> = read.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = Rows::new();
    let mut found = read.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let columns = names.iter().enumerate().filter(|(_, name)| !IDS_AND_TIMES.contains(&name.as_str()));
        let mut columns: BTreeMap<_, _> =
            columns.map(|(at, name)| (name.clone(), format!("{:?}", row.get::<_, Value>(at).unwrap()))).collect();
        let bottle: String = row.get("bottle").unwrap();
        if bottle != "alone" {
            // The stand-in numbers its answers over all bottles.
            columns.remove("response_id");
        }
        rows.entry(bottle).or_default().push(columns);
    }
    rows
}

/// Plays the recipe in a fresh home; gets the rows and what `bb usage` says of each bottle.
fn played(who: Who, scripted: bool) -> Option<(Rows, BTreeMap<String, serde_json::Value>)> {
    let world = World::of(who)?;
    let path = world.recipe("again.lua", RECIPE);
    let args = ["run", &path, "--grant", "all", "--", "--scripted"];
    let args = &args[..if scripted { args.len() } else { args.len() - 2 }];
    let output = world.command(args).patience(Duration::from_secs(90)).run().expect(0);
    assert_eq!(output.stdout, "alone\t0\nspend\t1\nother\t0\n", "{output}");
    let report = world.bb(&["usage", "--json", "--rehearsal"]).expect(0).json().remove(0);
    let by_bottle = report["rows"].as_array().unwrap().iter();
    let by_bottle = by_bottle.map(|row| (row["bottle"].as_str().unwrap().to_owned(), row.clone())).collect();
    world.assert_silent(&[]);
    Some((rows(&world), by_bottle))
}

#[test]
fn the_same_scenario_gives_the_same_ledger_every_time() {
    for who in Who::all() {
        // All beside each other: what else the machine does must not matter.
        let plays = std::thread::scope(|scope| {
            let started = [true, true, false, false].map(|scripted| scope.spawn(move || played(who, scripted)));
            started.map(|play| play.join().unwrap())
        });
        let [Some(one), Some(two), Some(three), Some(four)] = plays else { return };
        for (scripted, first, second) in [(true, &one, &two), (false, &three, &four)] {
            assert_eq!(first.1, second.1, "`bb usage`, usage scripted: {scripted}");
            assert_eq!(first.0.len(), second.0.len());
            for (bottle, requests) in &first.0 {
                let other = &second.0[bottle];
                assert_eq!(requests.len(), other.len(), "{bottle}, usage scripted: {scripted}");
                for (n, (one, two)) in requests.iter().zip(other).enumerate() {
                    assert_eq!(one, two, "request {n} of {bottle}, usage scripted: {scripted}");
                }
            }
            // It compares what there is to compare: five turns, and four requests that failed on demand.
            let how = |bottle: &str| first.0[bottle].iter().map(|r| r["how"].clone()).collect::<Vec<_>>();
            let text = |s: &str| format!("{:?}", Value::Text(s.to_owned()));
            let [exact, released, partial] = ["exact", "released", "partial"].map(text);
            let expected = [&exact, &released, &released, &exact, &partial, &exact, &released, &exact, &exact];
            for bottle in ["alone", "other"] {
                assert_eq!(how(bottle).iter().collect::<Vec<_>>(), expected, "{bottle}");
            }
            assert!(how("spend").len() >= 2, "{:?}", how("spend"));
        }
        // And it would see a difference.
        assert_ne!(one.0, three.0, "usage that was scripted is not the one that is made up");
    }
}
