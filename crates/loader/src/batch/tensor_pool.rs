//! Pools of the buffers of tensors. Returning the memory of a dropped tensor to the system and allocating it again
//! would cost a tenth of the time that a picture takes.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

use cenote_base::sync::Mutex;

/// Tensors whose memory a pool keeps: while one is trained on, the next are made.
const KEPT_MAX: usize = 4;

/// Numbers whose memory returns to the pool of the loader that made them, if that is still open.
pub struct TensorBuffer<T> {
    values: Vec<T>,
    pool: Weak<TensorPool<T>>,
}

/// The pools of a loader.
#[derive(Clone, Default)]
pub(crate) struct TensorPools {
    pub(super) bytes: Arc<TensorPool<u8>>,
    pub(super) floats: Arc<TensorPool<f32>>,
}

/// The memory of dropped tensors.
pub(super) struct TensorPool<T>(Mutex<Vec<Vec<T>>>);

impl<T> Default for TensorPool<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Default> TensorPool<T> {
    /// Returns `len` arbitrary numbers.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> TensorBuffer<T> {
        let mut spare = self.0.lock();
        let kept = spare.iter().position(|values| values.len() == len).map(|at| spare.swap_remove(at));
        drop(spare);
        TensorBuffer { values: kept.unwrap_or_else(|| vec![T::default(); len]), pool: Arc::downgrade(self) }
    }
}

impl<T> Drop for TensorBuffer<T> {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        // A drop must not wait for the lock: in a forked process whose parent held it, it would wait forever.
        if let Some(mut spare) = pool.0.try_lock() {
            let oldest = (spare.len() == KEPT_MAX).then(|| spare.remove(0));
            spare.push(std::mem::take(&mut self.values));
            drop(spare);
            drop(oldest);
        }
    }
}

impl<T> Deref for TensorBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T> DerefMut for TensorBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

impl<T: Clone> Clone for TensorBuffer<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), pool: Weak::new() }
    }
}

impl<T: PartialEq> PartialEq for TensorBuffer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<T: fmt::Debug> fmt::Debug for TensorBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_returns_to_its_own_pool_up_to_a_limit() {
        let pool: Arc<TensorPool<u8>> = Arc::default();
        let mut first = pool.take(3);
        assert_eq!(*first, [0, 0, 0]);
        first[1] = 7;
        let copy = first.clone();
        drop(first);
        drop(copy);
        assert_eq!(pool.0.lock().len(), 1, "a copy belongs to no pool");
        assert_eq!(*pool.take(2), [0, 0], "of another length");
        assert_eq!(*pool.take(3), [0, 7, 0], "any numbers");
        let many: Vec<_> = (0..10).map(|len| pool.take(len + 10)).collect();
        drop(many);
        assert_eq!(pool.0.lock().len(), KEPT_MAX);
        let last = pool.take(1);
        drop(pool);
        drop(last);
    }
}
