//! The whole of a book as NDJSON: what another program needs to check the chain and to bill by. Reads one snapshot.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde_json::{Map, Value, json};

use super::chain::hex;

/// The tables, in the order in which they are written; what orders their rows.
const TABLES: [(&str, &str); 8] = [
    ("anchors", "seq"),
    ("events", "seq"),
    ("usage", "id"),
    ("enforcement", "seq"),
    ("accounts", "node, provider"),
    ("pruned", "node, provider"),
    ("runs", "id"),
    ("sums", "quarter, bottle, agent, provider, model, run, exact"),
];

/// Hands every row over as a line; ends early where `take` says that nobody reads any more.
pub(super) fn export(conn: &Connection, mut take: impl FnMut(String) -> bool) -> rusqlite::Result<()> {
    let tx = conn.unchecked_transaction()?;
    for (table, order) in TABLES {
        let mut select = tx.prepare(&format!("SELECT * FROM {table} ORDER BY {order}"))?;
        let names: Vec<String> = select.column_names().iter().map(|name| (*name).to_owned()).collect();
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let mut text = line(table, &names, row)?.to_string();
            text.push('\n');
            if !take(text) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Makes an object of a row. Texts stay texts, JSON in them too: the chain covers their very bytes.
fn line(table: &str, names: &[String], row: &Row<'_>) -> rusqlite::Result<Value> {
    let mut object = Map::new();
    object.insert("table".to_owned(), json!(table));
    for (at, name) in names.iter().enumerate() {
        let value = match row.get_ref(at)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => json!(number),
            ValueRef::Real(number) => json!(number),
            ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
            ValueRef::Blob(bytes) => json!(hex(bytes)),
        };
        object.insert(name.clone(), value);
    }
    Ok(Value::Object(object))
}
