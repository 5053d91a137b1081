//! The promise that a batch holds few bytes, wherever the wide rows of a table are.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, Random};
use cenote_store::{ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, Version};
use futures::TryStreamExt;

const ROWS: i64 = 20_000;
const WIDE_ROWS: i64 = 24;
const WIDE_BYTES: usize = 1 << 20;
/// Maximum bytes of a batch of a scan and of the change feed, unless it is one row.
const SCAN_BYTES: usize = 4 << 20;
const FEED_BYTES: usize = 16 << 20;

fn rows(ids: impl IntoIterator<Item = i64>, is_wide: impl Fn(i64) -> bool, random: &mut Random) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let mut value = |id: &i64| match is_wide(*id) {
        true => (0..WIDE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect(),
        false => vec![7; 5],
    };
    let values: Vec<Vec<u8>> = ids.iter().map(&mut value).collect();
    let wide: Int64Array = ids.iter().map(|id| i64::from(is_wide(*id))).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from(ids))),
        ("wide", Arc::new(wide)),
        ("data", Arc::new(LargeBinaryArray::from_iter_values(values))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn check(batch: &RecordBatch, bytes_max: usize, what: &str) {
    let bytes: usize = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap()).sum();
    assert!(bytes <= bytes_max || batch.num_rows() == 1, "{what}: {} rows of {bytes} bytes", batch.num_rows());
}

/// Checks the batches of scans, and that they are complete.
async fn check_scans(snapshot: &Snapshot, what: &str) {
    for (filter, expected) in [
        (None, ROWS),
        (Some("id >= 0"), ROWS),
        (Some("wide = 1"), WIDE_ROWS),
        (Some("data = X'0707070707'"), ROWS - WIDE_ROWS),
        (Some("data <> X'0707070707'"), WIDE_ROWS),
    ] {
        let what = format!("{what}, {filter:?}");
        let mut request = ScanRequest::default().columns(["id", "data"]).with_row_id();
        request.filter = filter.map(Into::into);
        let batches: Vec<RecordBatch> = snapshot.scan(&request).await.unwrap().try_collect().await.unwrap();
        batches.iter().for_each(|batch| check(batch, SCAN_BYTES, &what));
        let ids = batches.iter().flat_map(|batch| batch["id"].as_primitive::<Int64Type>().values().iter().copied());
        let mut ids: Vec<i64> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len() as i64, expected, "{what}");
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, ids.len(), "{what}: a row occurs twice");
        // A narrow row does not get a batch of its own for the wide ones elsewhere.
        assert!(batches.len() < 500, "{what}: {} batches", batches.len());
    }
}

async fn check_feed(table: &Table, from: Version, what: &str) {
    let (mut feed, mut rows) = (table.changes(from).await.unwrap(), 0);
    while let Some(batch) = feed.next().await.unwrap() {
        check(&batch, FEED_BYTES, what);
        rows += batch.num_rows();
    }
    assert!(rows as i64 >= ROWS, "{what}: {rows} rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_holds_few_bytes_wherever_the_wide_rows_are() {
    let mut random = Random::new(11);
    let scattered: Vec<i64> = (0..WIDE_ROWS).map(|n| n * (ROWS / WIDE_ROWS) + random.below(500) as i64).collect();
    let at: [(&str, &dyn Fn(i64) -> bool); 4] = [
        ("first", &|id| id < WIDE_ROWS),
        ("last", &|id| id >= ROWS - WIDE_ROWS),
        ("together", &|id| (9_000..9_000 + WIDE_ROWS).contains(&id)),
        ("scattered", &|id| scattered.binary_search(&id).is_ok()),
    ];
    for (place, is_wide) in at {
        // Written to the log, or directly to the base.
        for bulk_bytes in [ByteSize::mib(64), ByteSize(4_000)] {
            let directory = tempfile::tempdir().unwrap();
            let options = StoreOptions { bulk_bytes, fold_bytes: ByteSize::mib(256), ..StoreOptions::default() };
            let store = Store::open(directory.path(), options).await.unwrap();
            let fields = vec![
                Field::new("id", DataType::Int64, false),
                Field::new("wide", DataType::Int64, true),
                Field::new("data", DataType::LargeBinary, true),
            ];
            let spec = TableSpec::new(Arc::new(Schema::new(fields)), ["id"]);
            let table = store.create_table("t", spec).await.unwrap();
            let start = table.snapshot().await.unwrap().version();
            let what = |part: &str| format!("wide rows {place}, {part}, bulk {bulk_bytes:?}");
            table.upsert(rows(0..ROWS, is_wide, &mut random)).await.unwrap();
            check_scans(&table.snapshot().await.unwrap(), &what("written")).await;
            table.fold().await.unwrap();
            check_scans(&table.snapshot().await.unwrap(), &what("folded")).await;
            check_feed(&table, start, &what("feed")).await;
            let again = (0..ROWS).step_by(1_000).chain((0..ROWS).filter(|id| is_wide(*id)));
            let again: std::collections::BTreeSet<i64> = again.collect();
            table.upsert(rows(again, is_wide, &mut random)).await.unwrap();
            check_scans(&table.snapshot().await.unwrap(), &what("superseded")).await;
            check_feed(&table, start, &what("feed of both")).await;
        }
    }
}
