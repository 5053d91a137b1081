//! Notes on what an ingest or a run did.

use cenote_runtime::{IngestReport, RunReport};

use crate::output;

/// Notes what an ingest into `table` did.
pub fn ingest(table: &str, report: &IngestReport) {
    for file in &report.skipped {
        output::note(&format!("skipped {}: {}", file.path.display(), file.reason));
    }
    output::note(&format!(
        "{table}: {}, {} new, {} changed, {} unchanged, {} skipped",
        output::count(report.files, "file"),
        report.inserted,
        report.updated,
        report.unchanged,
        report.skipped.len()
    ));
}

/// Notes what each step of a run did.
pub fn run(report: &RunReport) {
    for step in &report.steps {
        let total = output::count(step.rows_total, "row");
        let mut line = format!("{:<12} {:<18} {} of {total}", step.table, step.operator, step.rows_processed);
        let mut add = |count: usize, what: &str| {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        };
        add(step.rows_failed, "failed");
        add(step.rows_cleared, "cleared");
        add(step.child_rows_written, &format!("written to {}", step.target));
        add(step.child_rows_removed, &format!("removed from {}", step.target));
        output::note(&line);
    }
}
