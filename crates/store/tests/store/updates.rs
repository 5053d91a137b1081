//! Updates of columns: where they are written, what they cost, and that everything else stays as it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, Error};
use cenote_store::{Faults, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, blob_field};

const ROWS: i64 = 2_000;

type Rows = BTreeMap<i64, (String, Option<Vec<u8>>)>;

fn fields() -> [Field; 3] {
    [Field::new("id", DataType::Int64, false), Field::new("note", DataType::Utf8, true), blob_field("data")]
}

fn media(id: i64) -> Option<Vec<u8>> {
    (id % 7 > 0).then(|| vec![id as u8; 200 + id as usize % 800])
}

fn notes(ids: impl IntoIterator<Item = i64>, note: &str) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let notes: ArrayRef = Arc::new(StringArray::from(vec![note; ids.len()]));
    let columns: [(&str, ArrayRef, bool); 2] = [("id", Arc::new(Int64Array::from(ids)), false), ("note", notes, true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// Makes a table of [`ROWS`] rows with media, all in one file of the base. Returns it with its contents.
async fn filled(directory: &Path, options: StoreOptions) -> (Table, Rows) {
    let store = Store::open(directory, options).await.unwrap();
    let schema = Arc::new(Schema::new(fields().to_vec()));
    let table = store.create_table("t", TableSpec::new(Arc::clone(&schema), ["id"])).await.unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..ROWS)),
        Arc::new(StringArray::from(vec!["first"; ROWS as usize])),
        Arc::new((0..ROWS).map(media).collect::<LargeBinaryArray>()),
    ];
    table.upsert(RecordBatch::try_new(schema, columns).unwrap()).await.unwrap();
    table.fold().await.unwrap();
    (table, (0..ROWS).map(|id| (id, ("first".to_owned(), media(id)))).collect())
}

async fn read(snapshot: &Snapshot) -> Rows {
    let rows = snapshot.collect(&ScanRequest::default().columns(["id", "note", "data"])).await.unwrap();
    let (ids, notes) = (rows["id"].as_primitive::<Int64Type>(), rows["note"].as_string::<i32>());
    let data = rows["data"].as_binary::<i64>();
    let row = |row: usize| {
        let data = data.is_valid(row).then(|| data.value(row).to_vec());
        (ids.value(row), (notes.value(row).to_owned(), data))
    };
    (0..rows.num_rows()).map(row).collect()
}

/// Returns the data files of the base, each with the number of its live rows.
fn files(snapshot: &Snapshot) -> Vec<(String, usize)> {
    let fragments = snapshot.base().fragments().iter();
    fragments.map(|fragment| (fragment.files[0].path.clone(), fragment.num_rows().unwrap())).collect()
}

#[tokio::test]
async fn a_sparse_update_of_a_table_with_media_is_one_small_write() {
    let directory = tempfile::tempdir().unwrap();
    let (table, mut expected) = filled(directory.path(), StoreOptions::default()).await;
    let before = table.snapshot().await.unwrap();
    for (round, ids) in [[3, 700, 1_400], [3, 7, 1_999]].into_iter().enumerate() {
        let note = format!("round {round}");
        let report = table.update(notes(ids.into_iter().chain([5_000]), &note)).await.unwrap();
        assert_eq!((report.updated, report.inserted), (3, 0));
        ids.iter().for_each(|id| expected.get_mut(id).unwrap().0.clone_from(&note));
        let now = table.snapshot().await.unwrap();
        assert_eq!(files(&now), files(&before), "the base was written");
        assert_eq!(table.upkeep().await.unwrap().keys, 3 + 2 * round);
        assert!(read(&now).await == expected);
    }
    table.fold().await.unwrap();
    let now = table.snapshot().await.unwrap();
    assert_eq!(files(&now)[0], (files(&before)[0].0.clone(), ROWS as usize - 5));
    assert!(read(&now).await == expected);
}

#[tokio::test]
async fn a_dense_update_of_a_table_with_media_copies_none_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let (table, mut expected) = filled(directory.path(), StoreOptions::default()).await;
    let before = table.snapshot().await.unwrap();
    table.update(notes((0..ROWS).step_by(10), "dense")).await.unwrap();
    expected.iter_mut().filter(|(id, _)| *id % 10 == 0).for_each(|(_, row)| "dense".clone_into(&mut row.0));
    let now = table.snapshot().await.unwrap();
    assert_eq!((files(&now), table.upkeep().await.unwrap().keys), (files(&before), 0));
    assert!(read(&now).await == expected);
}

#[tokio::test]
async fn a_sparse_update_of_large_rows_goes_to_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { bulk_bytes: ByteSize(10_000), ..StoreOptions::default() };
    let (table, mut expected) = filled(directory.path(), options).await;
    let before = table.snapshot().await.unwrap();
    // Unordered, and some of the rows do not exist.
    let ids = (0..ROWS + 200).step_by(40).map(|id| (id * 1_207) % (ROWS + 200));
    let ids: Vec<i64> = ids.collect();
    let updated = ids.iter().filter(|id| **id < ROWS).count();
    let report = table.update(notes(ids.clone(), "sparse")).await.unwrap();
    assert_eq!((report.updated, report.inserted), (updated, 0));
    ids.iter().filter_map(|id| expected.get_mut(id).map(|row| "sparse".clone_into(&mut row.0))).count();
    let now = table.snapshot().await.unwrap();
    assert_eq!(files(&now)[0], (files(&before)[0].0.clone(), ROWS as usize - updated));
    assert_eq!((files(&now)[1].1, files(&now).len(), table.upkeep().await.unwrap().keys), (updated, 2, 0));
    assert!(read(&now).await == expected);
    // Each row is found by its key at its new place.
    let found = now.get(&notes(ids, ""), Some(vec!["note".into()])).await.unwrap();
    assert_eq!(found["note"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), vec!["sparse"; updated]);
}

/// Returns the bytes of all files under `directory`.
fn bytes_under(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let bytes = entries.map(|entry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => bytes_under(&entry.path()),
        metadata => metadata.len(),
    });
    bytes.sum()
}

/// Updates like a run that fills a column some rows at a time.
#[tokio::test]
async fn wide_values_are_not_written_again_with_each_part_of_a_file() {
    const PARTS: i64 = 16;
    const VALUE_BYTES: usize = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { bulk_bytes: ByteSize(100_000), ..StoreOptions::default() };
    let (table, mut expected) = filled(directory.path(), options).await;
    let before = bytes_under(directory.path());
    for part in 0..PARTS {
        let ids = part * ROWS / PARTS..(part + 1) * ROWS / PARTS;
        let note = format!("{part:0VALUE_BYTES$}");
        let report = table.update(notes(ids.clone(), &note)).await.unwrap();
        assert_eq!(report.updated, ids.clone().count());
        ids.for_each(|id| expected.get_mut(&id).unwrap().0.clone_from(&note));
    }
    let written = bytes_under(directory.path()) - before;
    assert!(written < 2 * ROWS as u64 * VALUE_BYTES as u64, "{written} bytes");
    assert!(read(&table.snapshot().await.unwrap()).await == expected);
}

#[tokio::test]
async fn an_update_waits_for_room_in_the_change_store() {
    let directory = tempfile::tempdir().unwrap();
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = Arc::clone(&is_broken);
    let faults = Faults::new(move |operation| match operation == "base.stage" && broken.load(Ordering::SeqCst) {
        true => Err(Error::unavailable("the base takes nothing")),
        false => Ok(()),
    });
    let options = StoreOptions { fold_bytes: ByteSize(20_000), faults, ..StoreOptions::default() };
    let (table, mut expected) = filled(directory.path(), options).await;
    is_broken.store(true, Ordering::SeqCst);
    // Updates are accepted as long as there is room, and then all are refused, as upserts are.
    let mut refused = 0;
    for id in 0..500 {
        match table.update(notes([id], "late")).await {
            Ok(report) => {
                assert_eq!((report.updated, refused), (1, 0));
                "late".clone_into(&mut expected.get_mut(&id).unwrap().0);
            }
            Err(error) => {
                assert_eq!(error.to_string(), "the base takes nothing");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
    is_broken.store(false, Ordering::SeqCst);
    table.update(notes([ROWS - 1], "late")).await.unwrap();
    "late".clone_into(&mut expected.get_mut(&(ROWS - 1)).unwrap().0);
    assert!(read(&table.snapshot().await.unwrap()).await == expected);
}
