//! References to objects.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::kernel::Kernel;
use crate::objects::value::Value;
use crate::state::arena::Key;

/// A reference to an object that is there or will be. Clones share it; when the last is dropped and no task needs the
/// object, its memory or file is given back.
#[derive(Clone)]
pub struct ObjectRef {
    pub(crate) inner: Arc<Reference>,
}

pub(crate) struct Reference {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) key: Key,
}

impl ObjectRef {
    /// Takes over the use that the core counted when it made the object.
    pub(crate) fn new(kernel: &Arc<Kernel>, key: Key) -> Self {
        Self { inner: Arc::new(Reference { kernel: Arc::clone(kernel), key }) }
    }

    pub(crate) fn key(&self) -> Key {
        self.inner.key
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.kernel.with(|core| core.objects.release(self.key, &mut core.ledger.memory));
    }
}

impl fmt::Debug for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectRef").field(&self.inner.key).finish()
    }
}

/// An object in somebody's hands: it stays in memory and counts as held until dropped. A clone of the value itself, which
/// is free, does not count, so keep it no longer than this.
pub struct Pinned {
    value: Value,
    kernel: Arc<Kernel>,
    key: Key,
}

impl Pinned {
    /// Takes over one pin.
    pub(crate) fn new(kernel: &Arc<Kernel>, key: Key, value: Value) -> Self {
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
        self.kernel.with(|core| core.objects.unpin(self.key, &mut core.ledger.memory));
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&self.value).finish()
    }
}
