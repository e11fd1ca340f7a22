//! The chain of the events: each row's hash covers the one before it, and the usage row that it tells of by a digest.
//!
//! How both are computed is a contract (docs/ledger.md): whoever has an export can check it without bb. Who changes a row,
//! or takes one out of the middle, is found by [`super::verify`]; nothing here reads or writes a table but the chain's end.

use ring::digest::SHA256;
use rusqlite::{Connection, OptionalExtension, Row};

use super::accounts::amount;

/// A hash or a digest: SHA-256.
pub(super) type Hash = [u8; 32];

/// What the digest of a usage row covers, as one text that SQLite makes of it: all columns but where it stands (`id`, `seq`).
/// Reading them one by one would take longer than all the rest of a chain.
pub(super) const FIGURES: &str = "json_array(hold, opened, ts, path, provider, bottle, agent, run, api, host, model_asked, model, \
    response_id, duplicate, input_estimate, output_estimate, held, input, cache_read, cache_write, cache_write_long, output, \
    reasoning, weights, counted, how, source, raw_usage, granted, why)";

/// Stands for the length of what is absent.
const ABSENT: [u8; 8] = [0xff; 8];

/// Fields, one after the other, each with its length before it: no two lists of fields give the same bytes.
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn maybe(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.0.extend_from_slice(&ABSENT),
        }
    }
}

/// SHA-256.
fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(ring::digest::digest(&SHA256, bytes).as_ref());
    hash
}

/// What an event's hash covers, beside the hash before it.
pub(super) struct Link<'a> {
    pub seq: i64,
    pub ts: i64,
    pub kind: &'a str,
    pub bottle: Option<&'a str>,
    pub run: Option<&'a str>,
    pub data: &'a str,
    pub digest: Option<&'a [u8]>,
}

impl Link<'_> {
    /// Gets the event's hash.
    pub(super) fn hash(&self, before: &Hash) -> Hash {
        let mut fields = Fields(Vec::with_capacity(self.data.len() + 512));
        fields.bytes(before);
        fields.bytes(self.seq.to_string().as_bytes());
        fields.bytes(self.ts.to_string().as_bytes());
        fields.bytes(self.kind.as_bytes());
        fields.maybe(self.bottle.map(str::as_bytes));
        fields.maybe(self.run.map(str::as_bytes));
        fields.bytes(self.data.as_bytes());
        fields.maybe(self.digest);
        sha256(&fields.0)
    }
}

/// Gets the digest of a usage row of which [`FIGURES`] are the first column of `row`.
pub(super) fn digest(row: &Row<'_>) -> rusqlite::Result<Hash> {
    Ok(sha256(row.get_ref(0)?.as_bytes()?))
}

/// The end of the chain: what the next event goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Of the last event; 0 before the first.
    pub seq: i64,
    pub hash: Hash,
}

impl Tail {
    /// Reads it: the last event, or the anchor where every event was pruned.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Tail> {
        let row =
            |row: &Row<'_>| Ok(Tail { seq: row.get(0)?, hash: row.get::<_, Option<Hash>>(1)?.unwrap_or_default() });
        let last = conn.prepare_cached("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1")?.query_row([], row);
        match last.optional()? {
            Some(tail) => Ok(tail),
            None => Ok(anchor(conn)?.unwrap_or_default()),
        }
    }

    /// Gets the number that the next event has.
    pub(super) fn next(&self) -> u64 {
        amount(self.seq + 1)
    }
}

/// Reads the anchor that the chain hangs on.
pub(super) fn anchor(conn: &Connection) -> rusqlite::Result<Option<Tail>> {
    conn.prepare_cached("SELECT seq, hash FROM anchors ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok(Tail { seq: row.get(0)?, hash: row.get(1)? }))
        .optional()
}

/// Writes a hash as people and JSON have it.
pub(super) fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link<'a>(bottle: Option<&'a str>, run: Option<&'a str>, data: &'a str) -> Link<'a> {
        Link { seq: 1, ts: 2, kind: "test", bottle, run, data, digest: None }
    }

    #[test]
    fn no_two_events_are_the_same_to_the_chain() {
        let zero = Hash::default();
        let all = [
            link(None, None, "{}"),
            link(Some(""), None, "{}"),
            link(None, Some(""), "{}"),
            link(Some("ab"), Some("c"), "{}"),
            link(Some("a"), Some("bc"), "{}"),
            link(None, None, "{} "),
        ];
        let mut hashes: Vec<Hash> = all.iter().map(|link| link.hash(&zero)).collect();
        hashes.push(link(None, None, "{}").hash(&hashes[0]));
        hashes.push(Link { digest: Some(&[0; 32]), ..link(None, None, "{}") }.hash(&zero));
        let unlike: std::collections::BTreeSet<&Hash> = hashes.iter().collect();
        assert_eq!(unlike.len(), hashes.len());
        assert_eq!(link(None, None, "{}").hash(&zero), hashes[0]);
    }

    /// The contract of docs/ledger.md, computed by another program.
    #[test]
    fn the_hash_is_the_one_that_the_page_describes() {
        let python = "import hashlib\n\
            f = lambda b: b'\\xff' * 8 if b is None else len(b).to_bytes(8, 'little') + b\n\
            fields = [bytes(32), b'1', b'2', b'test', b'b', None, b'{}', None]\n\
            print(hashlib.sha256(b''.join(map(f, fields))).hexdigest(), end='')";
        let Ok(run) = std::process::Command::new("python3").args(["-c", python]).output() else {
            assert!(std::env::var("BB_TEST_REQUIRE").as_deref() != Ok("all"), "no Python here");
            eprintln!("skipped: no Python here");
            return;
        };
        assert_eq!(hex(&link(Some("b"), None, "{}").hash(&Hash::default())), String::from_utf8_lossy(&run.stdout));
    }
}
