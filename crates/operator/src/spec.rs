//! Operators as recipes name them: plain data that compares and hashes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Parameters by name. Ordered, so that equal parameters have equal text and equal fingerprints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Params(pub BTreeMap<String, serde_json::Value>);

impl Params {
    /// Returns the unsigned integer `name`. Every declared parameter is present after
    /// [`Definition::check`](crate::Definition::check).
    pub fn unsigned(&self, name: &str) -> Result<u64> {
        self.read(name, "a whole number ≥ 0", serde_json::Value::as_u64)
    }

    /// Returns the unsigned integer `name`, which must lie in `range`.
    ///
    /// # Errors
    /// `InvalidInput` for a number outside `range`.
    pub fn unsigned_in(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64> {
        let value = self.unsigned(name)?;
        if range.contains(&value) {
            return Ok(value);
        }
        let (min, max) = range.into_inner();
        Err(Error::invalid_input(format!("parameter `{name}` must be from {min} to {max}, found {value}")))
    }

    /// Returns the number `name`.
    pub fn number(&self, name: &str) -> Result<f64> {
        self.read(name, "a number", serde_json::Value::as_f64)
    }

    /// Returns the text `name`.
    pub fn text(&self, name: &str) -> Result<&str> {
        match self.0.get(name) {
            Some(serde_json::Value::String(text)) => Ok(text),
            other => Err(wrong(name, "a text", other)),
        }
    }

    /// Returns the truth value `name`.
    pub fn boolean(&self, name: &str) -> Result<bool> {
        self.read(name, "true or false", serde_json::Value::as_bool)
    }

    fn read<T>(&self, name: &str, wanted: &str, read: impl Fn(&serde_json::Value) -> Option<T>) -> Result<T> {
        let value = self.0.get(name);
        value.and_then(read).ok_or_else(|| wrong(name, wanted, value))
    }
}

fn wrong(name: &str, wanted: &str, found: Option<&serde_json::Value>) -> Error {
    let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
    Error::invalid_input(format!("parameter `{name}` must be {wanted}, found {found}"))
}

/// An operator by name, with parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorSpec {
    /// The registered name, `verb_noun`.
    pub name: String,
    /// The parameters that the recipe sets. The others have their declared defaults.
    #[serde(default)]
    pub params: Params,
}

impl OperatorSpec {
    /// Creates a spec of the operator `name` with default parameters.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), params: Params::default() }
    }

    /// Sets parameter `name`.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.params.0.insert(name.into(), value.into());
        self
    }
}

/// 64 bits that identify how a value was derived: equal fingerprints and an unchanged input row mean an equal value.
///
/// The first eight bytes of a SHA-256 over length-prefixed parts. Never zero, because zero stands for a void
/// fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub i64);

impl Fingerprint {
    /// Hashes `parts` in this order.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut head = [0u8; 8];
        head.copy_from_slice(&digest[..8]);
        Self(i64::from_le_bytes(head) | 1)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
