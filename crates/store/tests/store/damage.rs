//! Files left by a crash, by a disk or by another version: read as far as they are valid, and named where they are not.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ErrorKind, ManualClock, Result, Timestamp};
use cenote_store::{DURABILITY_PROPERTY, ScanRequest, Store, StoreOptions, Table, TableSpec, Version};

fn batch(ids: std::ops::Range<i64>, value: i64) -> RecordBatch {
    let values = Int64Array::from(vec![value; ids.clone().count()]);
    let ids: Int64Array = ids.collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("value", Arc::new(values) as _)]).unwrap()
}

async fn open(directory: &Path) -> Result<Table> {
    Store::open(directory, StoreOptions::default()).await?.table("t").await
}

async fn values(table: &Table) -> Result<Vec<i64>> {
    let rows = table.snapshot().await?.collect(&ScanRequest::default()).await?;
    let mut rows: Vec<(i64, i64)> = rows["id"]
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .copied()
        .zip(rows["value"].as_primitive::<Int64Type>().values().iter().copied())
        .collect();
    rows.sort_unstable();
    Ok(rows.into_iter().map(|(_, value)| value).collect())
}

/// Makes a table of three rows, each written by itself, none folded.
async fn three_writes() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)];
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap();
    for id in 0..3 {
        table.upsert(batch(id..id + 1, id)).await.unwrap();
    }
    directory
}

/// Lists the segments of the log.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("t.changes")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "log")).collect()
}

/// Returns the newest segment.
fn segment(directory: &Path) -> PathBuf {
    segments(directory).into_iter().max().unwrap()
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_cut_off_and_writing_goes_on() {
    let directory = three_writes().await;
    let path = segment(directory.path());
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 10, 100] {
        // Half of the last write, and then half of one that was never acknowledged.
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let table = open(directory.path()).await.unwrap();
        assert_eq!(values(&table).await.unwrap(), [0, 1], "{cut} bytes short");
    }
    std::fs::write(&path, &whole).unwrap();
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&whole[whole.len() - 300..]).unwrap();
    let table = open(directory.path()).await.unwrap();
    assert_eq!(values(&table).await.unwrap(), [0, 1, 2]);
    table.upsert(batch(3..4, 3)).await.unwrap();
    assert_eq!(values(&open(directory.path()).await.unwrap()).await.unwrap(), [0, 1, 2, 3]);
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_an_error_that_names_the_file() {
    let directory = three_writes().await;
    let path = segment(directory.path());
    let mut bytes = std::fs::read(&path).unwrap();
    // Damages the second write; the third one after it is intact.
    let frames: Vec<usize> = bytes.windows(4).enumerate().filter(|(_, w)| *w == b"CNLG").map(|(at, _)| at).collect();
    bytes[frames[2] + 60] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    let table = open(directory.path()).await.unwrap();
    let error = table.upsert(batch(9..10, 9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged log was changed");
}

/// Unsynced writes may reach the disk in any order.
#[tokio::test]
async fn a_write_that_was_not_synced_ends_the_log_when_it_is_torn_whatever_is_behind_it() {
    let directory = three_writes().await;
    let table = open(directory.path()).await.unwrap();
    let relaxed = BTreeMap::from([(DURABILITY_PROPERTY.to_owned(), Some("relaxed".to_owned()))]);
    table.set_properties(relaxed).await.unwrap();
    let path = segment(directory.path());
    let synced = std::fs::metadata(&path).unwrap().len() as usize;
    for id in 0..3 {
        table.upsert(batch(id..id + 1, 10 + id)).await.unwrap();
    }
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[synced..synced + 100].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let table = open(directory.path()).await.unwrap();
    assert_eq!(values(&table).await.unwrap(), [0, 1, 2]);
    table.upsert(batch(3..4, 3)).await.unwrap();
    assert_eq!(values(&open(directory.path()).await.unwrap()).await.unwrap(), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_segment_of_the_log_that_somebody_removed_is_missed() {
    let directory = three_writes().await;
    let table = open(directory.path()).await.unwrap();
    for id in 3..6 {
        table.fold().await.unwrap();
        table.upsert(batch(id..id + 1, id)).await.unwrap();
    }
    let mut segments = segments(directory.path());
    segments.sort_unstable();
    std::fs::remove_file(&segments[1]).unwrap();
    let error = open(directory.path()).await.unwrap().versions().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("lacks a segment between others"), "{error}");
}

/// Writes from several processes, each of which vouches for what existed before it.
#[tokio::test]
async fn damage_is_found_in_what_other_processes_wrote() {
    let directory = three_writes().await;
    for id in 3..6 {
        open(directory.path()).await.unwrap().upsert(batch(id..id + 1, id)).await.unwrap();
    }
    let path = segment(directory.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let frames: Vec<usize> = bytes.windows(4).enumerate().filter(|(_, w)| *w == b"CNLG").map(|(at, _)| at).collect();
    bytes[frames[frames.len() - 2] + 60] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    let error = open(directory.path()).await.unwrap().upsert(batch(9..10, 9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged log was changed");
}

#[tokio::test]
async fn a_log_of_a_newer_format_is_left_alone() {
    let directory = three_writes().await;
    let path = segment(directory.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(10).position(|window| window == b"\"format\":2").unwrap();
    bytes[at + 9] = b'7';
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let crc = crc32fast::hash(&bytes[12..12 + length]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let table = open(directory.path()).await.unwrap();
    let error = table.snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("format 7"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_key_index_that_is_gone_is_made_anew() {
    let directory = three_writes().await;
    open(directory.path()).await.unwrap().fold().await.unwrap();
    std::fs::remove_dir_all(directory.path().join("t.changes/keys")).unwrap();
    let table = open(directory.path()).await.unwrap();
    let report = table.upsert(batch(1..5, 7)).await.unwrap();
    assert_eq!((report.inserted, report.updated), (2, 2));
    assert_eq!(values(&table).await.unwrap(), [0, 7, 7, 7, 7]);
}

/// Damages entries so that an existing key would look new.
#[tokio::test]
async fn a_damaged_key_index_makes_no_key_twice_and_is_made_anew() {
    const ROWS: i64 = 5_000;
    // A directory, and an object store whose local copy is damaged, alone or together with the original.
    for (is_remote, damaged) in [(false, "store"), (true, "cache"), (true, "")] {
        let directory = tempfile::tempdir().unwrap();
        let open = async || {
            let options = StoreOptions { cache_directory: directory.path().join("cache"), ..StoreOptions::default() };
            let path = directory.path().join("store");
            match is_remote {
                true => Store::open(format!("file-object-store://{}", path.display()), options).await.unwrap(),
                false => Store::open(path, options).await.unwrap(),
            }
        };
        let store = open().await;
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)];
        let table = store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap();
        table.upsert(batch(0..ROWS, 1)).await.unwrap();
        table.fold().await.unwrap();
        store.release().await.unwrap();
        drop((store, table));
        let files = key_files(&directory.path().join(damaged));
        assert!(!files.is_empty());
        for file in files {
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[8_192..12_288].fill(0);
            std::fs::write(&file, bytes).unwrap();
        }
        // The first process that meets the damage may get an error, but nobody gets wrong data.
        let mut tries = 0;
        let report = loop {
            let store = open().await;
            let outcome = store.table("t").await.unwrap().upsert(batch(0..ROWS, 2)).await;
            store.release().await.unwrap();
            match outcome {
                Ok(report) => break report,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
            tries += 1;
            assert!(tries < 3);
        };
        assert_eq!((report.inserted, report.updated), (0, ROWS as usize));
        let table = open().await.table("t").await.unwrap();
        assert_eq!(values(&table).await.unwrap(), vec![2; ROWS as usize]);
    }
}

/// Lists all files of key indexes under `directory`.
fn key_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| match path.is_dir() {
        true => key_files(&path),
        false => vec![path],
    });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "keys")).collect()
}

#[tokio::test]
async fn a_clock_that_jumps_back_does_not_turn_history_round() {
    let directory = three_writes().await;
    let clock = Arc::new(ManualClock::new(Timestamp(4_000_000_000_000_000)));
    let options = StoreOptions { clock: Arc::clone(&clock) as _, ..StoreOptions::default() };
    let table = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    table.upsert(batch(0..1, 10)).await.unwrap();
    clock.advance(-3_000_000_000_000_000);
    let late = table.upsert(batch(0..1, 11)).await.unwrap().version;
    table.fold().await.unwrap();
    let versions = table.versions().await.unwrap();
    assert!(versions.is_sorted_by_key(|listed| listed.time), "{versions:?}");
    assert_eq!(versions.last().unwrap().version, late);
    let before = table.snapshot_at(Version(late.0 - 1)).await.unwrap();
    assert_eq!(before.count(Some("value = 10".into())).await.unwrap(), 1);
}
