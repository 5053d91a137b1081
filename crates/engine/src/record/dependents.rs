//! The fingerprints that a change of a column voids: a property of the table, to which every recipe that runs over the
//! table contributes its steps.

use std::collections::BTreeSet;
use std::sync::Arc;

use cenote_base::Result;
use cenote_store::Snapshot;

use crate::plan::PlannedStep;

/// Returns the property of `table` with the steps of `planned` that read the table in it, in place of what they had
/// registered before; `None` if it says the same already.
pub(crate) fn changed(snapshot: &Snapshot, table: &str, planned: &[Arc<PlannedStep>]) -> Result<Option<String>> {
    let before = snapshot.dependents()?;
    let mut dependents = before.clone();
    let steps = || planned.iter().enumerate().filter(|(_, step)| step.table == table);
    let own: BTreeSet<&String> = steps().map(|(_, step)| &step.fingerprint_column).collect();
    for fingerprints in dependents.values_mut() {
        fingerprints.retain(|name| !own.contains(name) && snapshot.full_schema().index_of(name).is_ok());
    }
    for (number, step) in steps() {
        let later = transitive(planned, number).into_iter().map(|later| &planned[later].fingerprint_column);
        let void: Vec<String> = later.chain([&step.fingerprint_column]).cloned().collect();
        for column in &step.inputs {
            dependents.entry(column.clone()).or_default().extend(void.iter().cloned());
        }
    }
    dependents.retain(|_, fingerprints| !fingerprints.is_empty());
    Ok((dependents != before).then(|| serde_json::json!(dependents).to_string()))
}

/// Returns the steps over the same table that read, directly or through others, what step `number` makes.
fn transitive(planned: &[Arc<PlannedStep>], number: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::from([number]);
    for (later, step) in planned.iter().enumerate().skip(number + 1) {
        if step.table == planned[number].table && step.reads_from.iter().any(|from| reached.contains(from)) {
            reached.insert(later);
        }
    }
    reached.remove(&number);
    reached
}
