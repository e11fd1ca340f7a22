//! What stands in a bottle in place of a subscription login: texts of the right shape, the same in every bottle, known to nobody's
//! server. The provider files have the same ones (a test holds them equal).
//!
//! They expire so late that a CLI which looks at them has no reason to ask for others. Nothing real is in them.

use crate::api::LoginForm;

/// When all of them expire: the year 2100. Unit: seconds since the epoch.
pub const EXPIRES: i64 = 4_102_444_800;

/// Claude Code's access token.
pub const CLAUDE_ACCESS: &str = "sk-ant-oat01-bottlebottlebottlebottlebottlebottlebottlebottlebottlebottlebottlebottlebottle\
                                 -placeholder00AA";
/// Claude Code's refresh token.
pub const CLAUDE_REFRESH: &str = "sk-ant-ort01-bottlebottlebottlebottlebottlebottlebottlebottlebottlebottlebottlebottlebottle\
                                  -placeholder00AA";
/// What Claude Code's login is good for, as its CLI compares it.
pub const CLAUDE_SCOPE: &str = "user:inference";

/// The account that Codex's tokens speak of.
pub const CODEX_ACCOUNT: &str = "00000000-0000-4000-8000-00000000b077";
/// Codex's access token.
pub const CODEX_ACCESS: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InBsYWNlaG9sZGVyIn0.\
    eyJpc3MiOiJodHRwczovL2F1dGgub3BlbmFpLmNvbSIsInN1YiI6ImF1dGgwfGJvdHRsZSIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjo0MTAyNDQ0ODAwLC\
    JhdWQiOlsiaHR0cHM6Ly9hcGkub3BlbmFpLmNvbS92MSJdLCJzY3AiOlsib3BlbmlkIiwicHJvZmlsZSIsImVtYWlsIiwib2ZmbGluZV9hY2Nlc3MiXSwi\
    aHR0cHM6Ly9hcGkub3BlbmFpLmNvbS9hdXRoIjp7ImNoYXRncHRfYWNjb3VudF9pZCI6IjAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwYjA3Ny\
    IsImNoYXRncHRfcGxhbl90eXBlIjoicHJvIiwiY2hhdGdwdF91c2VyX2lkIjoidXNlci1ib3R0bGUiLCJ1c2VyX2lkIjoidXNlci1ib3R0bGUifSwiaHR0\
    cHM6Ly9hcGkub3BlbmFpLmNvbS9wcm9maWxlIjp7ImVtYWlsIjoiYm90dGxlQGJvdHRsZS5pbnZhbGlkIiwiZW1haWxfdmVyaWZpZWQiOnRydWV9fQ.\
    cGxhY2Vob2xkZXIgb2YgYSBib3R0bGUsIHNpZ25lZCBieSBub2JvZHk";
/// Codex's id token.
pub const CODEX_ID: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InBsYWNlaG9sZGVyIn0.\
    eyJpc3MiOiJodHRwczovL2F1dGgub3BlbmFpLmNvbSIsInN1YiI6ImF1dGgwfGJvdHRsZSIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjo0MTAyNDQ0ODAwLC\
    JhdWQiOlsiYXBwX0VNb2FtRUVaNzNmMENrWGFYcDdocmFubiJdLCJlbWFpbCI6ImJvdHRsZUBib3R0bGUuaW52YWxpZCIsImVtYWlsX3ZlcmlmaWVkIjp0\
    cnVlLCJodHRwczovL2FwaS5vcGVuYWkuY29tL2F1dGgiOnsiY2hhdGdwdF9hY2NvdW50X2lkIjoiMDAwMDAwMDAtMDAwMC00MDAwLTgwMDAtMDAwMDAwMD\
    BiMDc3IiwiY2hhdGdwdF9wbGFuX3R5cGUiOiJwcm8iLCJjaGF0Z3B0X3VzZXJfaWQiOiJ1c2VyLWJvdHRsZSIsInVzZXJfaWQiOiJ1c2VyLWJvdHRsZSJ9\
    fQ.cGxhY2Vob2xkZXIgb2YgYSBib3R0bGUsIHNpZ25lZCBieSBub2JvZHk";
/// Codex's refresh token.
pub const CODEX_REFRESH: &str = "rt_bottlebottlebottlebottlebottlebottlebottlebottlebottlebottle.placeholder00AA";
/// What Codex's login is good for.
pub const CODEX_SCOPE: &str = "openid profile email offline_access";

/// Gets the refresh token that bottles have.
pub fn refresh(form: LoginForm) -> &'static str {
    match form {
        LoginForm::Claude => CLAUDE_REFRESH,
        LoginForm::Codex => CODEX_REFRESH,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::Value;

    use super::*;

    #[test]
    fn codexs_are_tokens_as_its_cli_reads_them_and_expire_when_the_others_do() {
        for token in [CODEX_ACCESS, CODEX_ID] {
            let parts: Vec<&str> = token.split('.').collect();
            assert_eq!(parts.len(), 3);
            let read = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
            let claims: Value = serde_json::from_slice(&read(parts[1])).unwrap();
            assert_eq!(claims["exp"], EXPIRES);
            assert_eq!(claims["https://api.openai.com/auth"]["chatgpt_account_id"], CODEX_ACCOUNT);
            assert_eq!(read(parts[2]), b"placeholder of a bottle, signed by nobody");
        }
    }

    #[test]
    fn none_has_a_gap_in_it() {
        for text in [CLAUDE_ACCESS, CLAUDE_REFRESH, CODEX_ACCESS, CODEX_ID, CODEX_REFRESH] {
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
        }
    }
}
