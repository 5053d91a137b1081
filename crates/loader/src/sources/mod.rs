//! The sources of samples: the rows of each at a version, checked against a state.
//!
//! This part does not know batches, transforms or ranks.

mod key_orders;
pub(crate) mod selection;

use cenote_base::{Error, Result};
use cenote_store::{Version, is_blob};
use selection::{SampleSource, SourceSelection};

use crate::order::buckets::Buckets;
use crate::order::mixture::Mixture;
use crate::state::SourceState;

/// Rows of a source from which the bytes of a row are estimated.
const SAMPLE_ROWS: usize = 256;

/// Reads the selections of the sources: each at its own version, else at the one in `versions`, else at the newest.
pub(crate) async fn read_all(
    sources: &[SampleSource],
    versions: Option<&[Version]>,
    buckets: Option<&Buckets>,
) -> Result<Vec<SourceSelection>> {
    if versions.is_some_and(|versions| versions.len() != sources.len()) {
        return Err(Error::invalid_input("a loader has one version for each of its sources"));
    }
    let length = buckets.map(|buckets| buckets.column.as_str());
    let mut selections = Vec::with_capacity(sources.len());
    for (at, source) in sources.iter().enumerate() {
        let version = source.version.or_else(|| versions.map(|versions| versions[at]));
        let selection = SourceSelection::read(&SampleSource { version, ..source.clone() }, length).await;
        selections.push(selection.map_err(|error| error.context(format!("table `{}`", source.table.name())))?);
    }
    Ok(selections)
}

/// Returns the selection that the state `then` names, if `source` can have it. `now` is the current one.
pub(crate) async fn selection_of(
    source: &SampleSource,
    then: &SourceState,
    now: &SourceSelection,
    buckets: Option<&Buckets>,
) -> Result<SourceSelection> {
    let other = |what: &str, then: String, now: String| {
        Err(Error::invalid_input(format!("the state is of {what} {then}, and this loader is of {now}")))
    };
    if then.table != source.table.name() {
        return other("table", then.table.clone(), source.table.name().to_owned());
    }
    if then.identity.is_some_and(|identity| identity != now.snapshot().identity()) {
        let message = format!("the state is of another table `{}`, which was dropped: begin anew", then.table);
        return Err(Error::invalid_input(message));
    }
    if then.filter != source.filter {
        let name = |filter: &Option<String>| filter.clone().unwrap_or_else(|| "none".to_owned());
        return other("filter", name(&then.filter), name(&source.filter));
    }
    if then.weight != source.weight {
        let name = |weight: Option<f64>| weight.map_or_else(|| "none".to_owned(), |weight| weight.to_string());
        return other("weight", name(then.weight), name(source.weight));
    }
    let selection = match source.version {
        _ if now.snapshot().version().0 == then.version => now.clone(),
        Some(version) => return other("version", then.version.to_string(), version.to_string()),
        None => {
            let version = Some(Version(then.version));
            let length = buckets.map(|buckets| buckets.column.as_str());
            SourceSelection::read(&SampleSource { version, ..source.clone() }, length).await.map_err(|error| {
                error.context(format!(
                    "go back to version {} of table `{}`, which the state is of",
                    then.version, then.table
                ))
            })?
        }
    };
    if selection.rows() != then.rows {
        return Err(Error::invalid_input(format!(
            "the state is of {} rows of table `{}`, and this loader selects {}",
            then.rows,
            then.table,
            selection.rows()
        )));
    }
    Ok(selection)
}

/// Returns the mixture of the selections.
///
/// # Errors
/// As [`Mixture::new`].
pub(crate) fn mixture(
    selections: &[SourceSelection],
    weights: Option<&[f64]>,
    epoch_rows: Option<u64>,
) -> Result<Mixture> {
    Mixture::new(selections.iter().map(SourceSelection::rows).collect(), weights, epoch_rows)
}

/// Estimates the bytes of a row in `columns`.
pub(crate) async fn row_bytes(selections: &[SourceSelection], columns: &[String]) -> Result<u64> {
    let (mut bytes, mut rows) = (0, 0);
    for selection in selections {
        let step = selection.row_ids().len().div_ceil(SAMPLE_ROWS).max(1);
        let row_ids: Vec<u64> = selection.row_ids().iter().copied().step_by(step).collect();
        let schema = selection.snapshot().full_schema();
        let is_media = |name: &&String| schema.field_with_name(name).is_ok_and(is_blob);
        let (media, plain): (Vec<&String>, Vec<&String>) = columns.iter().partition(is_media);
        let plain: Vec<String> = plain.into_iter().cloned().collect();
        bytes += selection.snapshot().take(&row_ids, &plain).await?.get_array_memory_size() as u64;
        for column in media {
            bytes += selection.snapshot().blob_sizes(column, &row_ids).await?.iter().sum::<u64>();
        }
        rows += row_ids.len() as u64;
    }
    Ok(bytes / rows.max(1))
}
