//! `credentials` of the settings: where credentials lie that no variable of the environment has.
//!
//! A value is read when it is asked for and is not kept here. Must not show one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{FILE, login};
use crate::api::{Login, LoginForm};
use crate::error::{Error, Kind, Result};
use crate::secret;
use crate::yaml::read::{is_variable, table, text, word};
use crate::yaml::{Entry, Node, Problems, Value};

const KEYS: [&str; 3] = ["file", "command", "login"];

/// Where a credential is.
#[derive(Clone, PartialEq, Eq)]
enum Lies {
    /// In a file: absolute, below `~/`, or counted from the home of bb.
    File(String),
    /// In what a command prints, word by word.
    Command(Vec<String>),
    /// It is a login: of this form, in the file that its CLI keeps it in, or in this one.
    Login(LoginForm, Option<String>),
}

impl fmt::Debug for Lies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lies::File(path) => write!(f, "file {path:?}"),
            // Its arguments may be secrets as well.
            Lies::Command(argv) => write!(f, "command {:?}", argv.first()),
            Lies::Login(form, path) => write!(f, "login {} {path:?}", form.as_str()),
        }
    }
}

/// One of them, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    lies: Lies,
    line: usize,
}

/// All of them, by the name that manifests and providers know them under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    named: BTreeMap<String, Source>,
    root: PathBuf,
    user_home: Option<PathBuf>,
}

impl Sources {
    /// Reads the table; paths count from `root`.
    pub(super) fn read(node: &Node, root: &Path, problems: &mut Problems) -> Sources {
        let mut named = BTreeMap::new();
        for entry in table(node, "`credentials`", problems) {
            if !is_variable(&entry.key) {
                // Never the text: who takes the name for the secret itself must not find it in a log.
                problems.add(entry.line, "a credential's name is not the name of a variable").hint =
                    Some("write the name that `token_ref`, `auth_token` or the provider's file has".to_owned());
                continue;
            }
            if let Some(lies) = lies(entry, problems) {
                named.insert(entry.key.clone(), Source { lies, line: entry.line });
            }
        }
        Sources { named, root: root.to_owned(), user_home: None }
    }

    /// Says whose `~/` is meant.
    pub fn for_user(self, user_home: Option<&Path>) -> Sources {
        Sources { user_home: user_home.map(Path::to_owned), ..self }
    }

    /// Tells whether one is known under a name.
    pub fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Tells whether a command would have to be run for its value.
    pub fn runs(&self, name: &str) -> bool {
        self.named.get(name).is_some_and(|source| matches!(source.lies, Lies::Command(_)))
    }

    /// Says where one lies; of a command the program only, whose arguments may be secrets as well.
    pub fn words(&self, name: &str) -> String {
        match self.named.get(name).map(|source| &source.lies) {
            Some(Lies::File(path)) => format!("the file {}", self.path(path).display()),
            Some(Lies::Command(argv)) => format!("the command {}", argv.first().map_or("", String::as_str)),
            Some(Lies::Login(form, path)) => self.login_words(*form, path.as_deref()),
            None => "nowhere".to_owned(),
        }
    }

    /// Tells which login one is, where it is one.
    pub fn login_form(&self, name: &str) -> Option<LoginForm> {
        match self.named.get(name).map(|source| &source.lies) {
            Some(Lies::Login(form, _)) => Some(*form),
            _ => None,
        }
    }

    /// Gets the login that one is, whose file is looked at.
    ///
    /// # Errors
    /// `credential_missing`, with the name and the line.
    pub fn login(&self, name: &str) -> Result<Login> {
        let source = self.named.get(name).ok_or_else(|| Error::internal("a login that nobody named"))?;
        let Lies::Login(form, path) = &source.lies else {
            return Err(Error::internal("a credential that is no login"));
        };
        let text = path.as_deref().unwrap_or(login::usual(*form));
        let found = login::found(*form, &self.path(text), text);
        found.map_err(|e| Error { message: format!("the credential {name}: {}", e.message), ..e }.at(source.place()))
    }

    /// Gets the login that the CLI itself keeps on this host; `None` where there is no such file.
    ///
    /// # Errors
    /// `credential_missing` where there is one that cannot be worked with.
    pub fn usual_login(&self, form: LoginForm) -> Result<Option<Login>> {
        match self.has_usual_login(form) {
            true => login::found(form, &self.path(login::usual(form)), login::usual(form)).map(Some),
            false => Ok(None),
        }
    }

    /// Tells whether the CLI itself keeps a login on this host. What it is worth is not looked at.
    pub fn has_usual_login(&self, form: LoginForm) -> bool {
        login::below(self.user_home.as_deref(), login::usual(form)).is_some_and(|path| path.symlink_metadata().is_ok())
    }

    /// Says which login is meant, and where it lies.
    pub fn login_words(&self, form: LoginForm, path: Option<&str>) -> String {
        format!("{} in {}", login::title(form), path.unwrap_or(login::usual(form)))
    }

    /// Gets the value of one; runs its command.
    ///
    /// # Errors
    /// `credential_missing`, with the name and the line; `usage` for a login, whose value changes.
    pub fn value(&self, name: &str) -> Result<SecretString> {
        let source = self.named.get(name).ok_or_else(|| Error::internal("a credential that nobody named"))?;
        let value = match &source.lies {
            Lies::File(path) => secret::of_file(&self.path(path)),
            Lies::Command(argv) => {
                let mut argv = argv.clone();
                if let Some(program) = argv.first_mut().filter(|program| program.starts_with("~/")) {
                    *program = self.path(program).display().to_string();
                }
                secret::of_command(&argv, &self.root, secret::PATIENCE)
            }
            Lies::Login(form, _) => Err(Error::new(
                Kind::Usage,
                format!("it is {}, which goes to the hosts of its vendor only", login::title(*form)),
            )
            .hint("name it in `auth_token` of a manifest; give this route a credential of its own")),
        };
        value.map_err(|e| Error { message: format!("the credential {name}: {}", e.message), ..e }.at(source.place()))
    }

    /// Lists what is wrong with the files, which are read, and runs no command.
    pub fn faults(&self) -> Vec<Error> {
        let files = self.named.keys().filter(|name| !self.runs(name));
        let look = |name: &String| match self.login_form(name) {
            Some(_) => self.login(name).err(),
            None => self.value(name).err(),
        };
        files.filter_map(look).collect()
    }

    /// Gets the files, which no agent may be shown.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.named.values().filter_map(|source| match &source.lies {
            Lies::File(path) => Some(self.path(path)),
            Lies::Login(form, path) => Some(self.path(path.as_deref().unwrap_or(login::usual(*form)))),
            Lies::Command(_) => None,
        });
        files.collect()
    }

    /// Gets what the commands run, which no agent may write: their programs where these are paths, and scripts that are named
    /// by whole paths.
    pub fn programs(&self) -> Vec<PathBuf> {
        let words = |argv: &[String]| -> Vec<PathBuf> {
            let program = argv.first().filter(|program| program.contains('/')).map(|program| self.path(program));
            let scripts = argv.iter().skip(1).filter(|word| word.starts_with('/')).map(PathBuf::from);
            program.into_iter().chain(scripts).collect()
        };
        let commands = self.named.values().filter_map(|source| match &source.lies {
            Lies::File(_) | Lies::Login(..) => None,
            Lies::Command(argv) => Some(words(argv)),
        });
        commands.flatten().collect()
    }

    fn path(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), &self.user_home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.root.join(text),
        }
    }
}

impl Source {
    fn place(&self) -> String {
        format!("{FILE}:{}", self.line)
    }
}

fn lies(entry: &Entry, problems: &mut Problems) -> Option<Lies> {
    let fields = table(&entry.value, "a credential", problems);
    let says = |key: &str| fields.iter().any(|field| field.key == key);
    // Of a login `file` says where that lies.
    let login = says("login");
    let (mut found, mut at) = (Vec::new(), None);
    for field in fields {
        match field.key.as_str() {
            "file" if login => at = text(field, problems),
            "file" => found.extend(text(field, problems).map(Lies::File)),
            "command" => found.extend(words(field, problems).map(Lies::Command)),
            "login" => found.extend(word(field, &login::FORMS, &[], problems).map(|form| Lies::Login(form, None))),
            _ => problems.unknown_key(field, &KEYS),
        }
    }
    let said = fields.iter().filter(|field| KEYS.contains(&field.key.as_str())).count();
    // A slip of the finger is said already.
    if said == 0 && !fields.is_empty() {
        return None;
    }
    let wrong = match (said, login, says("command")) {
        (0, ..) => Some("says neither `file` nor `command` nor `login`"),
        (_, true, true) => Some("says both `login` and `command`"),
        (1, ..) | (2, true, false) => None,
        _ => Some("says both `file` and `command`"),
    };
    if let Some(what) = wrong.filter(|_| entry.value.entries().is_some()) {
        problems.add(entry.line, format!("the credential `{}` {what}", entry.key)).hint =
            Some("write one of them: {file: PATH}, {command: [PROGRAM, ARGUMENT]} or {login: claude}".to_owned());
        return None;
    }
    match found.pop() {
        Some(Lies::Login(form, _)) => Some(Lies::Login(form, at)),
        found => found,
    }
}

/// Gets the words of a command.
fn words(entry: &Entry, problems: &mut Problems) -> Option<Vec<String>> {
    let list = match &entry.value.value {
        Value::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let list = list.filter(|words| words.first().is_some_and(|program| !program.trim().is_empty()));
    if list.as_ref().is_none_or(|words| words.iter().any(|word| word.contains('\0'))) {
        problems.add(entry.value.line, "`command` must be a list of words").hint =
            Some("write each word apart, such as [pass, show, gitea]: no shell reads it".to_owned());
        return None;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn read(text: &str) -> std::result::Result<Sources, Vec<Error>> {
        Settings::parse(text, Path::new("/bb"))
            .map(|settings| settings.credentials.for_user(Some(Path::new("/home/me"))))
    }

    #[test]
    fn files_and_commands_are_read_and_told_without_their_arguments() {
        let text =
            "credentials:\n  A: {file: ~/a}\n  B: {file: b}\n  C: {file: /c}\n  D: {command: [pass, show, \"x y\"]}\n";
        let sources = read(text).unwrap();
        assert_eq!(sources.files(), ["/home/me/a", "/bb/b", "/c"].map(PathBuf::from));
        let run = "credentials:\n  A: {command: [~/bin/get, show]}\n  B: {command: [python3, /home/me/x.py, a/b]}\n  C: {command: [pass]}\n";
        let run = read(run).unwrap().programs();
        assert_eq!(run, ["/home/me/bin/get", "/home/me/x.py"].map(PathBuf::from));
        let words: Vec<String> = ["A", "B", "D"].iter().map(|name| sources.words(name)).collect();
        assert_eq!(words, ["the file /home/me/a", "the file /bb/b", "the command pass"]);
        assert!(!format!("{sources:?}").contains("x y"), "arguments may be secrets: {sources:?}");
        assert!(sources.has("D") && sources.runs("D") && !sources.runs("A") && !sources.has("E"));
        let error = sources.value("C").map(|_| ()).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("settings.yml:4"), "{error}");
        assert!(error.message.starts_with("the credential C: /c cannot be read"), "{error}");
        assert_eq!(sources.faults().len(), 3, "no command is run");
    }

    #[test]
    fn every_fault_has_its_line_and_no_value_is_told() {
        let text = "credentials:\n  A: {fiel: x}\n  B: {file: x, command: [y]}\n  C: {command: pass show}\n  D: {command: []}\n\
            \x20 E: s3cret\n  \"s3-cret\": {file: x}\n  F: {file: }\n  G: {}\n";
        let faults = read(text).unwrap_err();
        let lines: Vec<String> =
            faults.iter().map(|e| format!("{}: {}", e.place.as_deref().unwrap(), e.message)).collect();
        assert_eq!(
            lines,
            [
                "settings.yml:2: unknown key `fiel`",
                "settings.yml:3: the credential `B` says both `file` and `command`",
                "settings.yml:4: `command` must be a list of words",
                "settings.yml:5: `command` must be a list of words",
                "settings.yml:6: a credential must be a table of keys and values",
                "settings.yml:7: a credential's name is not the name of a variable",
                "settings.yml:8: `file` must be a text",
                "settings.yml:9: the credential `G` says neither `file` nor `command` nor `login`",
            ]
        );
        assert!(faults.iter().all(|e| e.hint.is_some()));
        assert!(read("credentials: [A]\n").is_err());
    }

    #[test]
    fn a_login_lies_where_its_cli_keeps_it_or_where_file_says() {
        let text = "credentials:\n  A: {login: claude}\n  B: {login: codex, file: ~/other/auth.json}\n  C: {file: c}\n";
        let sources = read(text).unwrap();
        assert_eq!(
            sources.files(),
            ["/home/me/.claude/.credentials.json", "/home/me/other/auth.json", "/bb/c"].map(PathBuf::from)
        );
        let words: Vec<String> = ["A", "B"].iter().map(|name| sources.words(name)).collect();
        assert_eq!(
            words,
            ["the login of Claude Code in ~/.claude/.credentials.json", "the login of Codex in ~/other/auth.json"]
        );
        let forms: Vec<_> = ["A", "B", "C"].iter().map(|name| sources.login_form(name)).collect();
        assert_eq!(forms, [Some(LoginForm::Claude), Some(LoginForm::Codex), None]);
        let error = sources.login("B").unwrap_err();
        assert_eq!((error.kind, error.place.as_deref()), (Kind::CredentialMissing, Some("settings.yml:3")));
        assert!(
            error.message.starts_with("the credential B: the login of Codex in ~/other/auth.json cannot"),
            "{error}"
        );
        // It is no value that could be put into other routes.
        let error = sources.value("A").map(|_| ()).unwrap_err();
        assert_eq!(error.kind, Kind::Usage, "{error}");
        assert_eq!(sources.faults().len(), 3);
        // Nobody's home has none.
        assert!(!read(text).unwrap().for_user(None).has_usual_login(LoginForm::Claude));

        let wrong = "credentials:\n  A: {login: gemini}\n  B: {login: claude, command: [x]}\n  C: {login: }\n  D: {login: claude, file: }\n";
        let faults = read(wrong).unwrap_err();
        let lines: Vec<String> =
            faults.iter().map(|e| format!("{}: {}", e.place.as_deref().unwrap(), e.message)).collect();
        assert_eq!(
            lines,
            [
                "settings.yml:2: `gemini` is not a value of `login`",
                "settings.yml:3: the credential `B` says both `login` and `command`",
                "settings.yml:4: `login` must be a word",
                "settings.yml:5: `file` must be a text",
            ]
        );
    }
}
