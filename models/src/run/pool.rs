//! A bounded pool of items that are costly to make and serve one thread at a time.

use std::ops::{Deref, DerefMut};

use cenote_base::Result;
use cenote_base::sync::{Condvar, Mutex};

type Make<T> = Box<dyn Fn() -> Result<T> + Send + Sync>;

/// At most `max` items, which are made on demand and kept.
pub(super) struct BoundedPool<T> {
    make: Make<T>,
    max: usize,
    state: Mutex<PoolState<T>>,
    returned: Condvar,
}

struct PoolState<T> {
    idle: Vec<T>,
    made: usize,
}

impl<T> BoundedPool<T> {
    /// Makes a pool of at most `max` items, at least one, with its first item.
    pub(super) fn new(max: usize, make: impl Fn() -> Result<T> + Send + Sync + 'static) -> Result<Self> {
        let first = make()?;
        Ok(Self {
            make: Box::new(make),
            max: max.max(1),
            state: Mutex::new(PoolState { idle: vec![first], made: 1 }),
            returned: Condvar::new(),
        })
    }

    /// Takes an idle item, or makes one while there are fewer than the maximum, or waits until one is returned.
    pub(super) fn take(&self) -> Result<PoolItem<'_, T>> {
        let mut state = self.state.lock();
        loop {
            if let Some(item) = state.idle.pop() {
                return Ok(PoolItem { pool: self, item: Some(item) });
            }
            if state.made < self.max {
                state.made += 1;
                drop(state);
                let made = (self.make)().inspect_err(|_| {
                    self.state.lock().made -= 1;
                    self.returned.notify_one();
                });
                return Ok(PoolItem { pool: self, item: Some(made?) });
            }
            state = self.returned.wait(state);
        }
    }

    /// Returns the number of items, idle or taken.
    pub(super) fn len(&self) -> usize {
        self.state.lock().made
    }
}

/// An item that returns to its pool when dropped.
pub(super) struct PoolItem<'a, T> {
    pool: &'a BoundedPool<T>,
    item: Option<T>,
}

impl<T> Deref for PoolItem<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.item {
            Some(item) => item,
            None => unreachable!("the item leaves only in drop"),
        }
    }
}

impl<T> DerefMut for PoolItem<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.item {
            Some(item) => item,
            None => unreachable!("the item leaves only in drop"),
        }
    }
}

impl<T> Drop for PoolItem<'_, T> {
    fn drop(&mut self) {
        self.pool.state.lock().idle.extend(self.item.take());
        self.pool.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use cenote_base::Error;

    use super::*;

    #[test]
    fn never_more_than_the_maximum_and_everybody_is_served() {
        let pool = BoundedPool::new(3, || Ok(0usize)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        *pool.take().unwrap() += 1;
                    }
                });
            }
        });
        assert!(pool.len() <= 3);
        assert_eq!(pool.state.lock().idle.iter().sum::<usize>(), 800);
    }

    #[test]
    fn an_item_that_cannot_be_made_leaves_its_place_free() {
        let calls = AtomicUsize::new(0);
        let pool = BoundedPool::new(2, move || match calls.fetch_add(1, Ordering::Relaxed) {
            1 => Err(Error::resource_exhausted("memory")),
            call => Ok(call),
        })
        .unwrap();
        let first = pool.take().unwrap();
        assert!(pool.take().is_err());
        assert_eq!(*pool.take().unwrap(), 2);
        drop(first);
        assert_eq!(pool.len(), 2);
    }
}
