//! The one error type of the workspace.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Arc<dyn StdError + Send + Sync + 'static>;

/// The class of an [`Error`], by what the caller should do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named thing does not exist: check the name, or create it.
    NotFound,
    /// The named thing exists already: open it, or choose another name.
    AlreadyExists,
    /// The request itself is wrong: fix the input; retrying it unchanged fails again.
    InvalidInput,
    /// A concurrent change got there first: read the newest version and try again.
    Conflict,
    /// Stored bytes differ from what was written: restore them; retrying does not help.
    Corrupt,
    /// A limit in bytes, rows, files or time was reached: raise the limit or ask for less.
    ResourceExhausted,
    /// Something outside the process did not answer: wait and retry.
    Unavailable,
    /// The caller, a deadline or a signal stopped the work: there is nothing to fix.
    Cancelled,
    /// The combination is valid but not supported: use the alternative that the message names.
    Unsupported,
    /// A bug in Cenote: report it with the message.
    Internal,
}

impl ErrorKind {
    /// Returns whether the same operation may succeed when it is retried later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Conflict | Self::Unavailable)
    }

    fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::InvalidInput => "invalid input",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::ResourceExhausted => "resource exhausted",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// An error written for the person who reads it: the kind says what to do, and the message names the thing, what was
/// wrong with it and what would be right.
///
/// `Display` prints the message alone; `{:#}` adds the chain of sources. Errors are `Clone` because several callers may
/// wait for the same result.
#[derive(Clone)]
pub struct Error(Box<ErrorContent>);

#[derive(Clone)]
struct ErrorContent {
    kind: ErrorKind,
    message: String,
    source: Option<Cause>,
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {$(
        #[doc = concat!("Returns an error of kind [`ErrorKind::", stringify!($kind), "`].")]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        }
    )*};
}

impl Error {
    /// Returns an error of `kind` without a source.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorContent { kind, message: message.into(), source: None }))
    }

    constructors! {
        not_found => NotFound,
        already_exists => AlreadyExists,
        invalid_input => InvalidInput,
        conflict => Conflict,
        corrupt => Corrupt,
        resource_exhausted => ResourceExhausted,
        unavailable => Unavailable,
        cancelled => Cancelled,
        unsupported => Unsupported,
        internal => Internal,
    }

    /// Attaches the error that caused this one.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns the kind, which says what the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the message without the sources.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Prefixes the message with what was being done: `doing: message`. The kind stays the same.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if f.alternate() {
            let mut source = self.source();
            while let Some(error) = source {
                write!(f, ": {error}")?;
                source = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self:#}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            Io::InvalidInput | Io::InvalidData => ErrorKind::InvalidInput,
            Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, source.to_string()).with_source(source)
    }
}

/// An extension of `Result` that adds to an error what was being done.
pub trait Context<T> {
    /// Prefixes the message: `doing: message`. `doing` is evaluated only on error.
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(doing()))
    }
}

/// Returns `first` if `later`, which ran after it whatever came of it, succeeded too. Otherwise returns the error of
/// the one that failed; when both failed, the first error, whose message ends with the later one.
pub fn both<T>(first: Result<T>, later: Result<()>) -> Result<T> {
    match (first, later) {
        (Err(mut first), Err(later)) => {
            first.0.message = format!("{}; then {later}", first.0.message);
            Err(first)
        }
        (first, later) => later.and(first),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn display_is_the_message_and_alternate_adds_sources() {
        let error = Error::invalid_input("column `a` is null").with_source(std::io::Error::other("root cause"));
        assert_eq!(error.to_string(), "column `a` is null");
        assert_eq!(format!("{error:#}"), "column `a` is null: root cause");
    }

    #[test]
    fn a_later_error_does_not_hide_the_first() {
        let (first, later) = (Error::not_found("no table `t`"), Error::unavailable("release the lease: timed out"));
        let error = both::<()>(Err(first.clone()), Err(later.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.message(), "no table `t`; then release the lease: timed out");
        assert_eq!(both(Ok(1), Err(later.clone())).unwrap_err().message(), later.message());
        assert_eq!(both::<()>(Err(first.clone()), Ok(())).unwrap_err().message(), first.message());
        assert_eq!(both(Ok(1), Ok(())).unwrap(), 1);
    }

    #[test]
    fn context_keeps_the_kind() {
        let missing: Result<()> = std::fs::read("/nonexistent/file").map(drop).context(|| "read manifest");
        let error = missing.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().starts_with("read manifest: "), "{error}");
    }
}
