//! Reports for people and for spreadsheets. Decides nothing but form.

use super::prices::money;
use super::rate::lasting;
use super::view::{Row, Shaped, View};
use crate::api::{By, Slice, UsageTotal, Window};
use crate::cli::out::{Table, grouped};
use crate::types::Book;

/// The head of a column, and its word in CSV.
fn named(by: By) -> (&'static str, &'static str) {
    match by {
        By::Bottle => ("BOTTLE", "bottle"),
        By::Agent => ("AGENT", "agent"),
        By::Provider => ("PROVIDER", "provider"),
        By::Model => ("MODEL", "model"),
        By::Recipe => ("RECIPE", "recipe"),
        By::Run => ("RUN", "run"),
    }
}

fn cell(row: &Row, by: By) -> String {
    let row = &row.row;
    match by {
        By::Bottle => row.bottle.clone(),
        By::Agent => row.agent.clone(),
        By::Provider => row.provider.clone(),
        By::Model => row.model.clone(),
        By::Recipe => row.recipe.clone().unwrap_or_default(),
        By::Run => row.run.clone().unwrap_or_default(),
    }
}

/// Writes one book for people.
pub(super) fn section(book: Book, shaped: &Shaped, view: &View, weights: &str, bold: bool) -> String {
    let name = match book {
        Book::Real => "Real usage",
        Book::Rehearsal => "Rehearsals (no cost)",
    };
    let budgets = budgets(shaped);
    if shaped.rows.is_empty() {
        return format!("{name}: none\n{budgets}");
    }
    let table = if view.is_usual() { usual(shaped, view) } else { asked(shaped, view) };
    format!("{name} (tokens; weights today: {weights})\n{}{budgets}", table.render(bold))
}

/// The report without any words.
fn usual(shaped: &Shaped, view: &View) -> Table {
    let mut head =
        vec!["BOTTLE", "AGENT", "PROVIDER", "MODEL", ">REQUESTS", ">INPUT", ">CACHE-READ", ">CACHE-WRITE", ">OUTPUT"];
    head.extend([">REASONING", ">COUNTED", ">ESTIMATED"]);
    head.extend(view.prices.as_ref().map(|_| ">COST"));
    let mut table = Table::new(&head);
    let figures = |t: &UsageTotal, cost: Option<u64>| {
        let all = [t.requests, t.input, t.cache_read, t.cache_write, t.output, t.reasoning, t.counted, t.estimated];
        all.map(grouped).into_iter().chain(cost.map(money)).collect::<Vec<_>>()
    };
    for row in &shaped.rows {
        let names = view.columns().into_iter().map(|by| cell(row, by));
        table.row(names.chain(figures(&row.row.total, row.cost)).collect());
    }
    let names = ["total", "", "", ""].map(str::to_owned);
    table.row(names.into_iter().chain(figures(&shaped.total, shaped.cost)).collect());
    table
}

/// A report by time, or by what was asked.
fn asked(shaped: &Shaped, view: &View) -> Table {
    let columns = view.columns();
    let models = !columns.contains(&By::Model);
    let mut head = vec![];
    head.extend(view.period.map(|period| match period {
        Slice::Day => "DATE",
        Slice::Week => "WEEK",
        Slice::Month => "MONTH",
        Slice::Session => "LAST-USED",
        Slice::Block => "BLOCK",
    }));
    head.extend(columns.iter().map(|by| named(*by).0));
    head.extend(models.then_some("MODELS"));
    let names = head.len();
    head.extend([">REQUESTS", ">INPUT", ">OUTPUT", ">CACHE-WRITE", ">CACHE-READ", ">TOTAL", ">COUNTED", ">EST%"]);
    head.extend(view.prices.as_ref().map(|_| ">COST"));
    let mut table = Table::new(&head);
    let figures = |t: &UsageTotal, cost: Option<u64>| {
        let all = [t.requests, t.input, t.output, t.cache_write, t.cache_read, tokens(t), t.counted].map(grouped);
        all.into_iter().chain([share(t)]).chain(cost.map(money)).collect::<Vec<_>>()
    };
    for row in &shaped.rows {
        let mut cells: Vec<String> = row.label.iter().cloned().collect();
        cells.extend(columns.iter().map(|by| cell(row, *by)));
        cells.extend(row.models.as_ref().map(|models| models.iter().cloned().collect::<Vec<_>>().join(", ")));
        cells.extend(figures(&row.row.total, row.cost));
        table.row(cells);
    }
    let mut cells = vec![String::new(); names];
    if let Some(first) = cells.first_mut() {
        *first = "total".to_owned();
    }
    cells.extend(figures(&shaped.total, shaped.cost));
    table.row(cells);
    table
}

/// All tokens, as they are.
fn tokens(total: &UsageTotal) -> u64 {
    total.input + total.output + total.cache_write + total.cache_read
}

/// The share of requests whose figures are estimates, rounded up: some is never none.
pub(super) fn share(total: &UsageTotal) -> String {
    format!("{}%", (total.estimated * 100).div_ceil(total.requests.max(1)))
}

/// Writes how much of a provider's own limit is used, and when it begins anew, from when that was said.
pub(in crate::cli) fn headroom(window: &Window, seen: i64) -> String {
    let resets =
        window.resets.and_then(|at| u64::try_from(at - seen).ok()).map(|ms| format!(" (anew in {})", lasting(ms)));
    format!("{} {}.{}% used{}", window.name, window.used / 10, window.used % 10, resets.unwrap_or_default())
}

/// What is told below a table: the block that runs, limits, prices that are missing.
fn budgets(shaped: &Shaped) -> String {
    let mut text = String::new();
    if let Some(block) = &shaped.block {
        let (counted, rate, projected) = (grouped(block.counted), grouped(block.per_minute), grouped(block.projected));
        text.push_str(&format!(
            "this block: {counted} counted, {rate} a minute, {projected} at its end if it goes on so\n"
        ));
    }
    for budget in &shaped.budgets {
        let provider = if budget.provider == "*" { "all providers" } else { &budget.provider };
        let lasts = budget.lasts.map(|ms| format!("; lasts {} at {} an hour", lasting(ms), grouped(budget.per_hour)));
        let (left, limit) = (grouped(budget.left), grouped(budget.limit));
        let node = if budget.node == crate::ledger::GLOBAL { "budget" } else { &budget.node };
        text.push_str(&format!("{node} for {provider}: {left} of {limit} left{}\n", lasts.unwrap_or_default()));
    }
    for said in &shaped.headroom {
        let windows: Vec<String> = said.windows.iter().map(|window| headroom(window, said.seen)).collect();
        text.push_str(&format!("{} says to {}: {}\n", said.host, said.provider, windows.join(", ")));
    }
    if !shaped.unpriced.is_empty() {
        let names: Vec<&str> = shaped.unpriced.iter().map(String::as_str).collect();
        text.push_str(&format!("no price for: {}\n", names.join(", ")));
    }
    crate::printable::printable(&text, false)
}

/// Writes reports as CSV (RFC 4180 less its line ends), with a head.
pub(super) fn csv(view: &View, reports: &[(Book, Shaped)]) -> Vec<String> {
    let columns = view.columns();
    let mut head = vec!["book"];
    head.extend(view.period.map(|_| "period"));
    head.extend(columns.iter().map(|by| named(*by).1));
    head.extend(["requests", "input", "output", "cache_write", "cache_read", "reasoning", "counted", "estimated"]);
    head.extend(view.prices.as_ref().map(|_| "cost"));
    let mut lines = vec![head.join(",")];
    for (book, shaped) in reports {
        let book = if *book == Book::Real { "real" } else { "rehearsal" };
        for row in &shaped.rows {
            let t = &row.row.total;
            let figures =
                [t.requests, t.input, t.output, t.cache_write, t.cache_read, t.reasoning, t.counted, t.estimated];
            let cells = std::iter::once(book.to_owned())
                .chain(row.label.clone())
                .chain(columns.iter().map(|by| cell(row, *by)))
                .chain(figures.map(|figure| figure.to_string()))
                .chain(row.cost.map(|cost| format!("{}.{:06}", cost / 1_000_000, cost % 1_000_000)));
            lines.push(cells.map(quoted).collect::<Vec<_>>().join(","));
        }
    }
    lines
}

/// Quotes a cell where it has to be. One that a spreadsheet would take for a formula is made a text: an agent chose some of them.
fn quoted(cell: String) -> String {
    let cell = cell.replace(['\n', '\r'], " ");
    let cell = if cell.starts_with(['=', '+', '-', '@', '\t']) { format!("'{cell}") } else { cell };
    if cell.contains(['"', ',']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::api::{Span, UsageReport, UsageRow};
    use crate::cli::usage::rate::Budget;

    pub fn report() -> UsageReport {
        let total = UsageTotal {
            requests: 3,
            input: 1200,
            cache_read: 30_000,
            cache_write: 500,
            output: 900,
            reasoning: 100,
            counted: 5600,
            estimated: 1,
        };
        let row = UsageRow {
            bottle: "fix-42".into(),
            agent: "claude".into(),
            provider: "claude".into(),
            model: "m\x1b[2J".into(),
            total,
            ..UsageRow::default()
        };
        UsageReport { rows: vec![row], total }
    }

    #[test]
    fn each_book_has_a_heading_its_weights_and_a_total() {
        let view = View::default();
        let shaped = view.shaped(report(), &TimeZone::UTC);
        let text = section(Book::Real, &shaped, &view, "cache_read 0.1", false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Real usage (tokens; weights today: cache_read 0.1)");
        assert!(lines[2].starts_with("fix-42  claude  claude    m\\x1b[2J "), "{text}");
        assert!(lines[2].ends_with("5,600          1"), "{text}");
        assert!(lines[3].starts_with("total ") && lines[3].contains("30,000"), "{text}");
        let none = section(Book::Rehearsal, &Shaped::default(), &view, "raw", false);
        assert_eq!(none, "Rehearsals (no cost): none\n");
    }

    /// Two models on one day: 2026-03-01.
    fn day() -> (View, Shaped) {
        let view = View::new(Some(Slice::Day), std::iter::empty(), None);
        let mut two = report();
        two.rows.push(UsageRow { model: "a,\"b".into(), ..two.rows[0].clone() });
        two.total.add(&report().total);
        for row in &mut two.rows {
            let first = 1_772_323_200_000;
            row.span = Some(Span { start: first, end: first + 86_400_000, first, last: first });
            row.bottle.clear();
        }
        let shaped = view.shaped(two, &TimeZone::UTC);
        (view, shaped)
    }

    #[test]
    fn a_day_is_one_row_with_its_models_and_the_share_of_estimates() {
        let (view, mut shaped) = day();
        let budget = Budget {
            node: "global".into(),
            provider: "*".into(),
            limit: 9000,
            used: 6000,
            held: 0,
            left: 3000,
            per_hour: 1000,
            lasts: Some(10_800_000),
        };
        shaped.budgets.push(budget);
        let text = section(Book::Real, &shaped, &view, "raw", false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("DATE        MODELS") && lines[1].ends_with("TOTAL  COUNTED  EST%"), "{text}");
        assert!(lines[2].starts_with("2026-03-01  a,\"b, m\\x1b[2J "), "{text}");
        assert!(lines[2].ends_with("65,200   11,200   34%"), "{text}");
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[4], "budget for all providers: 3,000 of 9,000 left; lasts 3h 0m at 1,000 an hour");
    }

    #[test]
    fn csv_is_quoted_and_has_no_formulas() {
        let (_, shaped) = day();
        let mut by_model = report();
        by_model.rows[0].model = "=cmd,\"x".into();
        let view = View::default();
        let lines = csv(&view, &[(Book::Real, view.shaped(by_model, &TimeZone::UTC))]);
        assert_eq!(
            lines[0],
            "book,bottle,agent,provider,model,requests,input,output,cache_write,cache_read,reasoning,counted,estimated"
        );
        assert_eq!(lines[1], "real,fix-42,claude,claude,\"'=cmd,\"\"x\",3,1200,900,500,30000,100,5600,1");
        let (view, _) = day();
        assert_eq!(csv(&view, &[(Book::Real, shaped)])[1], "real,2026-03-01,6,2400,1800,1000,60000,200,11200,2");
    }
}
