//! Byte sizes as people write them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A number of bytes, written `512 MiB`, `1GiB`, `64 KB` or `1048576`.
///
/// ```
/// use cenote_base::ByteSize;
/// assert_eq!("1.5 MiB".parse::<ByteSize>().unwrap().0, 1_572_864);
/// assert_eq!(ByteSize(1_572_864).to_string(), "1.5 MiB");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Returns `count` mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid_input(format!("`{text}` is not a byte size: write it like 512 MiB, 1 GiB or 4096"));
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let number: f64 = number.parse().map_err(|source| wrong().with_source(source))?;
        let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let bytes = number * scale as f64;
        // 2^64, from which on a float cannot be converted.
        if bytes >= u64::MAX as f64 {
            return Err(Error::invalid_input(format!("`{text}` is more than 2^64 bytes")));
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let text = format!("{value:.1}");
        write!(f, "{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes) in [("4096", 4096), ("1 GiB", 1 << 30), ("64KB", 64_000), ("0.5k", 512)] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for text in ["", "GiB", "5 parsecs", "-1", "16777216 TiB", "18446744073709551616"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
