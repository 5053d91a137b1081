//! Identities of tables.

use std::hash::{BuildHasher, Hasher, RandomState};

/// What tells a table from all others, those of its name too.
pub(crate) type Identity = (u64, u64);

/// Returns an identity that no table has.
pub(crate) fn new_identity() -> Identity {
    let random = || RandomState::new().build_hasher().finish();
    (random(), random())
}
