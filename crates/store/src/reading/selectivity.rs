//! Estimates of how many rows a filter keeps, from a sample.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Schema;
use cenote_base::Result;
use lance_datafusion::planner::Planner;

use crate::base::pages::RowReader;
use crate::rows::filter::Filter;
use crate::rows::schema::is_blob;

/// Places of the base that are sampled, and rows sampled at each.
const PLACES: u64 = 8;
const PLACE_ROWS: usize = 128;

/// Estimates which share of the base's rows satisfies `filter`, from 0 to 1; `None` if a sample cannot tell.
pub(crate) async fn share(reader: &RowReader, filter: &Filter) -> Result<Option<f64>> {
    let base = reader.base();
    let stored = Arc::new(Schema::from(base.schema()));
    // The scan will report what is wrong with the filter.
    let Ok(expression) = filter.expression(&stored) else { return Ok(None) };
    let columns: BTreeSet<String> = Planner::column_names_in_expr(&expression)
        .into_iter()
        .filter_map(|name| name.split('.').next().map(str::to_owned))
        .collect();
    let columns: Vec<&String> = columns.iter().collect();
    let Ok(projected) = base.schema().project(&columns) else { return Ok(None) };
    let fields = Arc::new(Schema::from(&projected));
    if fields.fields().is_empty() || fields.fields().iter().any(|field| is_blob(field)) {
        return Ok(None);
    }
    let predicate = filter.predicate(&fields)?;
    let (mut rows, mut selected) = (0, 0);
    for sample in reader.sample(&projected, PLACES, PLACE_ROWS).await? {
        // If the filter fails on a row, the scan reports that, should it reach the row.
        let value = predicate.evaluate(&sample).and_then(|value| value.into_array(sample.num_rows()));
        let Some(found) = value.ok().and_then(|value| value.as_boolean_opt().map(|found| found.true_count())) else {
            return Ok(None);
        };
        rows += sample.num_rows();
        selected += found;
    }
    Ok((rows > 0).then(|| selected as f64 / rows as f64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type};

    use super::*;
    use crate::{ScanRequest, Store, StoreOptions, TableSpec, blob_field};

    #[tokio::test]
    async fn a_filter_is_judged_by_rows_from_everywhere() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
        let fields = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("word", DataType::Utf8, true),
            blob_field("picture"),
        ];
        let table = store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap();
        let share = async |filter: &str| {
            let snapshot = table.snapshot().await.unwrap();
            super::share(snapshot.reader(), &filter.into()).await
        };
        assert_eq!(share("id > 0").await.unwrap(), None, "there is no row");
        for part in 0..2 {
            let ids = part * 20_000..(part + 1) * 20_000;
            let words = ids.clone().map(|id| (id % 4 > 0).then(|| format!("word {id}")));
            let columns: [(&str, ArrayRef); 2] = [
                ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
                ("word", Arc::new(words.collect::<StringArray>())),
            ];
            table.upsert(RecordBatch::try_from_iter(columns).unwrap()).await.unwrap();
            table.fold().await.unwrap();
        }
        assert_eq!(share("id >= 0").await.unwrap(), Some(1.0));
        assert_eq!(share("id < 10000").await.unwrap(), Some(0.25));
        assert_eq!(share("id >= 20000 AND word IS NOT NULL").await.unwrap(), Some(0.375));
        assert_eq!(share("picture IS NULL").await.unwrap(), None, "media are not looked at");
        assert_eq!(share("1 / (id - id) > 0").await.unwrap(), None, "the scan says so");
        assert_eq!(share("nothing > 0").await.unwrap(), None);

        // However many rows pass, each is read completely.
        table
            .upsert(RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![7, -1])) as ArrayRef)]).unwrap())
            .await
            .unwrap();
        let snapshot = table.snapshot().await.unwrap();
        for (filter, expected) in [("id >= 0", 40_000), ("id < 30000", 30_001), ("id < 10", 11), ("word = 'word 7'", 0)]
        {
            let rows = snapshot.collect(&ScanRequest::default().columns(["word", "id"]).filter(filter)).await.unwrap();
            let (words, ids) = (rows["word"].as_string::<i32>(), rows["id"].as_primitive::<Int64Type>());
            assert_eq!(rows.num_rows(), expected, "{filter}");
            for (word, id) in words.iter().zip(ids.values()) {
                let expected = (*id > 0 && *id != 7 && id % 4 > 0).then(|| format!("word {id}"));
                assert_eq!(word, expected.as_deref());
            }
        }
    }
}
