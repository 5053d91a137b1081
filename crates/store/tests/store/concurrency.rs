//! Many writers in one process, and two stores on one directory, which lock and follow each other as two processes do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, UInt64Type};
use cenote_base::{ByteSize, ErrorKind, Random};
use cenote_store::{Staged, Store, StoreOptions, Table, Version};

use crate::support::rows::{batch, contents, spec};

const WRITERS: i64 = 16;
const WRITES: i64 = 40;

fn options() -> StoreOptions {
    StoreOptions {
        fold_bytes: ByteSize(100_000),
        fold_rows: 300,
        bulk_bytes: ByteSize(6_000),
        ..StoreOptions::default()
    }
}

async fn two_tables(directory: &std::path::Path) -> [Table; 2] {
    let store = Store::open(directory, options()).await.unwrap();
    let table = store.create_table("t", spec()).await.unwrap();
    [table, Store::open(directory, options()).await.unwrap().table("t").await.unwrap()]
}

/// Transfers money between a writer's own accounts, each time in one call: no snapshot sees money appear or vanish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_never_sees_half_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let tables = two_tables(directory.path()).await;
    let accounts: Vec<(i64, i64)> = (0..WRITERS * 4).map(|account| (account, 100)).collect();
    tables[0].upsert(batch(accounts)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for table in tables.clone() {
        let done = Arc::clone(&done);
        readers.push(tokio::spawn(async move {
            let mut last = Version(0);
            while !done.load(Ordering::Acquire) {
                let snapshot = table.snapshot().await.unwrap();
                assert!(snapshot.version() >= last, "a later snapshot is older");
                last = snapshot.version();
                let rows = contents(&snapshot).await;
                assert_eq!(rows.len(), WRITERS as usize * 4);
                assert_eq!(rows.values().sum::<i64>(), WRITERS * 400, "at version {last}");
            }
        }));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let table = tables[(writer % 2) as usize].clone();
        writers.push(tokio::spawn(async move {
            let mut random = Random::new(writer as u64);
            let mut money = [100i64; 4];
            for _ in 0..WRITES {
                let (from, to) = (random.below(4) as usize, random.below(4) as usize);
                if from == to {
                    continue;
                }
                let amount = random.below(50) as i64;
                money[from] -= amount;
                money[to] += amount;
                let rows = [from, to].map(|account| (writer * 4 + account as i64, money[account]));
                table.upsert(batch(rows)).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.await.unwrap();
    }
}

/// Checks that every acknowledged write is in the feed once, at its version; that versions order each writer's writes;
/// and that each snapshot is what the feed adds up to at its version (Kingsbury, Alvaro: "Elle", VLDB 2020, with the
/// order given by the feed).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_have_one_order_that_everybody_sees() {
    let directory = tempfile::tempdir().unwrap();
    let tables = two_tables(directory.path()).await;
    let start = tables[0].snapshot().await.unwrap().version();
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let table = tables[(writer % 2) as usize].clone();
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(writer as u64);
            let (mut written, mut read) = (Vec::new(), Vec::new());
            for number in 0..WRITES {
                let value = writer * WRITES + number;
                // Now and then a write that goes straight to the base.
                let keys = if random.below(20) == 0 { 0..400 } else { random.below(30) as i64..30 };
                let rows: Vec<(i64, i64)> = keys.map(|key| (key, value)).collect();
                let version = table.upsert(batch(rows)).await.unwrap().version;
                written.push((version, value));
                let snapshot = table.snapshot().await.unwrap();
                assert!(snapshot.version() >= version, "a write is not in the next snapshot");
                read.push((snapshot.version(), contents(&snapshot).await));
            }
            assert!(written.is_sorted_by(|a, b| a.0 < b.0));
            (written, read)
        }));
    }
    let (mut written, mut read) = (BTreeMap::new(), Vec::new());
    for task in tasks {
        let (writes, reads) = task.await.unwrap();
        for (version, value) in writes {
            assert_eq!(written.insert(version, value), None, "two writes are version {version}");
        }
        read.extend(reads);
    }
    read.sort_by_key(|(version, _)| *version);

    let mut feed = tables[1].changes(start).await.unwrap();
    let (mut rows, mut at) = (BTreeMap::new(), 0);
    while let Some(changes) = feed.next().await.unwrap() {
        let version = Version(changes["version"].as_primitive::<UInt64Type>().value(0));
        while at < read.len() && read[at].0 < version {
            assert_eq!(read[at].1, rows, "the snapshot of version {}", read[at].0);
            at += 1;
        }
        let keys = changes["key"].as_struct().column(0).as_primitive::<Int64Type>();
        let after = changes["after"].as_struct().column_by_name("value").unwrap().as_primitive::<Int64Type>();
        for (key, value) in keys.values().iter().zip(after.values()) {
            assert_eq!(Some(value), written.get(&version), "version {version}");
            rows.insert(*key, *value);
        }
        written.remove(&version);
    }
    assert!(written.is_empty(), "not in the feed: {written:?}");
    assert!(read[at..].iter().all(|(_, seen)| *seen == rows));
    assert_eq!(contents(&tables[0].snapshot().await.unwrap()).await, rows);
}

/// Stages files in several places at the same time, and commits them as one version with unique keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_staged_in_many_places_are_committed_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let tables = two_tables(directory.path()).await;
    let old: Vec<(i64, i64)> = (0..300).map(|key| (key, -1)).collect();
    tables[0].upsert(batch(old)).await.unwrap();
    tables[0].upsert(batch([(5, -2)])).await.unwrap();
    let stagers = (0..4).map(|part| {
        let table = tables[part as usize % 2].clone();
        tokio::spawn(async move {
            let rows: Vec<(i64, i64)> = (part * 100..part * 100 + 100).map(|key| (key, part)).collect();
            table.stage(vec![batch(rows)]).await.unwrap().to_bytes().unwrap()
        })
    });
    let mut staged = Vec::new();
    for stager in stagers.collect::<Vec<_>>() {
        staged.push(Staged::from_bytes(&stager.await.unwrap()).unwrap());
    }
    assert_eq!(contents(&tables[0].snapshot().await.unwrap()).await.len(), 300, "staged rows are seen");
    let again = staged[0].clone();
    let refused = tables[1].commit(vec![again.clone(), again.clone()]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");

    let report = tables[1].commit(staged).await.unwrap();
    assert_eq!((report.inserted, report.updated), (100, 300));
    let expected: BTreeMap<i64, i64> = (0..400).map(|key| (key, key / 100)).collect();
    for table in &tables {
        assert_eq!(contents(&table.snapshot().await.unwrap()).await, expected);
    }
    tables[0].add_columns(&[Field::new("extra", DataType::Utf8, true)]).await.unwrap();
    assert_eq!(tables[0].commit(vec![again]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(Staged::from_bytes(b"something else").is_err());
}
