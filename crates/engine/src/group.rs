//! Groups: consecutive steps over one table that share a pass.

use std::ops::Range;
use std::sync::Arc;

use cenote_scheduler::Job;
use cenote_store::Table;

use crate::plan::PlannedStep;

/// Steps of a group, at most: a [`StepSet`] has one bit for each.
const GROUP_STEPS_MAX: usize = u64::BITS as usize;

/// A set of steps of one group, such as those that a row went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StepSet(u64);

impl StepSet {
    /// Adds step `number` of the group.
    pub(crate) fn insert(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    /// Returns whether step `number` of the group is in the set.
    pub(crate) fn contains(self, number: usize) -> bool {
        self.0 & (1 << number) != 0
    }

    /// Returns whether the set has no steps.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Consecutive steps over one table that share a pass.
pub(crate) struct StepGroup {
    pub(crate) table: Table,
    /// The job that the group's tasks belong to.
    pub(crate) job: Job,
    pub(crate) steps: Vec<Arc<PlannedStep>>,
}

impl StepGroup {
    /// Splits `planned` into ranges of consecutive steps that share a pass: over one table, row-wise, and without a
    /// predicate over an output of the same pass.
    pub(crate) fn split(planned: &[Arc<PlannedStep>]) -> Vec<Range<usize>> {
        let alone = |step: &Arc<PlannedStep>| step.child.is_some();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (number, step) in planned.iter().enumerate() {
            let joins = ranges.last().is_some_and(|range| {
                let members = &planned[range.clone()];
                let mut made = members.iter().flat_map(|member| &member.outputs);
                let filtered_by_member = made.any(|output| step.filter_columns.contains(output.name()));
                members.len() < GROUP_STEPS_MAX
                    && members[0].table == step.table
                    && !members.iter().any(alone)
                    && !alone(step)
                    && !filtered_by_member
            });
            match ranges.last_mut() {
                Some(range) if joins => range.end = number + 1,
                _ => ranges.push(number..number + 1),
            }
        }
        ranges
    }
}
