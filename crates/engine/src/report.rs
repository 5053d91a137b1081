//! Reports: what a run did, and which of its steps would run together.

use cenote_base::Resources;

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunReport {
    /// The recipe's name.
    pub recipe: String,
    /// One report for each step, in the recipe's order.
    pub steps: Vec<StepReport>,
}

/// The outcome of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The table that the step reads.
    pub table: String,
    /// The name of its operator.
    pub operator: String,
    /// What the step writes: columns of that table, or a child table.
    pub target: String,
    /// All rows of the table.
    pub rows_total: usize,
    /// Rows that the operator processed.
    pub rows_processed: usize,
    /// Processed rows that failed.
    pub rows_failed: usize,
    /// Rows that the step no longer applies to, whose values were removed.
    pub rows_cleared: usize,
    /// Rows written to the child table.
    pub child_rows_written: usize,
    /// Rows removed from the child table.
    pub child_rows_removed: usize,
    /// Wall-clock seconds of the pass that the step was part of.
    pub seconds: f64,
}

/// Steps that run as one task over a piece of a table's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct StagePlan {
    /// The table that they read.
    pub table: String,
    /// Their operators, in order.
    pub operators: Vec<&'static str>,
    /// The resources that each task requests.
    pub resources: Resources,
}
