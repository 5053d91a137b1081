//! A table that is dropped, and another one made under its name: nothing of the one is in the other, in any process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{Error, ErrorKind};
use cenote_store::{Faults, ScanRequest, Store, StoreOptions, TableSpec, lance_error};

use crate::support::rows::{batch, contents, spec};

async fn open(directory: &Path) -> Store {
    Store::open(directory, StoreOptions::default()).await.unwrap()
}

fn rows(rows: impl IntoIterator<Item = (i64, i64)>) -> BTreeMap<i64, i64> {
    rows.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_follows_its_name_when_another_process_makes_the_table_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (store, other) = (open(directory.path()).await, open(directory.path()).await);
    let table = store.create_table("t", spec()).await.unwrap();
    // The former table has had many versions, more than the next one will have for long.
    for number in 0..8 {
        table.upsert(batch((0..20).map(|id| (id, number)))).await.unwrap();
        table.fold().await.unwrap();
    }
    table.delete(&batch([(3, 0)])).await.unwrap();
    table.fold().await.unwrap();
    let held = table.snapshot().await.unwrap();
    assert_eq!(held.count(None).await.unwrap(), 19);

    other.drop_table("t").await.unwrap();
    assert_eq!(table.snapshot().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(table.upsert(batch([(1, 1)])).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!store.tables().await.unwrap().contains(&"t".to_owned()));

    // Another key, and rows where the former table had deleted some.
    let fields = vec![Field::new("name", DataType::Utf8, false), Field::new("id", DataType::Int64, true)];
    let anew = other.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["name"])).await.unwrap();
    let named =
        |names: Vec<String>| RecordBatch::try_from_iter([("name", Arc::new(StringArray::from(names)) as _)]).unwrap();
    let names: Vec<String> = (0..50).map(|number| format!("n{number:02}")).collect();
    anew.upsert(named(names.clone())).await.unwrap();
    anew.fold().await.unwrap();

    let snapshot = table.snapshot().await.unwrap();
    assert_ne!(snapshot.identity(), held.identity());
    assert_eq!(snapshot.primary_key().columns(), ["name"]);
    let read = async |request: ScanRequest| {
        let found = table.snapshot().await.unwrap().collect(&request.columns(["name"])).await.unwrap();
        let mut found: Vec<String> =
            found.column(0).as_string::<i32>().iter().map(|name| name.unwrap().into()).collect();
        found.sort();
        found
    };
    assert_eq!(read(ScanRequest::default()).await, names);
    assert_eq!(read(ScanRequest::default().filter("name >= 'n40'")).await, names[40..]);
    let got = table.snapshot().await.unwrap().get(&named(vec!["n07".into(), "x".into()]), None).await.unwrap();
    assert_eq!(got.num_rows(), 1);
    // Commits pass the fence, although the former table had higher versions.
    table.upsert(named(vec!["m".into()])).await.unwrap();
    table.fold().await.unwrap();
    table.delete(&named(vec!["n00".into()])).await.unwrap();
    table.compact(true).await.unwrap();
    let expected: Vec<String> = ["m".to_owned()].into_iter().chain(names[1..].iter().cloned()).collect();
    assert_eq!(read(ScanRequest::default()).await, expected);
    let seen = anew.snapshot().await.unwrap().count(None).await.unwrap();
    assert_eq!(seen, expected.len());
}

/// Checks that what Lance caches for a version is not used for that version of the next table of the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_dropped_table_mask_none_of_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for rows_max in [20i64, 2_000, 300] {
        let table = store.create_table("t", spec()).await.unwrap();
        table.upsert(batch((0..rows_max).map(|id| (id, id)))).await.unwrap();
        table.fold().await.unwrap();
        table.delete(&batch((0..rows_max).filter(|id| id % 3 == 1).map(|id| (id, 0)))).await.unwrap();
        table.fold().await.unwrap();
        table.upsert(batch([(0, -1)])).await.unwrap();
        let expected = rows((0..rows_max).filter(|id| id % 3 != 1).map(|id| (id, if id == 0 { -1 } else { id })));
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(contents(&snapshot).await, expected);
        let found = snapshot.count(Some("value >= 10".into())).await.unwrap();
        assert_eq!(found, expected.values().filter(|value| **value >= 10).count());
        for id in [0, 1, 2, 17, rows_max - 1] {
            let got = snapshot.get(&batch([(id, 0)]), None).await.unwrap().num_rows();
            assert_eq!(got, usize::from(expected.contains_key(&id)), "{id} of {rows_max}");
        }
        store.drop_table("t").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_that_was_cut_short_leaves_no_table_and_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let faults = {
        let cut = Arc::clone(&cut);
        Faults::new(move |operation| match operation == "object.delete" && cut.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("cut short")),
            false => Ok(()),
        })
    };
    let store = Store::open(directory.path(), StoreOptions { faults, ..StoreOptions::default() }).await.unwrap();
    for round in 0..3 {
        let table = store.create_table("t", spec()).await.unwrap();
        table.upsert(batch((0..100).map(|id| (id, round)))).await.unwrap();
        // What earlier versions of Cenote left when they were interrupted.
        std::fs::create_dir(directory.path().join("t.dropped")).unwrap();
        std::fs::write(directory.path().join("t.dropped/left"), "x").unwrap();
        cut.store(true, Ordering::SeqCst);
        assert!(store.drop_table("t").await.is_err());
        cut.store(false, Ordering::SeqCst);
        assert!(store.tables().await.unwrap().is_empty());
        assert_eq!(table.upsert(batch([(1, 1)])).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    store.create_table("t", spec()).await.unwrap();
    store.drop_table("t").await.unwrap();
    open(directory.path()).await;
    let left =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| !name.ends_with(".lock") && name != "t.staged").collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_on_a_table_that_is_dropped_neither_brings_it_back_nor_reaches_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (store, other) = (open(directory.path()).await, open(directory.path()).await);
    let table = store.create_table("t", spec()).await.unwrap();
    table.upsert(batch((0..100).map(|id| (id, 0)))).await.unwrap();
    for (reads_on, is_made_anew) in [(false, false), (true, false), (false, true)] {
        let outcome = table
            .maintain(async |dataset| {
                other.drop_table("t").await?;
                if reads_on {
                    std::fs::read(directory.path().join("t.lance/data"))?;
                }
                if is_made_anew {
                    other.create_table("t", spec()).await?.upsert(batch([(7, 7)])).await?;
                }
                // Like an index build that does not know of the drop.
                let path = directory.path().join("t.lance/_indices/9");
                std::fs::create_dir_all(&path)?;
                std::fs::write(path.join("part"), "x")?;
                dataset.update_config([("built", "yes")]).await.map(drop).map_err(lance_error)
            })
            .await;
        let error = outcome.unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.message().contains("`t` was dropped"), "{error:#}");
        if !is_made_anew {
            assert!(store.tables().await.unwrap().is_empty());
            store.create_table("t", spec()).await.unwrap();
            assert!(!directory.path().join("t.lance/_indices/9").exists());
        }
    }
    let snapshot = table.snapshot().await.unwrap();
    assert_eq!(contents(&snapshot).await, rows([(7, 7)]));
    assert!(!snapshot.properties().contains_key("built"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_of_many_tables_keeps_few_of_them_open() {
    const TABLES: i64 = 60;
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { idle_tables_max: 5, ..StoreOptions::default() };
    let store = Store::open(directory.path(), options).await.unwrap();
    let open_files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = open_files();
    let mut handles = Vec::new();
    for number in 0..TABLES {
        let table = store.create_table(&format!("t{number}"), spec()).await.unwrap();
        table.upsert(batch([(number, number)])).await.unwrap();
        handles.push(table);
    }
    // Tables with a snapshot stay open in addition.
    let held = handles[3].snapshot().await.unwrap();
    for (number, table) in (0..).zip(&handles) {
        assert_eq!(contents(&table.snapshot().await.unwrap()).await, rows([(number, number)]));
        table.upsert(batch([(number, -1)])).await.unwrap();
    }
    assert!(open_files() < before + 7 * 10, "{} files are open, {before} before", open_files());
    assert_eq!(contents(&held).await, rows([(3, 3)]));
    for (number, table) in (0..).zip(&handles) {
        assert_eq!(contents(&table.snapshot().await.unwrap()).await, rows([(number, -1)]));
    }
}
