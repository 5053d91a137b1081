//! Memory of tensors that are dropped, for those that come next: to give it back to the system and get it anew costs a tenth of the time that
//! a picture takes.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

use cenote_base::sync::Mutex;

/// So many tensors' memory is kept: while one is trained on, the next are made.
const KEPT_MAX: usize = 4;

/// Numbers whose memory goes back to the loader that made them, if that is still there.
pub struct Memory<T> {
    values: Vec<T>,
    home: Weak<Spare<T>>,
}

/// Memory of a loader's former tensors.
#[derive(Clone, Default)]
pub(crate) struct Spares {
    pub(crate) bytes: Arc<Spare<u8>>,
    pub(crate) floats: Arc<Spare<f32>>,
}

/// Memory that nobody uses.
pub(crate) struct Spare<T>(Mutex<Vec<Vec<T>>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Default> Spare<T> {
    /// `len` numbers, any at all.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Memory<T> {
        let mut spare = self.0.lock();
        let kept = spare.iter().position(|values| values.len() == len).map(|at| spare.swap_remove(at));
        drop(spare);
        Memory { values: kept.unwrap_or_else(|| vec![T::default(); len]), home: Arc::downgrade(self) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        // Whoever drops it need not wait for that: a forked process, whose parent held the lock, would for ever.
        if let Some(mut spare) = home.0.try_lock() {
            let oldest = (spare.len() == KEPT_MAX).then(|| spare.remove(0));
            spare.push(std::mem::take(&mut self.values));
            drop(spare);
            drop(oldest);
        }
    }
}

impl<T> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

impl<T: Clone> Clone for Memory<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), home: Weak::new() }
    }
}

impl<T: PartialEq> PartialEq for Memory<T> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<T: fmt::Debug> fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_to_its_loader_alone_and_not_without_end() {
        let spare: Arc<Spare<u8>> = Arc::default();
        let mut first = spare.take(3);
        assert_eq!(*first, [0, 0, 0]);
        first[1] = 7;
        let copy = first.clone();
        drop(first);
        drop(copy);
        assert_eq!(spare.0.lock().len(), 1, "a copy is nobody's");
        assert_eq!(*spare.take(2), [0, 0], "of another length");
        assert_eq!(*spare.take(3), [0, 7, 0], "any numbers");
        let many: Vec<_> = (0..10).map(|len| spare.take(len + 10)).collect();
        drop(many);
        assert_eq!(spare.0.lock().len(), KEPT_MAX);
        let last = spare.take(1);
        drop(spare);
        drop(last);
    }
}
