//! Progress for people: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cenote_runtime::sync::Mutex;
use cenote_runtime::{Progress, Silent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output;

/// Characters of a bar's message, as wide as in its template.
const MESSAGE_CHARS_MAX: usize = 44;
/// Time between lines of one stage.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Returns progress that fits standard error: bars, lines, or nothing when `quiet`. The end of a stage that took less
/// than `brief` gets no line.
pub fn progress(quiet: bool, brief: Duration) -> Arc<dyn Progress> {
    if quiet {
        Arc::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Arc::new(Bars::default())
    } else {
        Arc::new(Lines { brief, stages: Mutex::default() })
    }
}

/// Progress as a bar for each stage.
#[derive(Default)]
struct Bars {
    area: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Progress for Bars {
    fn begin(&self, stage: &str, total: Option<u64>) {
        let bar = self.area.add(ProgressBar::new(total.unwrap_or(0)));
        let template = "{msg:44} [{bar:24}] {pos}/{len} {per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(output::shorten(stage, MESSAGE_CHARS_MAX));
        self.bars.lock().insert(stage.to_owned(), bar);
    }

    fn advance(&self, stage: &str, units: u64) {
        if let Some(bar) = self.bars.lock().get(stage) {
            bar.inc(units);
        }
    }

    fn end(&self, stage: &str) {
        if let Some(bar) = self.bars.lock().remove(stage) {
            bar.finish();
        }
    }
}

/// Progress as lines of text.
struct Lines {
    /// The end of a stage that took less gets no line.
    brief: Duration,
    stages: Mutex<HashMap<String, LoggedStage>>,
}

/// A running stage, and when its last line was written.
struct LoggedStage {
    total: Option<u64>,
    done: u64,
    begun: Instant,
    shown: Instant,
}

impl Progress for Lines {
    fn begin(&self, stage: &str, total: Option<u64>) {
        let now = Instant::now();
        self.stages.lock().insert(stage.to_owned(), LoggedStage { total, done: 0, begun: now, shown: now });
    }

    fn advance(&self, stage: &str, units: u64) {
        if let Some(at) = self.stages.lock().get_mut(stage) {
            at.done += units;
            if at.shown.elapsed() >= LINE_INTERVAL {
                at.shown = Instant::now();
                let total = at.total.map_or_else(String::new, |total| format!("/{total}"));
                output::note(&format!("{stage}: {}{total}", at.done));
            }
        }
    }

    fn end(&self, stage: &str) {
        if let Some(at) = self.stages.lock().remove(stage).filter(|at| at.begun.elapsed() >= self.brief) {
            output::note(&format!("{stage}: {} in {:.1} s", at.done, at.begun.elapsed().as_secs_f64()));
        }
    }
}
