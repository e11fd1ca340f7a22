//! What is wrong with settings.yml, in one form for all commands.
//!
//! Commands that need the settings fail with it. Those that show what is there, or end it, work all the same, since nobody shall be
//! kept from a bottle that runs by a typing error, and warn: nothing new is launched until the file is correct.

use crate::error::Error;
use crate::home::Home;
use crate::launch::unknown_in_settings;
use crate::settings::Settings;
use crate::yaml::read::joined;

use super::out;

/// Reads the settings.
///
/// # Errors
/// Everything that is wrong with them, also limits of providers that there are none of.
pub fn settings(home: &Home) -> Result<Settings, Vec<Error>> {
    let settings = Settings::load(home)?;
    let unknown = unknown_in_settings(&settings, home);
    if unknown.is_empty() { Ok(settings) } else { Err(unknown) }
}

/// Reads the settings for a command that works without; the defaults hold where they cannot be read, and standard error says so.
pub fn settings_or_warn(home: &Home) -> Settings {
    settings(home).unwrap_or_else(|faults| {
        out::note(&format!("warning: {}", warning(faults)));
        Settings::default()
    })
}

/// Gets the warning's text: the fault as other commands tell it, and what it means.
fn warning(faults: Vec<Error>) -> String {
    let error = joined(faults);
    let place = error.place.map(|place| format!("{place}: ")).unwrap_or_default();
    let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{place}{}{hint}; nothing is launched until that is corrected", error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_warning_says_where_what_and_what_to_do() {
        let fault = |line: u32| {
            Error::new(Kind::UnknownKey, "unknown key `budgt`")
                .at(format!("settings.yml:{line}"))
                .hint("did you mean `budget`?")
        };
        let one = warning(vec![fault(3)]);
        assert_eq!(
            one,
            "settings.yml:3: unknown key `budgt` (did you mean `budget`?); nothing is launched until that is corrected"
        );
        let two = warning(vec![fault(3), fault(4)]);
        assert!(two.contains("2 faults in settings.yml:") && two.contains("settings.yml:4: unknown key"), "{two}");
    }
}
