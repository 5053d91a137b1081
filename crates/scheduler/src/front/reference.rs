//! References to objects.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::driver::Driver;
use crate::objects::value::Value;
use crate::state::arena::Key;

/// A reference to an object that has been or will be made. Clones share it. When the last clone is dropped and no task
/// needs the object, its memory or file is freed.
#[derive(Clone)]
pub struct ObjectRef {
    usage: Arc<ObjectUsage>,
}

struct ObjectUsage {
    driver: Arc<Driver>,
    key: Key,
}

impl ObjectRef {
    /// Takes over the user that the core counted when it created the object.
    pub(super) fn new(driver: &Arc<Driver>, key: Key) -> Self {
        Self { usage: Arc::new(ObjectUsage { driver: Arc::clone(driver), key }) }
    }

    pub(super) fn key(&self) -> Key {
        self.usage.key
    }

    /// Returns the key of the object, or `None` if it belongs to another scheduler.
    pub(super) fn key_in(&self, driver: &Arc<Driver>) -> Option<Key> {
        Arc::ptr_eq(&self.usage.driver, driver).then_some(self.usage.key)
    }
}

impl Drop for ObjectUsage {
    fn drop(&mut self) {
        self.driver.with(|core| core.release_object(self.key));
    }
}

impl fmt::Debug for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectRef").field(&self.usage.key).finish()
    }
}

/// A pin on an object: the object stays in memory, and counts as held, until the pin is dropped.
///
/// A clone of the value is cheap and does not count against the budget, so it should not outlive the pin.
pub struct PinnedValue {
    value: Value,
    driver: Arc<Driver>,
    key: Key,
}

impl PinnedValue {
    /// Takes over one pin of the core's.
    pub(super) fn new(driver: &Arc<Driver>, key: Key, value: Value) -> Self {
        Self { value, driver: Arc::clone(driver), key }
    }
}

impl Deref for PinnedValue {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl Drop for PinnedValue {
    fn drop(&mut self) {
        self.driver.with(|core| core.unpin(self.key));
    }
}

impl fmt::Debug for PinnedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedValue").field(&self.value).finish()
    }
}
