//! A table of numbers by number, which most tests of writing use.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_store::{ScanRequest, Snapshot, TableSpec};

/// Makes rows of a table of [`spec`].
pub fn batch(rows: impl IntoIterator<Item = (i64, i64)>) -> RecordBatch {
    let rows: Vec<(i64, i64)> = rows.into_iter().collect();
    let column = |side: fn(&(i64, i64)) -> i64| Arc::new(rows.iter().map(side).collect::<Int64Array>()) as _;
    RecordBatch::try_from_iter([("id", column(|row| row.0)), ("value", column(|row| row.1))]).unwrap()
}

/// Describes a table of `id` and `value`, keyed by `id`.
pub fn spec() -> TableSpec {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)];
    TableSpec::new(Arc::new(Schema::new(fields)), ["id"])
}

/// Reads all rows, and checks that each key occurs once.
pub async fn contents(snapshot: &Snapshot) -> BTreeMap<i64, i64> {
    let batch = snapshot.collect(&ScanRequest::default().columns(["id", "value"])).await.unwrap();
    let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values().iter().copied();
    let rows: BTreeMap<i64, i64> = column(0).zip(column(1)).collect();
    assert_eq!(rows.len(), batch.num_rows(), "a key occurs twice");
    rows
}
