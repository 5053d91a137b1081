//! The cache directory, and files in it that are made exactly once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cenote_base::{Context, Error, Result};

/// Returns the cache directory when the settings do not name one: `$CENOTE_CACHE`, else `$XDG_CACHE_HOME/cenote`, else
/// `~/.cache/cenote`.
///
/// # Errors
/// `InvalidInput` when none of the three variables is set.
pub fn default_cache_dir() -> Result<PathBuf> {
    choose(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn choose(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    variable("CENOTE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("cenote")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache").join("cenote")))
        .ok_or_else(|| Error::invalid_input("no cache directory: set CENOTE_CACHE to one (HOME is not set either)"))
}

/// Makes the file or directory `target` by `make`, unless it exists, and returns its path.
///
/// `make` gets a path beside `target` that does not exist, and creates a file or a directory there. Only when it
/// succeeds does `target` appear, whole, by a rename. Processes and threads that make the same target wait for the
/// first.
pub(crate) fn once(target: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if target.exists() {
        return Ok(target.to_path_buf());
    }
    let lock_path = beside(target, "lock");
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).context(|| format!("create cache directory {}", parent.display()))?;
    }
    // The lock file is never removed: otherwise two processes could hold locks on two files of one name.
    let lock = File::create(&lock_path).context(|| format!("create {}", lock_path.display()))?;
    lock.lock().context(|| format!("lock {}", lock_path.display()))?;
    if target.exists() {
        return Ok(target.to_path_buf());
    }
    let part = beside(target, "part");
    discard(&part)?;
    make(&part).inspect_err(|_| drop(discard(&part)))?;
    fs::rename(&part, target).context(|| format!("rename {} to {}", part.display(), target.display()))?;
    Ok(target.to_path_buf())
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{suffix}"))
}

fn discard(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_first_variable_that_is_set_wins() {
        let set = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(move |name| names.iter().any(|n| n == name).then(|| PathBuf::from(format!("/{name}"))))
        };
        assert_eq!(set(&["CENOTE_CACHE", "HOME"]).unwrap(), Path::new("/CENOTE_CACHE"));
        assert_eq!(set(&["XDG_CACHE_HOME", "HOME"]).unwrap(), Path::new("/XDG_CACHE_HOME/cenote"));
        assert_eq!(set(&["HOME"]).unwrap(), Path::new("/HOME/.cache/cenote"));
        assert!(set(&[]).unwrap_err().message().contains("CENOTE_CACHE"));
    }

    #[test]
    fn many_threads_make_a_target_once_and_a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("deep").join("file");
        once(&target, |part| {
            fs::write(part, "half")?;
            Err(Error::unavailable("cut off"))
        })
        .unwrap_err();
        assert!(!target.exists());
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    once(&target, |part| {
                        made.fetch_add(1, Ordering::Relaxed);
                        Ok(fs::write(part, "whole")?)
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        assert_eq!(fs::read_to_string(&target).unwrap(), "whole");
    }
}
