//! Media by row, wherever Lance stores them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, LargeBinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use cenote_base::{ErrorKind, Random};
use cenote_store::{ROW_ID, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, blob_field};

/// Lance keeps up to 64 KiB in the data file, up to 4 MiB with others in a file beside it, and more in a file of its
/// own.
const SIZES: [Option<usize>; 9] =
    [None, Some(0), Some(1), Some(3_000), Some(65_536), Some(65_537), Some(90_000), Some(400_000), Some(4_200_000)];

type Media = BTreeMap<i64, Option<Vec<u8>>>;

async fn new_table(directory: &Path) -> Table {
    let store = Store::open(directory, StoreOptions::default()).await.unwrap();
    let fields = vec![Field::new("id", DataType::Int64, false), blob_field("data")];
    store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap()
}

async fn upsert(table: &Table, media: &Media) {
    let ids: Int64Array = media.keys().copied().collect();
    let data: LargeBinaryArray = media.values().map(Option::as_deref).collect();
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), blob_field("data")]));
    table.upsert(RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(data)]).unwrap()).await.unwrap();
}

/// Returns ids and row ids.
async fn rows(snapshot: &Snapshot) -> Vec<(i64, u64)> {
    let rows = snapshot.collect(&ScanRequest::default().columns(["id"]).with_row_id()).await.unwrap();
    let ids = rows["id"].as_primitive::<Int64Type>().values().iter().copied();
    ids.zip(rows[ROW_ID].as_primitive::<UInt64Type>().values().iter().copied()).collect()
}

async fn check(snapshot: &Snapshot, wanted: &[(i64, u64)], expected: &Media) {
    let row_ids: Vec<u64> = wanted.iter().map(|(_, row)| *row).collect();
    let found = snapshot.take(&row_ids, &["data".to_owned()]).await.unwrap();
    let found = found["data"].as_binary::<i64>();
    let sizes = snapshot.blob_sizes("data", &row_ids).await.unwrap();
    for (row, (id, _)) in wanted.iter().enumerate() {
        let found = found.is_valid(row).then(|| found.value(row));
        assert!(found == expected[id].as_deref(), "{id}: {:?} bytes", found.map(<[u8]>::len));
        assert_eq!(sizes[row], expected[id].as_ref().map_or(0, Vec::len) as u64);
    }
}

#[tokio::test]
async fn media_of_any_size_are_read_by_row_in_any_order() {
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    let mut random = Random::new(5);
    let mut media = Media::new();
    for step in 0..4 {
        let some: Media = (0..60)
            .map(|_| {
                let size = SIZES[random.below(if step == 0 { 9 } else { 8 }) as usize];
                let data = size.map(|size| (0..size).map(|_| random.next_u64() as u8).collect());
                (random.below(150) as i64, data)
            })
            .collect();
        upsert(&table, &some).await;
        media.extend(some);
        match step {
            1 => table.fold().await.unwrap(),
            2 => table.compact(true).await.unwrap(),
            _ => {}
        }
        let snapshot = table.snapshot().await.unwrap();
        let rows = rows(&snapshot).await;
        assert_eq!(rows.len(), media.len());
        check(&snapshot, &rows, &media).await;
        for _ in 0..3 {
            let some: Vec<_> = (0..40).map(|_| rows[random.below(rows.len() as u64) as usize]).collect();
            check(&snapshot, &some, &media).await;
        }
        // Lance itself finds the same.
        let scanned = snapshot.collect(&ScanRequest::default()).await.unwrap();
        let (ids, data) = (scanned["id"].as_primitive::<Int64Type>(), scanned["data"].as_binary::<i64>());
        for row in 0..scanned.num_rows() {
            assert!(data.is_valid(row).then(|| data.value(row)) == media[&ids.value(row)].as_deref());
        }
    }
}

#[tokio::test]
async fn more_media_than_pages_hold_are_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    let media: Media =
        (0..5_000i64).map(|id| (id, (id % 7 != 0).then(|| id.to_le_bytes().repeat(id as usize % 40)))).collect();
    upsert(&table, &media).await;
    table.fold().await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    let mut rows = rows(&snapshot).await;
    rows.reverse();
    check(&snapshot, &rows, &media).await;
    check(&snapshot, &rows[..100], &media).await;
}

/// Lists the files with media beside the data files.
fn sidecars(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => sidecars(&path),
            false => Vec::from_iter(path.extension().is_some_and(|end| end == "blob").then_some(path)),
        })
        .collect()
}

#[tokio::test]
async fn media_that_are_gone_are_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    let media: Media = (0..3).map(|id| (id, Some(vec![id as u8; 100_000]))).collect();
    upsert(&table, &media).await;
    table.fold().await.unwrap();
    let path = match &sidecars(directory.path())[..] {
        [path] => path.clone(),
        other => panic!("{other:?}"),
    };
    let read = async || {
        let table = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
        let snapshot = table.snapshot().await.unwrap();
        let mut rows = rows(&snapshot).await;
        rows.sort_unstable();
        check(&snapshot, &rows[..2], &media).await;
        let last = snapshot.take(&[rows[2].1], &["data".to_owned()]).await;
        last.map(|found| assert!(found["data"].as_binary::<i64>().value(0) == vec![2; 100_000]))
    };
    read().await.unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.to_string(), format!("{} ends before the media of some rows", path.display()));

    std::fs::remove_file(&path).unwrap();
    let table = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    let row = rows(&snapshot).await[0].1;
    let error = snapshot.take(&[row], &["data".to_owned()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.to_string(), format!("{} is missing, and holds the media of some rows", path.display()));
}
