//! The table that a provider file returns, and the VM that makes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mlua::{Function, Lua, LuaOptions, StdLib, Table, Value, Variadic};
use serde::Deserialize;

use crate::api::{AuthScheme, File, LoginForm, Match, Tls};
use crate::egress::route::canonical;
use crate::error::{Error, Kind, Result};
use crate::types::{Api, ApiFamily};

/// How long a provider file (or its `argv`) may run, and how much memory it may use.
const TIME: Duration = Duration::from_millis(500);
const MEMORY: usize = 32 << 20;

/// The word for counting by estimate.
const ESTIMATE: &str = "estimate";

/// The globals of a provider file: nothing that reads or writes anything.
const GLOBALS: [&str; 16] = [
    "append", "assert", "error", "ipairs", "math", "next", "pairs", "pcall", "select", "string", "table", "tonumber",
    "tostring", "type", "unpack", "utf8",
];

/// A provider, ready to plan launches.
pub struct Provider {
    pub(super) spec: Spec,
    pub(super) argv: Argv,
    pub(super) vm: Lua,
    /// Where it was read from, for errors.
    pub(super) place: String,
}

/// How the command line is made.
pub(super) enum Argv {
    /// Words; the word `{prompt}` stands for the prompt and `{exe}` for what is run.
    List(Vec<String>),
    /// A function from the context to the words.
    Function(Function),
}

/// The plain part of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    /// The file's own name.
    pub name: String,
    /// What must be on the machine: a name that is looked up in PATH, or `{bb}` for this binary. Nothing when absent.
    #[serde(default)]
    pub exe: Option<String>,
    /// How to get it.
    #[serde(default)]
    pub install: Option<String>,
    /// Variables set in the bottle.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files put into the bottle.
    #[serde(default)]
    pub files: Vec<File>,
    /// For each credential its alternatives; the first one that the host's environment has is used.
    #[serde(default)]
    pub credentials: BTreeMap<String, Vec<Alternative>>,
    /// The allow-list.
    #[serde(default)]
    pub routes: Vec<SpecRoute>,
    /// Hosts that are refused without noise.
    #[serde(default)]
    pub quiet_hosts: Vec<String>,
    /// The key that its usage is charged to; the name when absent.
    #[serde(default)]
    pub budget_key: Option<String>,
    /// The file that its CLI reads standing instructions from; `argv` gives them to the CLI when absent.
    #[serde(default)]
    pub instructions: Option<String>,
    /// The directory that its CLI looks for skills in; it knows none when absent.
    #[serde(default)]
    pub skills: Option<String>,
    /// What has to be kept for a session to be continued.
    #[serde(default)]
    pub transcript: Vec<String>,
    /// Its `argv` can continue a session.
    #[serde(default)]
    pub resumes: bool,
    /// Who counts the tokens of a request before it leaves: `estimate`, or the API whose counting endpoint does.
    #[serde(default)]
    pub count_tokens: Option<String>,
    /// Where its CLI is told of MCP servers; it knows none when absent.
    #[serde(default)]
    pub mcp: Option<Mcp>,
}

/// Where a CLI is told of MCP servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mcp {
    /// The file, below the bottle's home.
    pub file: String,
    /// The key of the file's top level that holds them, by name.
    pub key: String,
}

/// One way to have a credential: a value that is put in, or a login of the host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alternative {
    /// The variable of the host's environment that has the value.
    #[serde(default)]
    pub env: Option<String>,
    /// What stands in the bottle instead, of the same shape.
    #[serde(default)]
    pub placeholder: Option<String>,
    /// How its values begin, where that tells them from those of the other alternatives.
    #[serde(default)]
    pub prefix: Option<String>,
    /// The variables of the bottle that get the placeholder; `env` itself when absent.
    #[serde(default)]
    pub set: Option<Vec<String>>,
    /// How it is written into requests.
    #[serde(default)]
    pub scheme: Option<AuthScheme>,
    /// The header of scheme `header`.
    #[serde(default)]
    pub header: Option<String>,
    /// In place of all these: the login that a CLI keeps on the host, which renews it.
    #[serde(default)]
    pub login: Option<LoginForm>,
    /// More files of the bottle, where this alternative is used.
    #[serde(default)]
    pub files: Vec<File>,
    /// More routes, where this alternative is used.
    #[serde(default)]
    pub routes: Vec<SpecRoute>,
}

impl Alternative {
    /// Says what is wrong with it, if something is.
    fn fault(&self) -> Option<&'static str> {
        let value = [self.env.is_some(), self.placeholder.is_some(), self.scheme.is_some()];
        let beside = self.prefix.is_some() || self.set.is_some() || self.header.is_some();
        match self.login {
            Some(_) if beside || value.contains(&true) => {
                Some("an alternative with 'login' has only 'files' and 'routes' beside it")
            }
            None if value.contains(&false) => Some("an alternative has 'env', 'placeholder' and 'scheme', or 'login'"),
            None if (self.scheme == Some(AuthScheme::Header)) != self.header.is_some() => {
                Some("each alternative of scheme header, and no other, names a header")
            }
            _ => None,
        }
    }
}

/// A route of a provider: as [`crate::api::Route`], with the name of a credential in place of how it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecRoute {
    pub host: String,
    #[serde(default)]
    pub ports: Vec<u16>,
    #[serde(default)]
    pub matches: Vec<Match>,
    #[serde(default)]
    pub api: Option<ApiFamily>,
    #[serde(default)]
    pub server_tools: Vec<String>,
    #[serde(default)]
    pub estimate: Option<u64>,
    #[serde(default)]
    pub quiet: Vec<String>,
    #[serde(default)]
    pub deny: Vec<Match>,
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub allow_private: Vec<IpNet>,
    #[serde(default)]
    pub max_request: Option<u64>,
    #[serde(default)]
    pub max_response: Option<u64>,
    #[serde(default)]
    pub keep_headers: Vec<String>,
    #[serde(default)]
    pub websocket: bool,
    #[serde(default)]
    pub credential: Option<String>,
    /// The credential, one with a login, whose token endpoint this is.
    #[serde(default)]
    pub oauth: Option<String>,
}

/// Runs a provider file and checks what it returns.
pub(super) fn read(name: &str, text: &str, place: &str) -> Result<Provider> {
    let wrong = |message: String| Error::new(Kind::Usage, message).at(place.to_owned());
    let vm = vm().map_err(|e| Error::internal(format!("no VM for a provider: {e}")))?;
    let returned = timed(&vm, || vm.load(text).set_name(format!("@{place}")).eval::<Value>());
    let table = match returned {
        Ok(Value::Table(table)) => table,
        Ok(other) => return Err(wrong(format!("a provider file returns a table, not a {}", other.type_name()))),
        Err(error) => return Err(wrong(fault(&error))),
    };
    let (argv, plain) = split(&vm, &table).map_err(|e| wrong(fault(&e)))?;
    let mut spec: Spec = crate::lua::values::read(&format!("provider {name}"), Value::Table(plain))
        .map_err(|error| error.at(place.to_owned()))?;
    if spec.name != name {
        return Err(wrong(format!("the file of provider '{name}' calls itself '{}'", spec.name)));
    }
    let argv = match argv {
        Value::Function(function) => Argv::Function(function),
        Value::Table(list) => {
            let words = list.sequence_values::<String>().collect::<mlua::Result<Vec<_>>>();
            Argv::List(words.map_err(|e| wrong(fault(&e)))?)
        }
        other => return Err(wrong(format!("'argv' is a list or a function, not a {}", other.type_name()))),
    };
    let listed: Vec<String> = spec.credentials.keys().cloned().collect();
    let with_login = |name: &str, alternatives: &[Alternative]| {
        alternatives.iter().any(|a| a.login.is_some()).then(|| name.to_owned())
    };
    let renewed: Vec<String> = spec.credentials.iter().filter_map(|(name, list)| with_login(name, list)).collect();
    let own = spec.credentials.values_mut().flatten().flat_map(|alternative| &mut alternative.routes);
    for route in spec.routes.iter_mut().chain(own) {
        route.host = canonical(&route.host).map_err(|e| wrong(e.to_string()))?;
        if let Some(credential) = route.credential.iter().chain(&route.oauth).find(|name| !listed.contains(name)) {
            return Err(wrong(format!(
                "route {} names the credential '{credential}', which is not listed",
                route.host
            )));
        }
        if let Some(name) = route.oauth.as_ref().filter(|name| !renewed.contains(name)) {
            return Err(wrong(format!(
                "route {}: 'oauth' names '{name}', which no alternative has a login for",
                route.host
            )));
        }
    }
    for (credential, alternatives) in &spec.credentials {
        if alternatives.is_empty() {
            return Err(wrong(format!("credential '{credential}' has no alternatives")));
        }
        if let Some(fault) = alternatives.iter().find_map(Alternative::fault) {
            return Err(wrong(format!("credential '{credential}': {fault}")));
        }
    }
    let named = spec.instructions.iter().map(|path| ("instructions", path));
    let named = named.chain(spec.skills.iter().map(|path| ("skills", path)));
    let named = named.chain(spec.transcript.iter().map(|path| ("transcript", path)));
    for (key, path) in named.chain(spec.mcp.iter().map(|mcp| ("mcp", &mcp.file))) {
        let below = path.strip_prefix("~/").is_some_and(|rest| {
            rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..") && !rest.contains('\0')
        });
        if !below {
            return Err(wrong(format!("'{key}' names a place in the bottle's home, such as ~/.{name}, not '{path}'")));
        }
    }
    if let Some(path) = spec.instructions.as_ref().filter(|path| spec.files.iter().any(|file| file.path == **path)) {
        return Err(wrong(format!("'instructions' and 'files' both write {path}")));
    }
    if let Some(counter) = &spec.count_tokens
        && counter != ESTIMATE
        && Api::parse(counter).is_none()
    {
        let known = Api::ALL.map(Api::as_str).join(", ");
        return Err(wrong(format!("'count_tokens' is '{ESTIMATE}' or one of {known}, not '{counter}'")));
    }
    Ok(Provider { spec, argv, vm, place: place.to_owned() })
}

/// Takes `argv` off the table, which may be a function and so is nothing for serde.
fn split(vm: &Lua, table: &Table) -> mlua::Result<(Value, Table)> {
    let plain = vm.create_table()?;
    let mut argv = Value::Nil;
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if key.as_string().is_some_and(|k| *k == "argv") {
            argv = value;
        } else {
            plain.set(key, value)?;
        }
    }
    Ok((argv, plain))
}

/// `append(list, ...)`: puts words, and the words of lists, at the end of a list; what is nil is left out.
fn append(list: &Table, words: Variadic<Value>) -> mlua::Result<()> {
    words.into_iter().try_for_each(|word| match word {
        Value::Nil => Ok(()),
        Value::Table(more) => more.sequence_values::<Value>().try_for_each(|word| list.raw_push(word?)),
        word => list.raw_push(word),
    })
}

/// Makes the VM of a provider file.
fn vm() -> mlua::Result<Lua> {
    let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::UTF8, LuaOptions::default())?;
    let globals = lua.globals();
    globals.set("append", lua.create_function(|_, (list, words): (Table, Variadic<Value>)| append(&list, words))?)?;
    let names: Vec<Value> =
        globals.pairs::<Value, Value>().map(|pair| pair.map(|(k, _)| k)).collect::<mlua::Result<_>>()?;
    for name in names {
        if !name.as_string().is_some_and(|n| GLOBALS.iter().any(|g| *n == *g)) {
            globals.set(name, Value::Nil)?;
        }
    }
    lua.set_memory_limit(MEMORY)?;
    lua.sandbox(true)?;
    Ok(lua)
}

/// Runs `work` with a deadline.
pub(super) fn timed<T>(vm: &Lua, work: impl FnOnce() -> mlua::Result<T>) -> mlua::Result<T> {
    let deadline = Instant::now() + TIME;
    vm.set_interrupt(move |_| {
        if Instant::now() > deadline {
            Err(mlua::Error::runtime("it takes too long"))
        } else {
            Ok(mlua::VmState::Continue)
        }
    });
    let result = work();
    vm.remove_interrupt();
    result
}

/// Gets the text of a fault in a provider file, without the VM's own frames.
pub(super) fn fault(error: &mlua::Error) -> String {
    let report = crate::lua::errors::Report::from_vm(error);
    report.error.message
}

impl Provider {
    /// Gets its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Gets the names of its credentials.
    pub fn credential_names(&self) -> Vec<&str> {
        self.spec.credentials.keys().map(String::as_str).collect()
    }

    /// Gets the variables of the host that its credentials may come from.
    pub fn credential_variables(&self) -> Vec<&str> {
        self.spec.credentials.values().flatten().filter_map(|alternative| alternative.env.as_deref()).collect()
    }

    /// Gets the logins of the host that it can work with.
    pub fn logins(&self) -> Vec<LoginForm> {
        self.spec.credentials.values().flatten().filter_map(|alternative| alternative.login).collect()
    }

    /// Gets the directory that its CLI looks for skills in.
    pub fn skills(&self) -> Option<&str> {
        self.spec.skills.as_deref()
    }

    /// Tells whether its CLI can continue a session.
    pub fn resumes(&self) -> bool {
        self.spec.resumes
    }

    /// Gets the name that its usage is charged to.
    pub fn budget_key(&self) -> &str {
        self.spec.budget_key.as_deref().unwrap_or(&self.spec.name)
    }

    /// Gets the API whose endpoint counts the tokens of a request; an estimate has to do where there is none.
    pub fn counted_by(&self) -> Option<Api> {
        self.spec.count_tokens.as_deref().and_then(Api::parse)
    }

    /// Gets where its CLI is told of MCP servers.
    pub fn mcp(&self) -> Option<&Mcp> {
        self.spec.mcp.as_ref()
    }

    /// Finds what it runs on this machine.
    pub fn found(&self) -> Option<PathBuf> {
        match self.spec.exe.as_deref()? {
            "{bb}" => std::env::current_exe().ok(),
            exe => std::env::var_os("PATH").and_then(|path| which(exe, &path)),
        }
    }
}

/// Looks a program up in a PATH.
pub(super) fn which(exe: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |p: &Path| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if exe.contains('/') {
        return Some(PathBuf::from(exe)).filter(|p| runs(p));
    }
    std::env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(exe)).find(|p| runs(p))
}
