//! Helpers that several tests share.

pub mod rows;
pub mod s3;

use std::path::PathBuf;

/// Returns the directory where `scripts/setup tests` puts programs that tests run against.
pub fn test_environment() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("CENOTE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("cenote")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/cenote")));
    cache.unwrap().join("test-venv")
}
