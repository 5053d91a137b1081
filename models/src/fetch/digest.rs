//! SHA-256 of files and of lists of parts, as lower-case hex.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use cenote_base::{Context, Error, Result};
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computes the digest of `parts`. The length of each part is hashed before it, so that other parts that concatenate to
/// the same bytes have another digest.
pub(crate) fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// Computes the digest of the file at `path`.
pub(crate) fn of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let count = file.read(&mut buffer).context(|| format!("read {}", path.display()))?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Checks that the file at `path` has the digest `expected`.
///
/// # Errors
/// `Corrupt` when it does not; the message calls the file `what` and states both digests.
pub(crate) fn verify(path: &Path, expected: &str, what: &str) -> Result<()> {
    let found = of_file(path)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Error::corrupt(format!("{what} has SHA-256 {found}, but the manifest says {expected}: {}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_with_another_digest_is_refused_with_both_digests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify(&path, abc, "file").unwrap();
        let error = verify(&path, "00", "file").unwrap_err();
        assert!(error.message().contains(abc) && error.message().contains("says 00"), "{error}");
    }
}
