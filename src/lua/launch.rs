//! `bb.launch`: from a table of options to a running bottle.
//!
//! The steps are functions of their own: read the options, check the grants, let the provider file make a plan, check the
//! budget rule, put in the rehearsal, send.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlua::{Lua, Value};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::credentials::fetch;
use super::grants::Grant;
use super::host::{Host, Link};
use super::images;
use super::limits::LimitOptions;
use super::rehearse::stage;
use super::values::{Budget, Span, options};
use super::vm::Plain;
use crate::api::{self, File, Origin, OriginKind, Route, WorkspaceMode};
use crate::bottle::backend::{Choice, found};
use crate::egress::route::{RouteError, canonical};
use crate::error::{Error, Kind, Result};
use crate::image::{self, Said, Wanted};
use crate::provider::{self, Plan, Provider, Purse, Search, Wish};
use crate::settings::{Settings, Sources};
use crate::terminal;
use crate::types::{CutScope, CutoffPolicy};
use crate::yaml::read::joined;

const CALL: &str = "bb.launch";

/// A route in the options: a host name, or a whole entry.
enum RouteOption {
    Host(String),
    Entry(Box<Route>),
}

impl<'de> Deserialize<'de> for RouteOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Not `untagged`: that would swallow the name of an unknown key.
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = RouteOption;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a host name or a route's table")
            }
            fn visit_str<E: de::Error>(self, host: &str) -> std::result::Result<RouteOption, E> {
                Ok(RouteOption::Host(host.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<RouteOption, A::Error> {
                let route = Route::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(RouteOption::Entry(Box::new(route)))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The options of `bb.launch`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    provider: Option<String>,
    command: Option<Vec<String>>,
    prompt: Option<String>,
    instructions: Option<String>,
    args: Vec<String>,
    output: Option<provider::OutputForm>,
    label: Option<String>,
    agent: Option<String>,
    workspace: Option<String>,
    workspace_mode: Option<WorkspaceMode>,
    limits: Option<LimitOptions>,
    budget: Option<Budget>,
    shutdown: Option<CutoffPolicy>,
    cutoff_scope: Option<CutScope>,
    timeout: Option<Span>,
    routes: Vec<RouteOption>,
    routes_only: bool,
    proxy: bool,
    env: BTreeMap<String, String>,
    files: Vec<File>,
    detach: bool,
    terminal: bool,
    backend: Option<String>,
    image: Option<String>,
    dockerfile: Option<String>,
    build_args: image::Args,
}

/// What the prelude makes a handle of.
#[derive(Serialize)]
pub(super) struct Launched {
    slug: String,
    label: String,
    provider: String,
    workspace: String,
}

/// `bb.launch{...}`.
pub(super) async fn launch(lua: Lua, host: Rc<Host>, value: Value) -> Result<Plain<Launched>> {
    host.grants.need(&Grant::Launch, CALL)?;
    let mut options: Options = options(&lua, CALL, value)?;
    let asked = std::mem::take(&mut options.routes);
    let provider = provider::load(&provider_name(&options)?, &host.home)?;
    let workspace = workspace(&host, options.workspace.as_deref())?;
    let stage = stage(&host)?;
    let backend = backend(&host, options.backend.take())?;
    let wish = Wish {
        prompt: options.prompt.clone(),
        command: options.command.clone().unwrap_or_default(),
        args: options.args.clone(),
        output: options.output.unwrap_or_default(),
        rehearsal: stage.is_some(),
        instructions: options.instructions.clone(),
        in_image: backend == Some(Choice::Docker),
        sources: sources(&host),
        ..Wish::default()
    };
    let plan = provider.plan(&wish, &|name| std::env::var(name).ok())?;
    let named = options.image.is_some() || options.dockerfile.is_some();
    let (routes, purse) = allow_list(&host, &provider, &plan, asked, options.routes_only, &wish)?;
    if let Some(budget) = &options.budget {
        budget.check_providers(CALL, &provider::names(&host.home))?;
    }
    check_settings(&host)?;
    let image = match backend {
        Some(Choice::Docker) => image(&host, &options, &provider_name(&options)?, workspace.as_deref())?,
        _ => None,
    };
    let link = host.link().await?;
    check_budget(&host, link, &options, &plan.budget_key, &routes).await?;
    let mut credentials = purse.values.clone();
    let mut given = fetch(&purse.later, &wish.sources).await?;
    credentials.append(&mut given);

    let label = options.label.clone().unwrap_or_else(|| options.agent.clone().unwrap_or_else(|| plan.provider.clone()));
    let mut env = plan.env;
    if options.terminal && host.terminal {
        env.extend(terminal::environment());
    }
    env.extend(options.env);
    let mut files = plan.files;
    files.extend(options.files);
    let body = api::Launch {
        id: uuid::Uuid::now_v7().to_string(),
        label: label.clone(),
        run: Some(host.run_id.clone()),
        lease: (!options.detach).then(|| host.run_id.clone()),
        book: host.book.get(),
        provider: plan.budget_key,
        count_tokens: plan.counted_by,
        agent: options.agent,
        argv: plan.argv,
        env,
        files,
        workspace: workspace.map(|p| p.display().to_string()),
        workspace_mode: options.workspace_mode,
        limits: options.limits.map(api::Limits::from),
        origins: origins(&routes, &plan.routes, &plan.quiet, &plan.provider),
        routes,
        proxy: options.proxy,
        credentials,
        logins: purse.logins,
        budget: options.budget.map(|b| b.0).unwrap_or_default(),
        shutdown: options.shutdown,
        cutoff_scope: options.cutoff_scope,
        timeout_ms: options.timeout.map(|Span(span)| span.as_millis() as u64),
        upstreams: stage.map(|s| s.upstreams()).unwrap_or_default(),
        host_path: std::env::var("PATH").ok(),
        terminal: options.terminal.then(|| terminal::size().unwrap_or_default().usable()),
        backend: backend.map(|choice| choice.as_str().to_owned()),
        image: image.as_ref().map(|wanted| wanted.name().to_owned()).or(options.image),
        engine: std::env::var("DOCKER_HOST").ok().filter(|_| backend == Some(Choice::Docker)),
        ..api::Launch::default()
    };
    if let Some(wanted) = image {
        images::ready(&host, wanted, body.engine.clone(), named).await?;
    }
    let since = host.pump.position();
    let bottle = link.client.launch(&body).await?;
    Ok(Plain(launched(&host, &bottle, label, since)))
}

/// Says what a bottle that was launched lacks, and remembers it. `since` is where its first event may be.
pub(super) fn launched(host: &Host, bottle: &api::Bottle, label: String, since: u64) -> Launched {
    for warning in &bottle.warnings {
        host.out.log("warn", &format!("a limit is not enforced: {warning}"));
    }
    // A cut may have been read before the launch was answered; what is known already stays.
    host.bottles.borrow_mut().entry(bottle.slug.clone()).or_default().since = since;
    let (slug, provider, workspace) = (bottle.slug.clone(), bottle.provider.clone(), bottle.workspace.clone());
    Launched { slug, label, provider, workspace }
}

/// Chooses the backend: the recipe's, else the environment's, else the host's setting, else the best that works here.
fn backend(host: &Host, asked: Option<String>) -> Result<Option<Choice>> {
    let variable = || std::env::var("BOT_BOTTLE_BACKEND").ok().filter(|name| !name.is_empty());
    // What is wrong with the settings is said by the controller, with everything else.
    let setting = || Settings::load(&host.home).ok().and_then(|settings| settings.backend);
    let said = asked.or_else(variable).or_else(setting);
    said.map_or_else(|| Ok(Some(found(&host.home))), |name| Choice::parse(&name).map(Some))
}

/// Decides what a container engine makes the bottle of: what the recipe says, the host's settings, else the provider's own
/// Dockerfile. A Dockerfile of the recipe's choice runs what it says with this machine's registries at hand.
fn image(host: &Host, options: &Options, provider: &str, workspace: Option<&Path>) -> Result<Option<Wanted>> {
    let said = match Said::of(options.image.as_deref(), options.dockerfile.as_deref())? {
        Some(said) => Some(said),
        // What is wrong with the settings is said by the controller, with everything else.
        None => Settings::load(&host.home).ok().map(|settings| Said::by_settings(&settings)).transpose()?.flatten(),
    };
    if options.dockerfile.is_some() || !options.build_args.is_empty() {
        host.grants.need(&Grant::Image, CALL)?;
    }
    let user_home = super::manifest::user_home();
    let desk = image::Desk { home: &host.home, user_home: user_home.as_deref(), workspace };
    let wanted = image::wanted(said, provider, &desk)?;
    wanted.map(|wanted| wanted.with_args(options.build_args.clone())).transpose()
}

/// Gets the provider that was meant.
fn provider_name(options: &Options) -> Result<String> {
    let usage = |message: &str, hint: &str| Err(Error::new(Kind::Usage, message).hint(hint));
    match (&options.provider, &options.command) {
        (Some(name), Some(_)) if name == "command" => Ok(name.clone()),
        (Some(_), Some(_)) => usage("bb.launch got both a provider and a command", "leave one of them out"),
        (None, None) => usage("bb.launch needs a provider or a command", "write provider = \"claude\""),
        (Some(name), None) => Ok(name.clone()),
        (None, Some(_)) => Ok("command".into()),
    }
}

/// Checks that the recipe may hand out this workspace; returns it absolute, with links resolved.
fn workspace(host: &Host, given: Option<&str>) -> Result<Option<PathBuf>> {
    let Some(given) = given else { return Ok(None) };
    let path = Path::new(given).canonicalize().map_err(|e| {
        Error::new(Kind::Usage, format!("the workspace cannot be used: {e}"))
            .at(given)
            .hint("make the directory first, or leave 'workspace' out for a scratch one")
    })?;
    host.grants.need_write(&path, host.args.has_value(given), CALL)?;
    Ok(Some(path))
}

/// Makes the allow-list: the provider's routes and the recipe's. The provider's own entry of a host wins; what goes beyond
/// them needs a grant, and so does every credential.
fn allow_list(
    host: &Host,
    provider: &Provider,
    plan: &Plan,
    asked: Vec<RouteOption>,
    only: bool,
    wish: &Wish,
) -> Result<(Vec<Route>, Purse)> {
    let lookup = |name: &str| std::env::var(name).ok();
    let search = Search { lookup: &lookup, sources: &wish.sources, rehearsal: wish.rehearsal };
    let mut routes = if only { Vec::new() } else { plan.routes.clone() };
    let mut credentials = plan.credentials.clone();
    for option in asked {
        let route = match option {
            RouteOption::Host(host) => Route { host, ..Route::default() },
            RouteOption::Entry(route) => *route,
        };
        if let Some(advice) = route.advice() {
            let message = format!("the route '{}' is not a host name", route.host);
            return Err(Error::new(Kind::Usage, message).at("routes").hint(advice));
        }
        if route.oauth.is_some() {
            let message = "'oauth' of a route is the provider's own to say";
            return Err(Error::new(Kind::Usage, message).at(format!("route {}", route.host)).hint("leave it out"));
        }
        let wrong = |e: RouteError| Error::new(Kind::Usage, e.to_string()).at("routes");
        let route = Route { host: canonical(&route.host).map_err(wrong)?, ..route };
        if let Some(own) = plan.routes.iter().find(|own| own.host == route.host) {
            if !routes.iter().any(|r| r.host == own.host) {
                routes.push(own.clone());
            }
            // What the recipe refuses is refused there as well.
            routes.iter_mut().filter(|r| r.host == route.host).for_each(|r| r.narrow_by(&route));
            continue;
        }
        host.grants.need(&Grant::Egress(route.host.clone()), CALL)?;
        for net in &route.allow_private {
            host.grants.need(&Grant::Egress(net.to_string()), CALL)?;
        }
        if let Some(auth) = &route.auth {
            host.grants.need(&Grant::Credential(auth.credential.clone()), CALL)?;
            // A provider's credential goes to the provider's hosts and nowhere else.
            if provider.credential_names().contains(&auth.credential.as_str()) {
                let message = format!("the credential '{}' belongs to the provider's own routes", auth.credential);
                return Err(Error::new(Kind::Usage, message).at(format!("route {}", route.host)));
            }
            credentials.put(&auth.credential, search.resolve(&auth.credential)?);
        }
        routes.push(route);
    }
    let quiet = plan.quiet.iter().filter(|quiet| !routes.iter().any(|r| r.host == quiet.host));
    let quiet: Vec<Route> = quiet.cloned().collect();
    routes.extend(quiet);
    let names = |route: &Route, name: &str| route.auth.as_ref().is_some_and(|auth| auth.credential == name);
    credentials.retain(|name| routes.iter().any(|r| names(r, name) || r.oauth.as_deref() == Some(name)));
    // What is wrong with the settings is said by the controller.
    let proxy = Settings::load(&host.home).unwrap_or_default().upstream_proxy;
    search.put_upstream_proxy(proxy.as_ref(), &mut credentials)?;
    Ok((routes, credentials))
}

/// Gets where each entry comes from: the provider, which the recipe may have narrowed, or the recipe.
fn origins(routes: &[Route], own: &[Route], quiet: &[Route], provider: &str) -> Vec<Origin> {
    let of = |route: &Route| match own.iter().chain(quiet).find(|own| own.host == route.host) {
        Some(own) => {
            let narrowed_by = if own == route { vec![] } else { vec!["the launch".to_owned()] };
            Origin { narrowed_by, ..Origin::new(OriginKind::Provider, Some(provider.to_owned())) }
        }
        None => Origin::default(),
    };
    routes.iter().map(of).collect()
}

/// Gets where the settings say that credentials lie. What is wrong with the settings is said by the controller.
fn sources(host: &Host) -> Sources {
    let settings = Settings::load(&host.home).unwrap_or_default();
    settings.credentials.for_user(super::manifest::user_home().as_deref())
}

/// A limit of the host that is for nobody would bind nobody. What else is wrong with the settings is said by the controller.
fn check_settings(host: &Host) -> Result<()> {
    let Ok(settings) = Settings::load(&host.home) else { return Ok(()) };
    let unknown = crate::launch::unknown_in_settings(&settings, &host.home);
    if unknown.is_empty() { Ok(()) } else { Err(joined(unknown)) }
}

/// No budget anywhere is metered all the same; at a terminal that is said, without one it must have been said aloud.
async fn check_budget(host: &Host, link: &Link, options: &Options, key: &str, routes: &[Route]) -> Result<()> {
    let metered = routes.iter().any(|r| r.api.is_some());
    if options.budget.is_some() || !metered {
        return Ok(());
    }
    let governs = |provider: &str| provider == "*" || provider == key;
    if host.run_budget().iter().any(|limit| governs(&limit.provider)) {
        return Ok(());
    }
    let global = link.client.budgets(host.book.get(), Some("global")).await?;
    if global.iter().any(|account| account.set && governs(&account.provider)) {
        return Ok(());
    }
    if host.terminal {
        host.out.log("warn", "no budget governs this bottle: it is metered, and nothing will cut it off");
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "no budget governs this bottle, and nobody is there to be told")
        .hint("give it budget = \"200k\", or say budget = \"unlimited\" aloud"))
}

/// One provider as `bb.providers()` lists it.
#[derive(Serialize)]
pub(super) struct Listed {
    name: String,
    /// What it runs, found on this machine.
    path: Option<String>,
}

/// `bb.providers()`.
pub(super) fn providers(_: &Lua, host: &Rc<Host>, (): ()) -> Result<Plain<Vec<Listed>>> {
    let names = provider::names(&host.home);
    let listed = names.into_iter().map(|name| {
        let provider = provider::load(&name, &host.home)?;
        Ok(Listed { path: provider.found().map(|p| p.display().to_string()), name })
    });
    listed.collect::<Result<_>>().map(Plain)
}
