//! `cenote top`.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use cenote_runtime::{ByteSize, Result};

use crate::monitor::{self, ProcessView, StageView};
use crate::{output, session};

/// Interval between pages.
const INTERVAL: Duration = Duration::from_secs(1);
/// Characters of a stage's bar.
const BAR_CHARS: u64 = 24;
/// Moves the cursor to the upper left and clears the screen below it.
const CLEAR: &str = "\x1b[H\x1b[J";

pub async fn run(once: bool) -> Result<()> {
    let once = once || !std::io::stdout().is_terminal();
    loop {
        let page = page(&monitor::views().await?);
        if once {
            return output::text(&page);
        }
        output::text(&format!("{CLEAR}{page}"))?;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            stopped = session::stop_asked() => return stopped,
        }
    }
}

fn page(views: &[ProcessView]) -> String {
    if views.is_empty() {
        return "nothing runs".to_owned();
    }
    views.iter().map(process).collect::<Vec<_>>().join("\n\n")
}

fn process(view: &ProcessView) -> String {
    let mut text = String::new();
    let status = &view.scheduler;
    let (total, used, counters) = (&status.usage.total, &status.usage.used, &status.counters);
    let rate = |sum: f64| sum / view.elapsed.as_secs_f64().max(1e-3);
    let mut line = |parts: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{parts}");
    };
    line(format_args!("process {}: cenote {} on {}, {:.0?}", view.process, view.command, view.lake, view.elapsed));
    line(format_args!(
        "  memory  {} resident; work holds {} of {}, idle objects {}, on disk {}",
        ByteSize(view.resident_bytes),
        ByteSize(used.memory_bytes),
        ByteSize(total.memory_bytes),
        ByteSize(status.idle_bytes),
        ByteSize(status.spilled_bytes)
    ));
    line(format_args!(
        "  cpu     {} of {} cores held, {:.0} % busy since the start",
        used.cpu,
        total.cpu,
        100.0 * rate(counters.service.as_secs_f64()) / f64::from(total.cpu)
    ));
    for device in &status.devices {
        let (used, total) = (ByteSize(device.used_bytes), ByteSize(device.total_bytes));
        line(format_args!("  device  {}: {used} of {total} held", device.class));
    }
    for model in &view.models {
        line(format_args!("  model   {} by {}, {} sessions", model.name, model.provider, model.sessions));
    }
    line(format_args!(
        "  tasks   {} done, {} failed, {} tried again, {:.1} a second; {} run, {} wait",
        counters.completed,
        counters.failed,
        counters.retried,
        rate(counters.completed as f64),
        status.running.len(),
        status.ready
    ));
    for stage in &view.stages {
        line(format_args!("  stage   {}", self::stage(stage)));
    }
    for activity in &status.running {
        line(format_args!("  runs    {} for {:.1?}", activity.name, activity.elapsed));
    }
    for waiting in &status.waiting {
        line(format_args!("  waits   {} {} of {} for {}", waiting.count, waiting.name, waiting.job, waiting.reason));
    }
    text.truncate(text.trim_end().len());
    text
}

fn stage(stage: &StageView) -> String {
    let rate = stage.done as f64 / stage.elapsed.as_secs_f64().max(1e-3);
    match stage.total.filter(|total| *total > 0) {
        Some(total) => {
            let filled = (stage.done.min(total) * BAR_CHARS / total) as usize;
            let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR_CHARS as usize - filled));
            format!("[{bar}] {}/{total}, {rate:.0} a second: {}", stage.done, stage.name)
        }
        None => format!("{}, {rate:.0} a second: {}", stage.done, stage.name),
    }
}
