//! The `limits` of `bb.launch`, in the forms that a manifest has them in.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::api::Limits;
use crate::manifest::{LEAST_BYTES, size};

/// A size, written `536870912` or `"512M"`.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size of at least 16M such as \"512M\" or \"4G\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                let size = size(text).filter(|n| *n >= LEAST_BYTES).map(Size);
                size.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Size, E> {
                let whole = n.fract() == 0.0 && n >= LEAST_BYTES as f64 && n <= (1u64 << 50) as f64;
                if whole { Ok(Size(n as u64)) } else { Err(E::invalid_value(de::Unexpected::Float(n), &self)) }
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Size, E> {
                self.visit_f64(n as f64)
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Size, E> {
                self.visit_f64(n as f64)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Processors, written `2` or `0.5`; kept in thousandths.
struct Cpus(u32);

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let n = f64::deserialize(deserializer)?;
        if (0.01..10_000.0).contains(&n) {
            return Ok(Cpus((n * 1000.0).round() as u32));
        }
        Err(de::Error::invalid_value(de::Unexpected::Float(n), &"a number of processors such as 2 or 0.5"))
    }
}

/// Processes and threads.
struct Pids(u32);

impl<'de> Deserialize<'de> for Pids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let n = f64::deserialize(deserializer)?;
        if n.fract() == 0.0 && (16.0..=4_194_304.0).contains(&n) {
            return Ok(Pids(n as u32));
        }
        Err(de::Error::invalid_value(de::Unexpected::Float(n), &"a whole number of processes, at least 16"))
    }
}

/// The table.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitOptions {
    memory: Option<Size>,
    cpus: Option<Cpus>,
    pids: Option<Pids>,
    disk: Option<Size>,
    best_effort: bool,
}

impl From<LimitOptions> for Limits {
    fn from(options: LimitOptions) -> Limits {
        Limits {
            memory: options.memory.map(|s| s.0),
            cpus: options.cpus.map(|c| c.0),
            pids: options.pids.map(|p| p.0),
            disk: options.disk.map(|s| s.0),
            best_effort: options.best_effort,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_in_a_manifest() {
        let read = |text: &str| serde_json::from_str::<LimitOptions>(text).map(Limits::from);
        let limits = read(r#"{"memory":"512M","cpus":1.5,"pids":256,"disk":1073741824}"#).unwrap();
        let want = Limits {
            memory: Some(512 << 20),
            cpus: Some(1500),
            pids: Some(256),
            disk: Some(1 << 30),
            best_effort: false,
        };
        assert_eq!(limits, want);
        for bad in [r#"{"memory":"5"}"#, r#"{"memory":"x"}"#, r#"{"cpus":0}"#, r#"{"pids":3}"#, r#"{"swap":1}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
