//! What upkeep costs: bytes written for each byte that was given.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use cenote_base::{ByteSize, Random};
use cenote_store::{Store, StoreOptions, TableSpec};

const DIMENSIONS: usize = 64;
const CALL_ROWS: usize = 512;
/// Enough for small files to be joined twice.
const FOLDS: usize = 72;

fn rows(ids: Vec<i64>, random: &mut Random) -> RecordBatch {
    let numbers = (0..ids.len() * DIMENSIONS).map(|_| random.next_u64() as f32).collect::<Float32Array>();
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let vectors = FixedSizeListArray::new(item, DIMENSIONS as i32, Arc::new(numbers), None);
    let columns = [("id", Arc::new(Int64Array::from(ids)) as ArrayRef), ("vector", Arc::new(vectors))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, name != "id"))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_is_written_five_times_at_most() {
    let directory = tempfile::tempdir().unwrap();
    // Every call fills the change store.
    let options = StoreOptions { fold_bytes: ByteSize(64 << 10), ..StoreOptions::default() };
    let store = Store::open(directory.path(), options).await.unwrap();
    let mut random = Random::new(1);
    let schema = rows(Vec::new(), &mut random).schema();
    let table = store.create_table("t", TableSpec::new(schema, ["id"])).await.unwrap();
    let mut known = 0;
    for _ in 0..FOLDS {
        // Half of the rows are new, and half replace others.
        let new = known..known + CALL_ROWS as i64 / 2;
        let mut ids: Vec<i64> = new.clone().collect();
        while known > 0 && ids.len() < CALL_ROWS {
            let id = random.below(known as u64) as i64;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        known = new.end;
        table.upsert(rows(ids, &mut random)).await.unwrap();
        table.tend().await.unwrap();
    }
    table.compact(false).await.unwrap();
    let status = table.upkeep().await.unwrap();
    assert_eq!((status.keys, table.snapshot().await.unwrap().count(None).await.unwrap()), (0, known as usize));
    assert!(status.files < 100, "{} files", status.files);
    // The log and the base are two.
    assert!((2.0..=5.0).contains(&status.amplification), "{status:?}");
}
