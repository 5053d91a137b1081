//! The thread that fires timers and reports stalls.

use tokio::time::Instant;

use super::Driver;

impl Driver {
    /// Fires timers, and logs when nothing moves, until the scheduler is dropped.
    pub(super) fn keep_time(&self) {
        let mut locked = self.locked.lock();
        let mut reported = None;
        loop {
            let now = Instant::now();
            locked.core.advance(now);
            let last_progress = Some(locked.core.last_progress());
            let stall = locked.core.stall(now, self.stall_after).filter(|_| reported != last_progress);
            let is_closed = locked.core.is_closed();
            self.release(locked);
            if is_closed {
                return;
            }
            if let Some(stall) = stall {
                reported = last_progress;
                tracing::warn!("{stall}");
            }
            locked = self.locked.lock();
            let watchdog = now + self.stall_after;
            let until = locked.core.next_timer().map_or(watchdog, |next| next.min(watchdog));
            if until > Instant::now() && !locked.core.is_closed() {
                locked.timer_until = Some(until);
                let timeout = until.saturating_duration_since(Instant::now());
                (locked, _) = self.timer_thread.wait_timeout(locked, timeout);
                locked.timer_until = None;
            }
        }
    }
}
