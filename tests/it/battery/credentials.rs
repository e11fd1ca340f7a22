//! Rows about credentials that a route puts in. Played by [`super::network`].

use super::Row;

pub const ROWS: &[Row] = &[
    Row::new(
        "a credential that the server gives back, in a body, a header and an error",
        "REAL=$(printf 'sk-re%s' al-7f3a9b1c); for p in /echo /echo-404; do out=$(req https://keyed.example$p); [[ $out == *\"$REAL\"* ]] && echo leaked; grep -oE 'redacted by bb|\\*{16}' <<<\"$out\"; done; echo searched",
        &["searched"],
    )
    .each(&[("leaked", 0), ("redacted by bb", 1), ("****************", 3)])
    .comes("the answer, with `[redacted by bb]` or as many asterisks in the credential's place")
    .twin("req https://keyed.example/hello | fine 'welcome /hello'")
    .covers(&[30]),
    Row::new("a login of another account, in headers and in the address", "req -H 'Authorization: Bearer s3cr3t' -H 'X-Api-Key: s3cr3t' -H 'Cookie: s=s3cr3t' 'https://keyed.example/q?key=s3cr3t&access_token=s3cr3t&page=2'", &[
        "welcome /q?page=2",
    ])
    .comes("the answer; the route's credential was sent, the agent's was not")
    .covers(&[35]),
    Row::new("a placeholder sent where its credential does not belong", "req -H 'Authorization: Bearer placeholder' -A placeholder 'https://other.example/p?token=placeholder' -d placeholder", &[
        "welcome /p",
    ])
    .comes("the placeholder arrives as it is; the credential never does")
    .covers(&[35]),
    Row::new("an answer that leads from a route with a credential to another host", "req -L -H 'Authorization: Bearer placeholder' https://keyed.example/to-other", &[
        "welcome /seen",
    ])
    .comes("the answer; the credential was not sent there")
    .covers(&[29, 35]),
    Row::new("a credentialed route over plain HTTP", "req http://keyed.example/s3cr3t", &["x-bb-deny: port"]).covers(&[21, 35]),
    Row::new("cookies and tokens in answers of a route with a credential", "req https://keyed.example/logs-in", &["welcome"])
        .each(&[("session=", 0), ("set-cookie", 0)])
        .comes("the answer, without its `Set-Cookie`")
        .covers(&[30]),
];
