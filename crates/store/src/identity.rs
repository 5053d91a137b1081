//! Identities of tables.

use std::hash::{BuildHasher, Hasher, RandomState};

/// The identity of a table, which no other table has, not even one of the same name.
pub(crate) type Identity = (u64, u64);

/// Returns an identity that no table has.
pub(crate) fn new_identity() -> Identity {
    let random = || RandomState::new().build_hasher().finish();
    (random(), random())
}
