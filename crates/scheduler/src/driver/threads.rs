//! Starting the threads: one for each CPU core, one for each device, and one for timers.

use std::sync::Arc;
use std::thread;

use cenote_base::{Context as _, Error, Result};

use super::Driver;
use crate::accelerator::DeviceOptions;
use crate::core::running::WorkerThread;

impl Driver {
    /// Starts `cpu_threads` CPU threads, a thread for each of `devices`, which opens the device, and the timer thread.
    /// They end once the core is closed.
    ///
    /// # Errors
    /// `ResourceExhausted` when a thread cannot be started; the error that opening a device failed with.
    pub(crate) fn start_threads(self: &Arc<Self>, cpu_threads: usize, devices: Vec<DeviceOptions>) -> Result<()> {
        for thread in 0..cpu_threads {
            let driver = Arc::clone(self);
            spawn(cpu_thread_name(thread), move || driver.work(WorkerThread { thread, device: None }, None))?;
        }
        for (number, device) in devices.into_iter().enumerate() {
            self.open_device(WorkerThread { thread: cpu_threads + number, device: Some(number) }, number, device)?;
        }
        let driver = Arc::clone(self);
        spawn("cenote-timer".to_owned(), move || driver.keep_time())
    }

    /// Opens a device on a thread of its own, which then runs the device's tasks.
    fn open_device(self: &Arc<Self>, worker: WorkerThread, number: usize, device: DeviceOptions) -> Result<()> {
        let driver = Arc::clone(self);
        let (sender, opened) = std::sync::mpsc::sync_channel(1);
        let DeviceOptions { class, open, .. } = device;
        spawn(device_thread_name(&class, number), move || match open() {
            // The receiver waits below, so sending cannot fail.
            Ok(accelerator) => {
                drop(sender.send(Ok(())));
                driver.work(worker, Some(accelerator));
            }
            Err(error) => drop(sender.send(Err(error))),
        })?;
        let lost = |_| Err(Error::internal("its thread ended"));
        opened.recv().unwrap_or_else(lost).context(|| format!("open device {number}, a `{class}`"))
    }
}

/// Returns the names of all threads that run tasks, by number.
pub(crate) fn thread_names(cpu_threads: usize, device_classes: &[String]) -> Vec<String> {
    let devices = device_classes.iter().enumerate().map(|(number, class)| device_thread_name(class, number));
    (0..cpu_threads).map(cpu_thread_name).chain(devices).collect()
}

fn cpu_thread_name(number: usize) -> String {
    format!("cenote-cpu-{number}")
}

fn device_thread_name(class: &str, number: usize) -> String {
    format!("cenote-{class}-{number}")
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let doing = format!("start thread {name}");
    thread::Builder::new().name(name).spawn(work).map(drop).context(|| doing)
}
