//! References to objects.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::kernel::Kernel;
use crate::objects::value::Value;
use crate::state::arena::Key;

/// A reference to an object that has been or will be made. Clones share it. When the last clone is dropped and no task
/// needs the object, its memory or file is freed.
#[derive(Clone)]
pub struct ObjectRef {
    usage: Arc<ObjectUsage>,
}

struct ObjectUsage {
    kernel: Arc<Kernel>,
    key: Key,
}

impl ObjectRef {
    /// Takes over the user that the core counted when it created the object.
    pub(super) fn new(kernel: &Arc<Kernel>, key: Key) -> Self {
        Self { usage: Arc::new(ObjectUsage { kernel: Arc::clone(kernel), key }) }
    }

    pub(super) fn key(&self) -> Key {
        self.usage.key
    }

    /// Returns the key of the object, or `None` if it belongs to another kernel.
    pub(super) fn key_in(&self, kernel: &Arc<Kernel>) -> Option<Key> {
        Arc::ptr_eq(&self.usage.kernel, kernel).then_some(self.usage.key)
    }
}

impl Drop for ObjectUsage {
    fn drop(&mut self) {
        self.kernel.with(|core| core.release_object(self.key));
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
pub struct Pinned {
    value: Value,
    kernel: Arc<Kernel>,
    key: Key,
}

impl Pinned {
    /// Takes over one pin of the core's.
    pub(super) fn new(kernel: &Arc<Kernel>, key: Key, value: Value) -> Self {
        Self { value, kernel: Arc::clone(kernel), key }
    }
}

impl Deref for Pinned {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.kernel.with(|core| core.unpin(self.key));
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&self.value).finish()
    }
}
