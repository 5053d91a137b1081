//! The reason why an object is not available.

use cenote_base::Error;

/// The error that ended a task, and whether the task inherited it from one of its inputs.
///
/// An inherited error says so once, however many tasks it has passed through.
#[derive(Debug, Clone)]
pub(crate) struct TaskFailure {
    error: Error,
    is_inherited: bool,
}

impl TaskFailure {
    /// Returns the failure of a task that takes the failed object as an input.
    pub(crate) fn inherit(&self) -> Self {
        let error = self.error.clone();
        let error = if self.is_inherited { error } else { error.context("an input failed") };
        Self { error, is_inherited: true }
    }

    pub(super) fn error(&self) -> &Error {
        &self.error
    }

    pub(crate) fn into_error(self) -> Error {
        self.error
    }
}

impl From<Error> for TaskFailure {
    fn from(error: Error) -> Self {
        Self { error, is_inherited: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inherited_failure_says_so_once_whatever_its_text() {
        let own = TaskFailure::from(Error::internal("an input failed to parse"));
        let inherited = own.inherit().inherit();
        assert_eq!(inherited.error().message(), "an input failed: an input failed to parse");
    }
}
