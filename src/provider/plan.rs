//! From a provider and a wish to what a launch needs: command line, environment, files, routes, credentials.

use std::collections::BTreeMap;

use mlua::Value;
use serde::{Deserialize, Serialize};

use super::credential::{Purse, Search};
use super::spec::{Alternative, Argv, Provider, SpecRoute, fault, timed};
use crate::api::{Auth, AuthScheme, File, LoginForm, Match, Route};
use crate::egress::oauth::placeholder;
use crate::error::{Error, Kind, Result};
use crate::settings::Sources;
use crate::types::Api;

/// The word of an `argv` list that stands for the prompt. Only a whole word is replaced, so that a prompt reaches the
/// agent as it is.
const PROMPT: &str = "{prompt}";
const EXE: &str = "{exe}";

/// What the agent prints at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputForm {
    /// For people.
    #[default]
    Text,
    /// For programs, where the CLI has such a form.
    Json,
}

/// What is wanted of a provider.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The task, word for word.
    pub prompt: Option<String>,
    /// The user's own command line (provider `command`).
    pub command: Vec<String>,
    /// More arguments for the CLI.
    pub args: Vec<String>,
    /// What it prints.
    pub output: OutputForm,
    /// Credentials that the host lacks are made up: nothing leaves the machine.
    pub rehearsal: bool,
    /// The agent's own interface at a terminal; the prompt, if there is one, is its first message.
    pub interactive: bool,
    /// Standing instructions, beside the agent's own system prompt.
    pub instructions: Option<String>,
    /// The session of before is continued.
    pub resume: bool,
    /// The variable of the host that has the provider's credential, in place of the ones that its file names. (A file
    /// with several credentials gets it for each.)
    pub auth_token: Option<String>,
    /// Where the host's settings say that credentials lie.
    pub sources: Sources,
    /// The bottle is made of an image, which has the agent's CLI; the host need not have it.
    pub in_image: bool,
}

/// What a launch needs of a provider.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The provider.
    pub provider: String,
    /// The key that usage is charged to.
    pub budget_key: String,
    /// The API whose endpoint may count the tokens of a request.
    pub counted_by: Option<Api>,
    /// The command line.
    pub argv: Vec<String>,
    /// Variables, placeholders among them.
    pub env: BTreeMap<String, String>,
    /// Files.
    pub files: Vec<File>,
    /// The allow-list.
    pub routes: Vec<Route>,
    /// Entries that allow nothing and keep the refusals of their hosts quiet.
    pub quiet: Vec<Route>,
    /// The real credentials. For the controller only.
    pub credentials: Purse,
    /// The directory in the bottle that the CLI looks for skills in; it knows none when absent.
    pub skills: Option<String>,
    /// The places in the bottle that have to be kept for the session to be continued.
    pub transcript: Vec<String>,
}

impl Provider {
    /// Plans a launch; `lookup` is the host's environment.
    ///
    /// # Errors
    /// `agent_missing`, `credential_missing`, or `usage` where the file or the wish is wrong.
    pub fn plan(&self, wish: &Wish, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Plan> {
        let exe = self.exe(wish)?;
        let argv = self.command_line(wish, &exe)?;
        let mut env = self.spec.env.clone();
        let search = Search { lookup, sources: &wish.sources, rehearsal: wish.rehearsal };
        let mut credentials = Purse::default();
        let mut chosen: BTreeMap<&str, &Alternative> = BTreeMap::new();
        for (name, alternatives) in &self.spec.credentials {
            let (alternative, found) = match &wish.auth_token {
                Some(variable) => search.named(alternatives, variable)?,
                None => search.choose(self.name(), alternatives)?,
            };
            let own = alternative.env.as_slice();
            for variable in alternative.set.as_deref().unwrap_or(own) {
                env.insert(variable.clone(), alternative.placeholder.clone().unwrap_or_default());
            }
            credentials.put(name, found);
            chosen.insert(name, alternative);
        }
        let mut quiet: Vec<Route> = self.spec.quiet_hosts.iter().map(|host| nothing_of(host)).collect();
        let mut routes = Vec::new();
        for route in self.spec.routes.iter().chain(chosen.values().flat_map(|alternative| &alternative.routes)) {
            match &route.oauth {
                // Of a login that was made up nothing is ever renewed.
                Some(name) if !credentials.logins.contains_key(name) => quiet.push(nothing_of(&route.host)),
                _ => routes.push(planned(route, &chosen)),
            }
        }
        let files = self.files(wish, chosen.values().flat_map(|alternative| of(alternative)));
        Ok(Plan {
            provider: self.spec.name.clone(),
            budget_key: self.budget_key().to_owned(),
            counted_by: self.counted_by(),
            argv,
            env,
            files,
            routes,
            quiet,
            credentials,
            skills: self.spec.skills.clone(),
            transcript: self.spec.transcript.clone(),
        })
    }

    /// Gets the files of the bottle: the provider's own, those of the credentials that were chosen, and the instructions where
    /// its CLI reads them from a file.
    fn files(&self, wish: &Wish, chosen: impl Iterator<Item = File>) -> Vec<File> {
        let own = self.spec.files.iter().cloned().chain(chosen).map(|file| File { fill: true, ..file });
        let said = wish.instructions.iter().zip(&self.spec.instructions);
        own.chain(said.map(|(text, path)| File {
            path: path.clone(),
            text: text.clone(),
            base64: false,
            mode: None,
            fill: false,
        }))
        .collect()
    }

    /// Gets the path of what is run, or the empty string where the file needs nothing.
    fn exe(&self, wish: &Wish) -> Result<String> {
        let Some(exe) = &self.spec.exe else { return Ok(String::new()) };
        if wish.in_image {
            let own = crate::bottle::docker::OWN;
            return Ok(if exe == "{bb}" { own } else { exe }.to_owned());
        }
        let Some(path) = self.found() else {
            let error =
                Error::new(Kind::AgentMissing, format!("{exe}, which provider {} runs, is not in PATH", self.name()));
            return Err(match &self.spec.install {
                Some(install) => error.hint(install.clone()),
                None => error,
            });
        };
        Ok(path.display().to_string())
    }

    fn command_line(&self, wish: &Wish, exe: &str) -> Result<Vec<String>> {
        let wrong = |message: String| Error::new(Kind::Usage, message).at(self.place.clone());
        if wish.resume && !self.spec.resumes {
            return Err(Error::new(Kind::Usage, format!("provider {} cannot continue a session", self.name()))
                .hint("start it anew"));
        }
        let argv = match &self.argv {
            Argv::List(words) => {
                if wish.instructions.is_some() && self.spec.instructions.is_none() {
                    return Err(Error::new(Kind::Usage, format!("provider {} takes no instructions", self.name()))
                        .hint("say in its file where its CLI reads them: instructions = \"~/...\""));
                }
                let takes_prompt = words.iter().any(|w| w == PROMPT);
                let needs = |prompt: Option<&String>| {
                    prompt
                        .cloned()
                        .ok_or_else(|| Error::new(Kind::Usage, format!("provider {} needs a prompt", self.name())))
                };
                if wish.prompt.is_some() && !takes_prompt {
                    return Err(Error::new(Kind::Usage, format!("provider {} takes no prompt", self.name())));
                }
                let words = words.iter().map(|word| match word.as_str() {
                    PROMPT => needs(wish.prompt.as_ref()),
                    EXE => Ok(exe.to_owned()),
                    word => Ok(word.to_owned()),
                });
                words.collect::<Result<Vec<_>>>()?
            }
            Argv::Function(function) => {
                let made = timed(&self.vm, || {
                    let context = self.vm.create_table()?;
                    context.set("exe", exe)?;
                    context.set("prompt", wish.prompt.as_deref())?;
                    context.set("command", wish.command.as_slice())?;
                    context.set("args", wish.args.as_slice())?;
                    context.set("interactive", wish.interactive)?;
                    context.set("instructions", wish.instructions.as_deref())?;
                    context.set("resume", wish.resume)?;
                    context.set("output", if wish.output == OutputForm::Json { "json" } else { "text" })?;
                    function.call::<Value>(context)
                });
                let made = made.map_err(|e| Error::new(Kind::Usage, said(&fault(&e))))?;
                let list = made.as_table().ok_or_else(|| wrong("'argv' did not return a list".into()))?;
                let words = list.sequence_values::<String>().collect::<mlua::Result<Vec<_>>>();
                words.map_err(|e| wrong(fault(&e)))?
            }
        };
        if argv.first().is_none_or(String::is_empty) {
            return Err(wrong("'argv' names nothing to run".into()));
        }
        if let Some(word) = argv.iter().find(|w| w.contains('\0')) {
            return Err(Error::new(Kind::Usage, format!("a command line cannot hold a NUL: {}", word.escape_debug())));
        }
        Ok(argv)
    }
}

/// Gets the files of an alternative. In those of a login the words for its tokens stand for placeholders: the same ones that the
/// plane answers at the token endpoint.
fn of(alternative: &Alternative) -> Vec<File> {
    let words: &[(&str, &str)] = match alternative.login {
        None => &[],
        Some(LoginForm::Claude) => {
            &[("{access_token}", placeholder::CLAUDE_ACCESS), ("{refresh_token}", placeholder::CLAUDE_REFRESH)]
        }
        Some(LoginForm::Codex) => &[
            ("{access_token}", placeholder::CODEX_ACCESS),
            ("{refresh_token}", placeholder::CODEX_REFRESH),
            ("{id_token}", placeholder::CODEX_ID),
            ("{account}", placeholder::CODEX_ACCOUNT),
        ],
    };
    let filled = |file: &File| {
        let text = words.iter().fold(file.text.clone(), |text, (word, placeholder)| text.replace(word, placeholder));
        File { text, ..file.clone() }
    };
    alternative.files.iter().map(filled).collect()
}

/// Makes a route of one of the file's, with the credentials that were `chosen`.
fn planned(route: &SpecRoute, chosen: &BTreeMap<&str, &Alternative>) -> Route {
    let auth = route.credential.as_deref().and_then(|name| {
        let alternative = chosen.get(name)?;
        // A login's token is a bearer's (RFC 6750).
        let scheme = alternative.scheme.unwrap_or(AuthScheme::Bearer);
        Some(Auth { scheme, header: alternative.header.clone(), credential: name.to_owned() })
    });
    Route {
        host: route.host.clone(),
        ports: route.ports.clone(),
        matches: route.matches.clone(),
        auth,
        api: route.api,
        server_tools: route.server_tools.clone(),
        estimate: route.estimate,
        quiet: route.quiet.clone(),
        deny: route.deny.clone(),
        tls: route.tls,
        allow_private: route.allow_private.clone(),
        max_request: route.max_request,
        max_response: route.max_response,
        keep_headers: route.keep_headers.clone(),
        websocket: route.websocket,
        oauth: route.oauth.clone(),
    }
}

/// Makes a route that allows nothing of a host, quietly. No request has the method NONE, so the entry is closed even to a
/// reader that knows nothing of quiet paths.
fn nothing_of(host: &str) -> Route {
    let matches = vec![Match { methods: vec!["NONE".into()], ..Match::default() }];
    Route { host: host.to_owned(), matches, quiet: vec!["/".into()], ..Route::default() }
}

/// Takes the place off what a provider file says with `error(text, 0)` or `error(text)`: it speaks to the recipe's author.
fn said(text: &str) -> String {
    match text.split_once(".lua:").and_then(|(_, rest)| rest.split_once(": ")) {
        Some((line, message)) if line.chars().all(|c| c.is_ascii_digit()) => message.to_owned(),
        _ => text.to_owned(),
    }
}
