//! A fixed number of threads that run closures.

use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cenote_base::{Context, Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that run jobs in the order in which they come. The queue holds only work that was granted resources, so the
/// ledger bounds it. Dropping the pool lets running jobs end.
#[derive(Debug)]
pub(crate) struct Pool {
    jobs: mpsc::Sender<Job>,
}

impl Pool {
    #[allow(clippy::disallowed_methods)] // The ledger bounds the queue: every job in it holds its grant.
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("cenote-cpu-{number}"))
                .spawn(move || {
                    loop {
                        // The guard is dropped before the job runs, so another thread can take the next one.
                        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        match job {
                            Ok(job) => job(),
                            Err(mpsc::RecvError) => break,
                        }
                    }
                })
                .context(|| "start a CPU thread")?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job`, which must not panic.
    pub(crate) fn spawn(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| Error::internal("every CPU thread has ended"))
    }
}
