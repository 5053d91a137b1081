//! Cancellation flags for waiting and running work.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use tokio::sync::Notify;

/// A listener that is told as soon as a flag is raised.
pub(crate) trait OnCancel: Send + Sync {
    fn cancelled(&self);
}

/// A flag that is raised once and never lowered. Clones share it.
#[derive(Clone, Default)]
pub struct Cancel {
    flag: Arc<Flag>,
}

#[derive(Default)]
struct Flag {
    raised: AtomicBool,
    notify: Notify,
    listeners: Mutex<Vec<Weak<dyn OnCancel>>>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("raised", &self.is_cancelled()).finish()
    }
}

impl Cancel {
    /// Raises the flag.
    pub fn cancel(&self) {
        let listeners = {
            let mut listeners = self.flag.listeners.lock();
            self.flag.raised.store(true, Ordering::Release);
            std::mem::take(&mut *listeners)
        };
        self.flag.notify.notify_waiters();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.cancelled();
        }
    }

    /// Returns whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.flag.raised.load(Ordering::Acquire)
    }

    /// Fails once the flag is raised: for long loops of running work.
    ///
    /// # Errors
    /// `Cancelled` once the flag is raised.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled("the work was cancelled")) } else { Ok(()) }
    }

    /// Waits until the flag is raised. This method is cancel safe.
    pub async fn cancelled(&self) {
        let mut notified = std::pin::pin!(self.flag.notify.notified());
        notified.as_mut().enable();
        if !self.is_cancelled() {
            notified.await;
        }
    }

    /// Tells `listener` when the flag is raised, at once if it is raised already. A listener that is added twice is
    /// told once.
    pub(crate) fn tell(&self, listener: &Arc<dyn OnCancel>) {
        {
            let mut listeners = self.flag.listeners.lock();
            if !self.is_cancelled() {
                let is_known = |known: &Weak<dyn OnCancel>| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(listener));
                if !listeners.iter().any(is_known) {
                    // Dropped listeners are removed before the vector grows.
                    if listeners.len() == listeners.capacity() {
                        listeners.retain(|known| known.strong_count() > 0);
                    }
                    listeners.push(Arc::downgrade(listener));
                }
                return;
            }
        }
        listener.cancelled();
    }
}
