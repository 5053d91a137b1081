//! Cancellation that reaches waiting and running work alike.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use tokio::sync::Notify;

/// Whoever is told at once that a flag was raised.
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
    told: Mutex<Vec<Weak<dyn OnCancel>>>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("raised", &self.is_cancelled()).finish()
    }
}

impl Cancel {
    /// Raises the flag.
    pub fn cancel(&self) {
        let told = {
            let mut told = self.flag.told.lock();
            self.flag.raised.store(true, Ordering::Release);
            std::mem::take(&mut *told)
        };
        self.flag.notify.notify_waiters();
        for who in told.iter().filter_map(Weak::upgrade) {
            who.cancelled();
        }
    }

    /// Whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.flag.raised.load(Ordering::Acquire)
    }

    /// `Cancelled` once the flag is raised: for long loops of running work.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled("the work was cancelled")) } else { Ok(()) }
    }

    /// Waits until the flag is raised. Cancel safe.
    pub async fn cancelled(&self) {
        let mut notified = std::pin::pin!(self.flag.notify.notified());
        notified.as_mut().enable();
        if !self.is_cancelled() {
            notified.await;
        }
    }

    /// Tells `who` when the flag is raised, at once if it is. Telling the same twice is telling it once.
    pub(crate) fn tell(&self, who: &Arc<dyn OnCancel>) {
        {
            let mut told = self.flag.told.lock();
            if !self.is_cancelled() {
                let known = |weak: &Weak<dyn OnCancel>| std::ptr::addr_eq(weak.as_ptr(), Arc::as_ptr(who));
                if !told.iter().any(known) {
                    if told.len() == told.capacity() {
                        told.retain(|weak| weak.strong_count() > 0);
                    }
                    told.push(Arc::downgrade(who));
                }
                return;
            }
        }
        who.cancelled();
    }
}
