//! `bb budget`: how budgets stand, and the operator's changes of them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::{Account, BudgetAct, BudgetChange, BudgetPath, PathAccount, Period};
use crate::budget::{has_name, parse_amount, scope_of};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::ledger::GLOBAL;
use crate::provider;
use crate::types::Book;

use super::out::{self, Table, grouped};

/// Show budgets and change them.
///
/// A budget is named by a bottle's slug (its own), by `global`, or as `bb budget show` names it: agent:NAME and manifest:NAME
/// count by name over launches, agent:NAME@ID and manifest:NAME@ID for one launch, run:ID for one bb run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the budgets of the host, of agents and manifests by name, or the whole path of a bottle
    ///
    /// Of a bottle, the nearest first: what governs, what binds because it is hard, what is used, held and left, and when it
    /// resets. With --json one object: {"bottle", "provider", "weights", "accounts": [Account with left, governs, binds]}, or
    /// without a bottle {"accounts": [Account]} (docs/controller-api.md).
    Show(Show),
    /// Set a limit: what was used counts on
    Set(Set),
    /// Add to a limit: until it resets by itself, where it does
    Raise(Raise),
    /// Begin a budget anew now: nothing of it is used
    Reset(Reset),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// A bottle that runs
    #[arg(value_name = "SLUG", add = super::completions::slugs())]
    slug: Option<String>,
    /// Write JSON on stdout
    #[arg(long)]
    json: bool,
    /// Of rehearsals
    #[arg(long)]
    rehearsal: bool,
}

/// Which budget, and why.
#[derive(Debug, clap::Args)]
struct Which {
    /// A bottle's slug, global, agent:NAME, manifest:NAME, or a node of `bb budget show`
    #[arg(value_name = "BUDGET", add = super::completions::slugs())]
    target: String,
    /// The provider that it is for; needed where several have a limit there
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Why: said in the audit row
    #[arg(long)]
    reason: Option<String>,
    /// Of rehearsals
    #[arg(long)]
    rehearsal: bool,
}

#[derive(Debug, clap::Args)]
struct Set {
    #[command(flatten)]
    which: Which,
    /// 200k, 1.5M, unlimited
    amount: String,
    /// Begin anew by itself every day, week or month, or never: lifetime; as it was, where nothing is said
    #[arg(long, value_parser = ["day", "week", "month", "lifetime"])]
    per: Option<String>,
    /// It binds however near another limit is
    #[arg(long)]
    hard: bool,
}

#[derive(Debug, clap::Args)]
struct Raise {
    #[command(flatten)]
    which: Which,
    /// How much more: 200k, 1.5M
    amount: String,
}

#[derive(Debug, clap::Args)]
struct Reset {
    #[command(flatten)]
    which: Which,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        match args.command {
            Command::Show(args) => show(args).await,
            Command::Set(args) => {
                let tokens = amount(&args.amount)?;
                let (per, hard) = (args.per.as_deref().and_then(Period::of), args.hard.then_some(true));
                change(args.which, BudgetAct::Set { tokens, per, hard }).await
            }
            Command::Raise(args) => match amount(&args.amount)? {
                Some(tokens) => change(args.which, BudgetAct::Raise { tokens }).await,
                None => Err(Error::new(Kind::Usage, "a limit is raised by an amount")
                    .hint("`bb budget set BUDGET unlimited` takes it away")),
            },
            Command::Reset(args) => change(args.which, BudgetAct::Reset).await,
        }
    })
}

fn amount(text: &str) -> Result<Option<u64>> {
    parse_amount(text).map_err(|e| Error::new(Kind::Usage, e.to_string()).hint("write 200k, 1.5M or unlimited"))
}

async fn show(args: Show) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    if let Some(slug) = &args.slug {
        let path = client.budget_path(slug).await?;
        if args.json {
            out::json(&path)?;
        } else {
            out::print(drawn(&path, out::colour()).trim_end())?;
        }
        return Ok(0);
    }
    let book = if args.rehearsal { Book::Rehearsal } else { Book::Real };
    let mut accounts = client.budgets(book, None).await?;
    accounts.retain(|account| has_name(&account.node));
    if args.json {
        out::json(&serde_json::json!({ "accounts": accounts }))?;
    } else if accounts.is_empty() {
        out::note("nothing was used, and nothing has a limit");
    } else {
        let mut table = Table::new(&COLUMNS);
        for account in &accounts {
            table.row(cells(account.node.clone(), account, None));
        }
        out::print(table.render(out::colour()).trim_end())?;
    }
    Ok(0)
}

const COLUMNS: [&str; 8] = ["BUDGET", "PROVIDER", ">LIMIT", ">USED", ">HELD", ">LEFT", "COUNTS", "SAYS"];

/// Draws a path: the nearest node first, each scope below the one before it.
fn drawn(path: &BudgetPath, bold: bool) -> String {
    let mut table = Table::new(&COLUMNS);
    let (mut depth, mut last) = (0, "");
    for of in &path.accounts {
        let scope = scope_of(&of.account.node);
        if !last.is_empty() && scope != last {
            depth += 1;
        }
        last = scope;
        let indent = if depth == 0 { String::new() } else { format!("{}└ ", "  ".repeat(depth - 1)) };
        table.row(cells(format!("{indent}{}", of.account.node), &of.account, Some(of)));
    }
    format!("{} (tokens of {}; weights: {})\n{}", path.bottle, path.provider, path.weights, table.render(bold))
}

fn cells(node: String, account: &Account, of: Option<&PathAccount>) -> Vec<String> {
    let limit = match (account.set, account.limit) {
        (false, _) => "-".to_owned(),
        (true, None) => "unlimited".to_owned(),
        (true, Some(limit)) => grouped(limit),
    };
    let left = account.limit.filter(|_| account.set);
    let left = left.map(|limit| grouped(limit.saturating_sub(account.used.saturating_add(account.held))));
    vec![
        node,
        account.provider.clone(),
        limit,
        grouped(account.used),
        grouped(account.held),
        left.unwrap_or_else(|| "-".to_owned()),
        counts(account),
        says(account, of),
    ]
}

/// Says over what it counts, and when it begins anew.
fn counts(account: &Account) -> String {
    let at = account.resets.and_then(|at| Timestamp::from_millisecond(at).ok());
    match (account.per, at) {
        (Some(per), Some(at)) => {
            format!("{}, until {}", per.words(), at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M"))
        }
        _ if account.node == GLOBAL => "for ever".to_owned(),
        _ if has_name(&account.node) => Period::Lifetime.words().to_owned(),
        _ if account.node.starts_with("run:") => "for the run".to_owned(),
        _ => "for the launch".to_owned(),
    }
}

/// Says what else is to be known of it: its part on the path, who said it, its terms.
fn says(account: &Account, of: Option<&PathAccount>) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut say = |word: String| words.push(word);
    match of {
        Some(of) if of.governs => say("governs".to_owned()),
        Some(of) if of.binds => say("binds".to_owned()),
        _ => {}
    }
    if account.set && account.hard {
        say("hard".to_owned());
    }
    if account.by_operator {
        say("set by the operator".to_owned());
    }
    if account.raised > 0 {
        say(format!("raised by {}", grouped(account.raised)));
    }
    let terms = &account.terms;
    if let Some(gate) = terms.gate {
        say(format!("gate {}", word(&crate::api::Gate::WORDS, gate)));
    }
    if let Some(on_cross) = terms.on_cross {
        say(format!("on_cross {}", word(&crate::api::OnCross::WORDS, on_cross)));
    }
    if let Some(kept) = terms.wrap_up {
        say(format!("wrap_up {}", grouped(kept)));
    }
    if let Some(warn) = &terms.warn {
        say(format!("warn {}", warn.iter().map(ToString::to_string).collect::<Vec<_>>().join("/")));
    }
    if terms.tell {
        say("told to the agent".to_owned());
    }
    words.join(", ")
}

/// Gets the word of a value.
fn word<T: PartialEq>(words: &[(&'static str, T)], of: T) -> &'static str {
    words.iter().find(|(_, value)| *value == of).map_or("", |(word, _)| word)
}

/// Changes what is named, and says how it stands then.
async fn change(which: Which, act: BudgetAct) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let given = if which.rehearsal { Book::Rehearsal } else { Book::Real };
    let (node, book, slug) = if which.target == GLOBAL || which.target.contains(':') {
        (which.target.clone(), given, None)
    } else {
        let bottle = client.bottle(&which.target).await?;
        (format!("bottle:{}", bottle.account.unwrap_or(bottle.id)), bottle.book, Some(bottle.slug))
    };
    let accounts = client.budgets(book, Some(&node)).await?;
    let limited: Vec<&str> = accounts.iter().filter(|a| a.set).map(|a| a.provider.as_str()).collect();
    let sets = matches!(act, BudgetAct::Set { .. });
    let provider = match (which.provider, limited.as_slice()) {
        (Some(provider), _) => {
            known_provider(&provider, &home, &accounts)?;
            provider
        }
        (None, [one]) => (*one).to_owned(),
        (None, []) if sets => "*".to_owned(),
        (None, []) => return Err(no_limit(&client, &node, slug.as_deref()).await),
        (None, several) => {
            return Err(Error::new(Kind::Usage, format!("{node} has a limit for each of {}", several.join(", ")))
                .hint("say which with --provider"));
        }
    };
    let id = uuid::Uuid::now_v7().to_string();
    let change = BudgetChange { id, book, node, provider, change: act, reason: which.reason };
    let account = client.change_budget(&change).await?;
    let mut table = Table::new(&COLUMNS);
    table.row(cells(account.node.clone(), &account, None));
    out::print(table.render(out::colour()).trim_end())?;
    Ok(0)
}

/// Refuses a name that no provider has: a slip would be a budget for nobody.
fn known_provider(name: &str, home: &Home, accounts: &[Account]) -> Result<()> {
    let known = provider::names(home);
    if name == "*" || known.iter().any(|of| of == name) || accounts.iter().any(|of| of.provider == name) {
        return Ok(());
    }
    let hint = match crate::error::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("providers are: {}", known.join(", ")),
    };
    let shown: String = name.chars().take(60).collect();
    Err(Error::new(Kind::UnknownKey, format!("`{shown}` is no provider")).at("--provider").hint(hint))
}

/// Says that there is nothing to change, and which budget there is.
async fn no_limit(client: &Client, node: &str, slug: Option<&str>) -> Error {
    let error = Error::new(Kind::Usage, format!("{node} has no limit"));
    let path = match slug {
        Some(slug) => client.budget_path(slug).await.ok(),
        None => None,
    };
    let governs = path.and_then(|path| path.accounts.into_iter().find(|of| of.binds));
    match governs {
        Some(of) => error.hint(format!("what holds there is {} (for {})", of.account.node, of.account.provider)),
        None => error.hint("`bb budget set` gives it one"),
    }
}
