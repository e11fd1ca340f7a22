//! Whatever is asked for, a report says what the rows say: read from them, from the sums by bottle and run, or from the sums over all.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rusqlite::params;

use super::super::{schema, sums};
use super::*;

/// A use, as a row of it has it.
#[derive(Clone, Debug)]
struct Use {
    ts: i64,
    bottle: u8,
    agent: u8,
    provider: u8,
    /// The model that answered, where it said so.
    model: Option<u8>,
    run: Option<u8>,
    exact: bool,
    tokens: u32,
    /// What its usage was later on, if it came late.
    late: Option<u32>,
}

/// First of the moments at which something is used; in the midst of a quarter hour. Unit: milliseconds since the epoch.
const BEGIN: i64 = 1_772_323_200_000 + 123_456;
/// Last of them, from the first: summer time begins in between. Unit: milliseconds.
const LENGTH: i64 = 40 * 86_400_000;

const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"];

impl Use {
    /// The names of a row: bottle, agent, provider, model, recipe, run.
    fn names(&self) -> [String; 6] {
        // Runs 0 and 1 are of one recipe, 2 of another, and of 3 none is known.
        let recipe = match self.run {
            Some(0 | 1) => "nightly",
            Some(2) => "review",
            _ => "",
        };
        let model = self.model.map_or("asked".to_owned(), |model| format!("m{model}"));
        let run = self.run.map_or(String::new(), |run| format!("r{run}"));
        let of = |word: &str, number: u8| format!("{word}{number}");
        [of("b", self.bottle), of("a", self.agent), of("p", self.provider), model, recipe.to_owned(), run]
    }

    fn figures(&self) -> UsageTotal {
        let tokens = u64::from(self.late.unwrap_or(self.tokens));
        UsageTotal {
            requests: 1,
            input: tokens,
            cache_read: 2 * tokens,
            cache_write: 7 * tokens,
            output: 5 * tokens,
            reasoning: tokens / 2,
            counted: 8 * tokens,
            estimated: u64::from(!self.exact),
        }
    }
}

/// A book that has those uses: the first `folded` of them are in the sums, usage that came late changed them after.
fn book(uses: &[Use], folded: usize) -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    assert!(schema::migrate(&mut conn).is_ok());
    for (run, recipe) in [("r0", "nightly"), ("r1", "nightly"), ("r2", "review")] {
        conn.execute("INSERT INTO runs (id, recipe, ts) VALUES (?1, ?2, 0)", [run, recipe]).unwrap();
    }
    for (at, used) in uses.iter().enumerate() {
        if at == folded {
            sums::fold(&conn).unwrap();
        }
        let [bottle, agent, provider, _, _, run] = used.names();
        let (model, run) = (used.model.map(|model| format!("m{model}")), used.run.map(|_| run));
        let id = i64::try_from(at).unwrap() + 1;
        conn.prepare_cached(
            "INSERT INTO usage (id, hold, seq, opened, ts, path, provider, bottle, agent, run, api, host, model_asked, model,
                duplicate, input_estimate, output_estimate, held, input, cache_read, cache_write, cache_write_long, output,
                reasoning, weights, counted, how, source)
             VALUES (?1, 'h' || ?1, ?1, 0, ?2, '[\"global\"]', ?3, ?4, ?5, ?6, 'anthropic', 'h', 'asked', ?7,
                0, 0, 0, 0, ?8, 2 * ?8, 3 * ?8, 4 * ?8, 5 * ?8, ?8 / 2, '', 8 * ?8, 'exact', ?9)",
        )
        .unwrap()
        .execute(params![id, used.ts, provider, bottle, agent, run, model, used.tokens, if used.exact { "exact" } else { "partial" }])
        .unwrap();
    }
    if folded >= uses.len() {
        sums::fold(&conn).unwrap();
    }
    for (at, used) in uses.iter().enumerate() {
        let Some(late) = used.late else { continue };
        let hold = format!("h{}", at + 1);
        sums::take_out(&conn, &hold).unwrap();
        conn.execute(
            "UPDATE usage SET input = ?2, cache_read = 2 * ?2, cache_write = 3 * ?2, cache_write_long = 4 * ?2, output = 5 * ?2,
                reasoning = ?2 / 2, counted = 8 * ?2 WHERE hold = ?1",
            params![hold, late],
        )
        .unwrap();
        sums::put_back(&conn, &hold).unwrap();
    }
    conn
}

/// A report without its order: what each row is of, its stretch of time, its figures.
type Plain = BTreeMap<(Vec<String>, Option<[i64; 4]>), String>;

fn plain(report: &UsageReport) -> Plain {
    let row = |row: &UsageRow| {
        let optional = |name: &Option<String>| name.clone().unwrap_or_default();
        let names = [&row.bottle, &row.agent, &row.provider, &row.model].map(Clone::clone);
        let names = names.into_iter().chain([optional(&row.recipe), optional(&row.run)]).collect();
        ((names, row.span.map(|span| [span.start, span.end, span.first, span.last])), format!("{:?}", row.total))
    };
    report.rows.iter().map(row).collect()
}

/// The report as it follows from the uses themselves.
fn expected(uses: &[Use], query: &UsageQuery, by: &BTreeSet<By>) -> Plain {
    let of = |used: &&Use| {
        let [bottle, _, provider, _, _, run] = used.names();
        let is = |wanted: &Option<String>, name: &String| wanted.as_ref().is_none_or(|wanted| wanted == name);
        query.since.is_none_or(|since| used.ts >= since)
            && query.until.is_none_or(|until| used.ts < until)
            && is(&query.bottle, &bottle)
            && is(&query.run, &run)
            && is(&query.provider, &provider)
    };
    let quarter = |used: &Use| used.ts.div_euclid(QUARTER) * QUARTER;
    let zone = zone(query);
    let stretches = query.period.filter(|period| *period != Slice::Session);
    let stretches = stretches.map(|period| Stretches::cut(period, uses.iter().filter(of).map(quarter), &zone));
    let mut rows = BTreeMap::<_, (UsageTotal, i64, i64)>::new();
    for used in uses.iter().filter(of) {
        let all = [By::Bottle, By::Agent, By::Provider, By::Model, By::Recipe, By::Run];
        let names = all.iter().zip(used.names()).map(|(of, name)| if by.contains(of) { name } else { String::new() });
        let stretch = stretches.as_ref().map(|stretches| stretches.of(quarter(used)));
        let row = rows.entry((names.collect::<Vec<String>>(), stretch)).or_insert((
            UsageTotal::default(),
            i64::MAX,
            i64::MIN,
        ));
        row.0.add(&used.figures());
        (row.1, row.2) = (row.1.min(used.ts), row.2.max(used.ts));
    }
    let span = |stretch: Option<(i64, i64)>, first, last| match (query.period, stretch) {
        (None, _) => None,
        (_, Some((start, end))) => Some([start, end, first, last]),
        (_, None) => Some([first, last, first, last]),
    };
    rows.into_iter()
        .map(|((names, stretch), (total, first, last))| ((names, span(stretch, first, last)), format!("{total:?}")))
        .collect()
}

prop_compose! {
    fn uses()(uses in prop::collection::vec(
        (0..LENGTH, 0u8..4, 0u8..3, 0u8..2, prop::option::of(0u8..2), prop::option::of(0u8..4), any::<bool>(), 0u32..1000,
            prop::option::weighted(0.1, 1000u32..2000)),
        1..80,
    )) -> Vec<Use> {
        let one = |(at, bottle, agent, provider, model, run, exact, tokens, late)| {
            Use { ts: BEGIN + at, bottle, agent, provider, model, run, exact, tokens, late }
        };
        let mut uses: Vec<Use> = uses.into_iter().map(one).collect();
        uses.sort_by_key(|used| used.ts);
        uses
    }
}

fn moment() -> impl Strategy<Value = Option<i64>> {
    let any = (0..LENGTH).prop_map(|at| BEGIN + at);
    // Of a day, of a quarter hour, of any.
    let aligned = |length: i64| (0..LENGTH).prop_map(move |at| (BEGIN + at).div_euclid(length) * length);
    prop_oneof![Just(None), aligned(86_400_000).prop_map(Some), aligned(QUARTER).prop_map(Some), any.prop_map(Some)]
}

prop_compose! {
    fn query(all: bool)(
        since in moment(),
        until in moment(),
        by in prop::collection::btree_set(
            prop::sample::select(if all {
                vec![By::Bottle, By::Agent, By::Provider, By::Model, By::Recipe, By::Run]
            } else {
                vec![By::Agent, By::Provider, By::Model, By::Recipe]
            }),
            0..4,
        ),
        period in prop::option::of(prop::sample::select(vec![Slice::Day, Slice::Week, Slice::Month, Slice::Block])),
        zone in prop::sample::select(ZONES.to_vec()),
        provider in prop::option::of(prop::sample::select(vec!["p0", "p1", "p9"])),
        narrowed in prop::option::weighted(0.3, (prop::option::of(0u8..4), prop::option::of(0u8..4))),
    ) -> UsageQuery {
        let (bottle, run) = narrowed.filter(|_| all).unwrap_or_default();
        UsageQuery {
            since,
            until,
            by: Some(by.into_iter().collect()),
            period,
            zone: Some(zone.to_owned()),
            provider: provider.map(str::to_owned),
            bottle: bottle.map(|bottle| format!("b{bottle}")),
            run: run.map(|run| format!("r{run}")),
            ..UsageQuery::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_report_over_all_bottles_is_the_same_from_the_totals_the_sums_and_the_rows(
        uses in uses(),
        query in query(false),
        folded in 0.0..1.2f64,
    ) {
        let conn = book(&uses, (uses.len() as f64 * folded) as usize);
        let by = rows_of(&query);
        prop_assert_eq!(fitting(&query, &by), Table::Totals);
        let of_totals = usage_from(&conn, &query, &by, Table::Totals).unwrap();
        let of_sums = usage_from(&conn, &query, &by, Table::Sums).unwrap();
        prop_assert_eq!(&of_totals, &of_sums, "in its order too");
        prop_assert_eq!(plain(&of_totals), expected(&uses, &query, &by));
    }

    #[test]
    fn a_report_over_all_time_is_the_same_from_lifetimes_the_sums_and_the_rows(
        uses in uses(),
        query in query(true),
        sessions in any::<bool>(),
        folded in 0.0..1.2f64,
    ) {
        let conn = book(&uses, (uses.len() as f64 * folded) as usize);
        let query = UsageQuery { since: None, until: None, period: sessions.then_some(Slice::Session), ..query };
        let by = rows_of(&query);
        let of_lifetimes = usage_from(&conn, &query, &by, Table::Lifetimes).unwrap();
        prop_assert_eq!(&of_lifetimes, &usage_from(&conn, &query, &by, Table::Sums).unwrap());
        prop_assert_eq!(plain(&of_lifetimes), expected(&uses, &query, &by));
    }

    #[test]
    fn a_report_of_anything_is_that_of_the_rows(uses in uses(), query in query(true), folded in 0.0..1.2f64) {
        let conn = book(&uses, (uses.len() as f64 * folded) as usize);
        prop_assert_eq!(plain(&usage(&conn, &query).unwrap()), expected(&uses, &query, &rows_of(&query)));
    }
}

#[test]
fn where_a_bottle_or_a_run_is_asked_for_the_totals_do_not_say_enough() {
    let asked = |query: UsageQuery| fitting(&query, &rows_of(&query));
    let by = |by: &[By]| UsageQuery { by: Some(by.to_vec()), ..UsageQuery::default() };
    assert_eq!(asked(UsageQuery::default()), Table::Lifetimes, "by bottle, as is usual");
    assert_eq!(asked(UsageQuery { since: Some(1), ..UsageQuery::default() }), Table::Sums);
    assert_eq!(asked(UsageQuery { until: Some(1), ..UsageQuery::default() }), Table::Sums);
    assert_eq!(asked(UsageQuery { period: Some(Slice::Day), ..by(&[By::Bottle]) }), Table::Sums);
    assert_eq!(asked(by(&[By::Run])), Table::Lifetimes);
    assert_eq!(asked(UsageQuery { period: Some(Slice::Session), ..by(&[]) }), Table::Lifetimes);
    assert_eq!(asked(UsageQuery { bottle: Some("b".to_owned()), ..by(&[]) }), Table::Lifetimes);
    assert_eq!(asked(UsageQuery { run: Some("r".to_owned()), ..by(&[]) }), Table::Lifetimes);
    let all = [By::Agent, By::Provider, By::Model, By::Recipe];
    assert_eq!(asked(UsageQuery { provider: Some("p".to_owned()), ..by(&all) }), Table::Totals);
}

#[test]
fn a_recipe_that_gets_another_name_has_it_in_both() {
    let used = |ts, run| Use {
        ts,
        bottle: 0,
        agent: 0,
        provider: 0,
        model: None,
        run: Some(run),
        exact: true,
        tokens: 10,
        late: None,
    };
    let conn = book(&[used(BEGIN, 0), used(BEGIN + 1, 1), used(BEGIN + QUARTER, 2), used(BEGIN + QUARTER, 1)], 4);
    let query = UsageQuery { by: Some(vec![By::Recipe]), ..UsageQuery::default() };
    let recipes = || -> Vec<(String, u64)> {
        let by = rows_of(&query);
        let of_totals = usage_from(&conn, &query, &by, Table::Totals).unwrap();
        assert_eq!(of_totals, usage_from(&conn, &query, &by, Table::Sums).unwrap());
        of_totals.rows.into_iter().map(|row| (row.recipe.unwrap(), row.total.requests)).collect()
    };
    assert_eq!(recipes(), [("nightly".to_owned(), 3), ("review".to_owned(), 1)]);
    conn.execute("UPDATE runs SET recipe = 'review' WHERE id = 'r1'", []).unwrap();
    sums::renamed(&conn, "r1").unwrap();
    assert_eq!(recipes(), [("nightly".to_owned(), 1), ("review".to_owned(), 3)]);
}
