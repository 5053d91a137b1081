//! The loader against a plain model: an epoch has each selected row once, in one order, whatever the shapes and stops.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::{Array, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use cenote_base::{ByteSize, ErrorKind, Random};
use cenote_loader::{Buckets, EpochTail, Loader, LoaderOptions, LoaderState, Next, SampleSource, Transform, merge};
use cenote_store::{Store, StoreOptions, Table, TableSpec, blob_field};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("note", DataType::Utf8, true)]))
}

fn rows(ids: impl IntoIterator<Item = i64>, note: &str) -> RecordBatch {
    let ids: Int64Array = ids.into_iter().map(Some).collect();
    let notes: StringArray = (0..ids.len()).map(|_| Some(note)).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(notes)]).unwrap()
}

fn rows_of(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    rows(ids, "new")
}

async fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    (directory, store)
}

async fn table(store: &Store, name: &str, ids: impl IntoIterator<Item = i64>) -> Table {
    let table = store.create_table(name, TableSpec::new(schema(), ["id"])).await.unwrap();
    table.upsert(rows(ids, "first")).await.unwrap();
    table
}

/// Returns the ids of up to `max` batches of the rest of the epoch.
async fn batches(loader: &Arc<Loader>, max: usize) -> Vec<Vec<i64>> {
    let loader = Arc::clone(loader);
    let read = move || {
        let mut batches = Vec::new();
        while batches.len() < max {
            let Some(batch) = loader.next_batch().unwrap() else { break };
            batches.push(batch.rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec());
        }
        batches
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn open(table: &Table, options: LoaderOptions) -> Arc<Loader> {
    Arc::new(Loader::open(vec![SampleSource::new(table.clone())], options).await.unwrap())
}

/// A shape: rows in a batch, ranks, and workers of a rank.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    world: usize,
    workers: usize,
}

impl Shape {
    fn random(random: &mut Random) -> Self {
        let mut upto = |max: u64| 1 + random.below(max) as usize;
        Self { batch: upto(9), world: upto(4), workers: upto(3) }
    }

    /// Opens one loader for each rank and worker, at `state`.
    async fn open(self, table: &Table, order: &LoaderOptions, state: Option<&LoaderState>) -> Vec<Vec<Arc<Loader>>> {
        let mut ranks = Vec::new();
        for rank in 0..self.world {
            let mut workers = Vec::new();
            for worker in 0..self.workers {
                let options = LoaderOptions {
                    batch_rows: self.batch,
                    rank,
                    world_size: self.world,
                    worker,
                    workers: self.workers,
                    columns: Some(vec!["id".to_owned()]),
                    threads: 2,
                    ..order.clone()
                };
                let loader = open(table, options).await;
                if let Some(state) = state {
                    loader.restore(state).await.unwrap();
                }
                workers.push(loader);
            }
            ranks.push(workers);
        }
        ranks
    }
}

/// Makes every rank take `steps` steps, its workers in turn. Returns what all took, step by step, and the state of one
/// rank.
async fn run(ranks: &[Vec<Arc<Loader>>], steps: usize) -> (Vec<i64>, LoaderState) {
    let mut taken = Vec::new();
    for step in 0..steps {
        for workers in ranks {
            taken.extend(batches(&workers[step % workers.len()], 1).await.into_iter().flatten());
        }
    }
    let states: Vec<LoaderState> = ranks[0].iter().map(|loader| loader.state()).collect();
    (taken, merge(&states).unwrap())
}

fn steps_left(ranks: &[Vec<Arc<Loader>>]) -> usize {
    ranks[0].iter().map(|loader| loader.batches_left() as usize).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_shapes_and_stops_each_row_comes_once_in_one_order() {
    let seed = std::env::var("CENOTE_SEED").ok().and_then(|seed| seed.parse().ok());
    let rounds = if std::env::var_os("CENOTE_LONG").is_some() { 200 } else { 12 };
    for round in 0..rounds {
        let seed = seed.unwrap_or(0xcafe + round);
        let mut random = Random::new(seed);
        let (_directory, store) = store().await;
        let count = 1 + random.below(120) as i64;
        let table = table(&store, "numbers", (0..count).map(|id| id * 7 % 1009)).await;
        let version = table.snapshot().await.unwrap().version();
        let shuffle = (random.below(4) > 0).then(|| random.next_u64());
        let (window_rows, run_rows) = (5 + random.below(40), 1 + random.below(5));
        let buckets = (random.below(3) == 0).then(|| Buckets { column: "id".to_owned(), window_rows, run_rows });
        let order = LoaderOptions { shuffle, buckets, ..LoaderOptions::default() };
        let alone = open(&table, LoaderOptions { batch_rows: 5, ..order.clone() }).await;
        let expected = batches(&alone, usize::MAX).await.concat();
        assert_eq!(expected.iter().collect::<BTreeSet<_>>().len(), count as usize, "CENOTE_SEED={seed}");

        // Several lives, each of another shape, while the table changes meanwhile.
        let (mut taken, mut state) = (Vec::new(), None);
        for life in 0.. {
            let shape = Shape::random(&mut random);
            let ranks = match state.as_ref() {
                Some(state) => shape.open(&table, &order, Some(state)).await,
                // The first loader is opened before anything changes.
                None => shape.open(&table, &order, None).await,
            };
            let left = steps_left(&ranks);
            let steps = if life > 4 { left } else { random.below(left as u64 + 1) as usize };
            let (ids, then) = run(&ranks, steps).await;
            // The batches of the ranks in a step are consecutive runs of the order, so together they are the order.
            taken.extend(ids);
            state = Some(then);
            assert_eq!(taken, expected[..taken.len()], "CENOTE_SEED={seed}, life {life}, {shape:?}");
            if taken.len() == expected.len() {
                break;
            }
            table.upsert(rows([random.below(200) as i64, 5000 + life], "later")).await.unwrap();
            match random.below(3) {
                0 => table.fold().await.unwrap(),
                1 => table.compact(false).await.unwrap(),
                _ => {}
            }
        }
        assert_eq!(taken, expected, "CENOTE_SEED={seed}");
        assert!(table.snapshot().await.unwrap().version() >= version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_a_large_table_is_kept_and_never_another_one() {
    const ROWS: i64 = 150_000;
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let options = StoreOptions { cache_directory: cache.clone(), ..StoreOptions::default() };
    let store = Store::open(directory.path().join("store"), options).await.unwrap();
    let table = table(&store, "t", (0..ROWS).rev()).await;
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let kept = || {
        let files = std::fs::read_dir(cache.join("orders")).unwrap();
        files.map(|file| file.unwrap().path()).collect::<BTreeSet<PathBuf>>()
    };
    let in_order = async |filter: Option<&str>| {
        let source = SampleSource { filter: filter.map(str::to_owned), ..SampleSource::new(table.clone()) };
        let options = LoaderOptions { batch_rows: 4096, ..LoaderOptions::default() };
        batches(&Arc::new(Loader::open(vec![source], options).await.unwrap()), usize::MAX).await.concat()
    };
    assert!(in_order(None).await == (0..ROWS).collect::<Vec<_>>());
    let first = kept();
    assert_eq!(first.len(), 1);
    for file in &first {
        File::open(file).unwrap().set_modified(long_ago).unwrap();
    }
    assert!(in_order(None).await == (0..ROWS).collect::<Vec<_>>());
    assert!(first.iter().all(|file| file.metadata().unwrap().modified().unwrap() > long_ago), "it was not read");
    assert_eq!(kept(), first);
    // A damaged order is sorted again.
    for file in &first {
        let mut bytes = std::fs::read(file).unwrap();
        bytes[4_000] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
    assert!(in_order(None).await == (0..ROWS).collect::<Vec<_>>());
    // A filter, a change and another placement have orders of their own. The order of few rows is not kept.
    assert!(in_order(Some("id >= 10")).await == (10..ROWS).collect::<Vec<_>>());
    assert!(in_order(Some("id < 10")).await == (0..10).collect::<Vec<_>>());
    assert_eq!(kept().len(), 2);
    table.delete_where("id % 5 = 0".into()).await.unwrap();
    table.upsert(rows([0, ROWS], "second")).await.unwrap();
    let expected: Vec<i64> = (0..=ROWS).filter(|id| id % 5 > 0 || [0, ROWS].contains(id)).collect();
    for _ in 0..2 {
        assert!(in_order(None).await == expected);
        table.compact(false).await.unwrap();
    }
    assert!(in_order(None).await == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_of_similar_length_come_together() {
    let (_directory, store) = store().await;
    let table = store.create_table("texts", TableSpec::new(schema(), ["id"])).await.unwrap();
    let mut random = Random::new(3);
    let lengths: Vec<usize> = (0..1000).map(|_| random.below(500) as usize).collect();
    for (id, length) in (0..).zip(&lengths) {
        table.upsert(rows([id], &"x".repeat(*length))).await.unwrap();
    }
    let buckets = Buckets { column: "note".to_owned(), window_rows: 250, run_rows: 10 };
    let options = LoaderOptions { batch_rows: 10, shuffle: Some(7), ..LoaderOptions::default() };
    // The padding that batches would need.
    let padding = |batches: &[Vec<i64>]| -> usize {
        let padding = |batch: &Vec<i64>| {
            let lengths: Vec<usize> = batch.iter().map(|id| lengths[*id as usize]).collect();
            lengths.iter().max().unwrap() * lengths.len() - lengths.iter().sum::<usize>()
        };
        batches.iter().map(padding).sum()
    };
    let plain = batches(&open(&table, options.clone()).await, usize::MAX).await;
    let loader = open(&table, LoaderOptions { buckets: Some(buckets.clone()), ..options.clone() }).await;
    let (first, second) = (batches(&loader, usize::MAX).await, batches(&loader, usize::MAX).await);
    for epoch in [&first, &second] {
        assert_eq!(epoch.concat().iter().collect::<BTreeSet<_>>().len(), 1000);
        assert!(padding(epoch) * 10 < padding(&plain), "{} of {}", padding(epoch), padding(&plain));
    }
    assert_ne!(first, second);
    // The runs are shuffled too: a batch of long rows may precede one of short rows.
    let longest = |batch: &Vec<i64>| batch.iter().map(|id| lengths[*id as usize]).max().unwrap();
    assert!(!first[..25].iter().map(longest).is_sorted());

    let error = loader.restore(&open(&table, options.clone()).await.state()).await.unwrap_err();
    assert_eq!(
        error.message(),
        "the state is of an order with no buckets, and this loader has buckets by `note` in windows of 250 and runs of \
         10"
    );
    let refused = async |buckets: Buckets| {
        let options = LoaderOptions { buckets: Some(buckets), ..options.clone() };
        Loader::open(vec![SampleSource::new(table.clone())], options).await.unwrap_err()
    };
    let error = refused(Buckets { column: "nots".to_owned(), ..buckets.clone() }).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(refused(Buckets { run_rows: 0, ..buckets.clone() }).await.kind(), ErrorKind::InvalidInput);
    assert_eq!(refused(Buckets { window_rows: 1 << 32, ..buckets }).await.kind(), ErrorKind::InvalidInput);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_depends_on_seed_and_epoch_and_not_on_where_rows_lie() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..300).await;
    table.tag("t", table.snapshot().await.unwrap().version()).await.unwrap();
    let order = |seed, epoch| {
        let table = table.clone();
        async move {
            let version = Some(table.tags().await.unwrap()["t"]);
            let source = SampleSource { version, ..SampleSource::new(table) };
            let options = LoaderOptions { shuffle: Some(seed), ..LoaderOptions::default() };
            let loader = Arc::new(Loader::open(vec![source], options).await.unwrap());
            loader.set_epoch(epoch);
            batches(&loader, usize::MAX).await.concat()
        }
    };
    let before = order(7, 0).await;
    // The rows move from memory to files in another order, and then between files.
    table.fold().await.unwrap();
    assert_eq!(order(7, 0).await, before);
    table.upsert(rows((0..300).rev(), "again")).await.unwrap();
    table.compact(false).await.unwrap();
    assert_eq!(order(7, 0).await, before);
    assert_ne!(order(7, 1).await, before);
    assert_ne!(order(8, 0).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_shuffle_rows_come_in_the_order_of_their_keys_and_filtered() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", [9, 3, 5, 1]).await;
    table.fold().await.unwrap();
    table.upsert(rows([4], "late")).await.unwrap();
    let source = SampleSource { filter: Some("id > 2".to_owned()), ..SampleSource::new(table) };
    let loader = Arc::new(Loader::open(vec![source], LoaderOptions::default()).await.unwrap());
    assert_eq!(batches(&loader, usize::MAX).await, [[3, 4, 5, 9]]);
    assert_eq!(loader.epoch(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loader_stays_at_its_version_or_follows_from_epoch_to_epoch() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..10).await;
    let held = open(&table, LoaderOptions::default()).await;
    let following = open(&table, LoaderOptions { follow: true, ..LoaderOptions::default() }).await;
    for (loader, after) in [(&held, 10), (&following, 13)] {
        assert_eq!(batches(loader, usize::MAX).await.concat().len(), 10);
        if after == 10 {
            table.upsert(rows(10..13, "new")).await.unwrap();
        }
        assert_eq!(batches(loader, usize::MAX).await.concat().len(), after);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_of_a_loader_that_follows_reads_the_newest_version_whoever_sets_it() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..10).await;
    let loader = open(&table, LoaderOptions { follow: true, batch_rows: 4, ..LoaderOptions::default() }).await;
    for epoch in 0..4 {
        // Training does this before each epoch, whether or not it has seen the end of the previous one.
        loader.set_epoch(epoch);
        loader.begin(None).await.unwrap();
        let rows = 10 + epoch as usize;
        if epoch % 2 == 1 {
            batches(&loader, 1).await;
            let state = loader.state();
            let other = open(&table, LoaderOptions { follow: true, batch_rows: 4, ..LoaderOptions::default() }).await;
            table.upsert(rows_of(50..60)).await.unwrap();
            other.restore(&state).await.unwrap();
            assert_eq!(batches(&other, usize::MAX).await.concat().len(), rows - 4, "it resumes at that position");
            table.delete(&rows_of(50..60)).await.unwrap();
        } else {
            assert_eq!(batches(&loader, usize::MAX).await.concat().len(), rows);
        }
        table.upsert(rows_of([10 + epoch as i64])).await.unwrap();
    }
    // An epoch that has not begun has no version yet, for whichever loader resumes it.
    let state = loader.state();
    loader.set_epoch(9);
    let state = [state, loader.state()].map(|state| (state.unread, state));
    assert!(state[1].0 && !state[0].0);
    let other = open(&table, LoaderOptions { follow: true, ..LoaderOptions::default() }).await;
    other.restore(&state[1].1).await.unwrap();
    table.upsert(rows_of([99])).await.unwrap();
    other.begin(None).await.unwrap();
    assert_eq!((other.epoch(), other.epoch_rows()), (9, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_share_an_epoch_do_not_run_into_the_next() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..50).await;
    let loader = open(&table, LoaderOptions { batch_rows: 1, ..LoaderOptions::default() }).await;
    for epoch in 0..3 {
        let iteration = loader.begin(None).await.unwrap();
        let reader = |loader: Arc<Loader>| {
            move || {
                let mut ids = Vec::new();
                loop {
                    match loader.next_within(iteration, Duration::from_secs(60)).unwrap() {
                        Next::Batch(offer) if loader.accept(&offer) => {
                            assert_eq!(offer.batch.epoch, epoch);
                            ids.push(offer.batch.rows.column(0).as_primitive::<Int64Type>().value(0));
                        }
                        Next::End => return ids,
                        Next::Batch(_) | Next::NotYet => {}
                    }
                }
            }
        };
        let readers: Vec<_> = (0..4).map(|_| tokio::task::spawn_blocking(reader(Arc::clone(&loader)))).collect();
        let mut ids = Vec::new();
        for reader in readers {
            ids.extend(reader.await.unwrap());
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..50).collect::<Vec<_>>());
        assert_eq!(loader.epoch(), epoch + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_nobody_accepts_does_not_count_and_comes_again() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..5).await;
    let loader = open(&table, LoaderOptions { batch_rows: 2, ..LoaderOptions::default() }).await;
    let iteration = loader.begin(None).await.unwrap();
    let before = loader.state();
    let offers = {
        let loader = Arc::clone(&loader);
        let offer = move || match loader.next_within(iteration, Duration::from_secs(60)).unwrap() {
            Next::Batch(offer) => offer,
            other => panic!("{other:?}"),
        };
        tokio::task::spawn_blocking(move || [offer(), offer()]).await.unwrap()
    };
    assert_eq!(offers[0].batch.rows, offers[1].batch.rows);
    assert_eq!((loader.state(), loader.stats().rows), (before, 0));
    assert!(loader.accept(&offers[1]));
    assert!(!loader.accept(&offers[0]), "it was given already");
    assert_eq!((loader.state().batches, loader.stats().rows), (1, 2));
    // Nor does an offer of a former position count.
    loader.set_epoch(3);
    assert!(!loader.accept(&offers[0]));
    assert_eq!(batches(&loader, usize::MAX).await, [vec![0, 1], vec![2, 3], vec![4]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_batch_that_fails_is_counted() {
    let (_directory, store) = store().await;
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), blob_field("picture")]));
    let table = store.create_table("pictures", TableSpec::new(schema.clone(), ["id"])).await.unwrap();
    let (ids, pictures) = (Int64Array::from(vec![1]), LargeBinaryArray::from_vec(vec![b"not a picture"]));
    table.upsert(RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(pictures)]).unwrap()).await.unwrap();
    let steps = vec![Transform::DecodeImage, Transform::Resize { height: 4, width: Some(4) }];
    let options = LoaderOptions { transforms: vec![("picture".to_owned(), steps)], ..LoaderOptions::default() };
    let loader = open(&table, options).await;
    let reader = Arc::clone(&loader);
    let error = tokio::task::spawn_blocking(move || reader.next_batch()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(loader.stats().wait > Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_may_hold_nulls_in_one_source_may_in_every_batch() {
    let (_directory, store) = store().await;
    let column = |nullable| Field::new("label", DataType::Int64, nullable);
    let mut sources = Vec::new();
    for (name, ids, nullable) in [("strict", 0..8, false), ("loose", 8..16, true)] {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), column(nullable)]));
        let table = store.create_table(name, TableSpec::new(schema.clone(), ["id"])).await.unwrap();
        let labels: Int64Array = ids.clone().map(|id| (!nullable || id % 2 == 0).then_some(id)).collect();
        let ids: Int64Array = ids.map(Some).collect();
        table.upsert(RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(labels)]).unwrap()).await.unwrap();
        sources.push(SampleSource::new(table));
    }
    for shuffle in [None, Some(1)] {
        let options = LoaderOptions { batch_rows: 3, shuffle, ..LoaderOptions::default() };
        let loader = Arc::new(Loader::open(sources.clone(), options).await.unwrap());
        let read = move || {
            let mut nulls = 0;
            while let Some(batch) = loader.next_batch().unwrap() {
                let schema = batch.rows.schema();
                assert_eq!(schema.fields().iter().map(|field| field.is_nullable()).collect::<Vec<_>>(), [false, true]);
                nulls += batch.rows.column(1).null_count();
            }
            nulls
        };
        assert_eq!(tokio::task::spawn_blocking(read).await.unwrap(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_was_begun_before_a_change_is_resumed_at_its_version() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..20).await;
    let options = LoaderOptions { batch_rows: 6, shuffle: Some(1), ..LoaderOptions::default() };
    let first = open(&table, options.clone()).await;
    let mut seen = batches(&first, 2).await.concat();
    table.delete(&rows(0..15, "gone")).await.unwrap();
    table.fold().await.unwrap();
    let second = open(&table, options).await;
    second.restore(&first.state()).await.unwrap();
    seen.extend(batches(&second, usize::MAX).await.concat());
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_mix_tables_and_a_row_that_comes_twice_in_a_batch_is_there_twice() {
    let (_directory, store) = store().await;
    let (few, many) = (table(&store, "few", 0..2).await, table(&store, "many", 100..200).await);
    let sources = [(few, 3.0), (many, 1.0)]
        .map(|(table, weight)| SampleSource { weight: Some(weight), ..SampleSource::new(table) });
    let options = LoaderOptions { batch_rows: 40, shuffle: Some(3), epoch_rows: Some(40), ..LoaderOptions::default() };
    let loader = Arc::new(Loader::open(sources.to_vec(), options).await.unwrap());
    let batch = batches(&loader, 1).await.concat();
    assert_eq!(batch.iter().filter(|id| **id == 0).count(), 15);
    assert_eq!(batch.iter().filter(|id| **id == 1).count(), 15);
    assert_eq!(batch.iter().filter(|id| **id >= 100).collect::<BTreeSet<_>>().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn tails_drop_or_pad_as_they_say() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..10).await;
    for (tail, sizes, repeated) in
        [(EpochTail::Short, vec![4, 4, 2], 0), (EpochTail::Drop, vec![4, 4], 0), (EpochTail::Pad, vec![4, 4, 4], 2)]
    {
        let options = LoaderOptions { batch_rows: 4, tail, ..LoaderOptions::default() };
        let loader = open(&table, options).await;
        assert_eq!(loader.epoch_batches() as usize, sizes.len());
        let (counts, last) = tokio::task::spawn_blocking(move || {
            let (mut counts, mut last) = (Vec::new(), 0);
            while let Some(batch) = loader.next_batch().unwrap() {
                counts.push(batch.len());
                last = batch.repeated;
            }
            (counts, last)
        })
        .await
        .unwrap();
        assert_eq!((counts, last), (sizes, repeated), "{tail:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn little_memory_slows_the_loader_but_does_not_stop_it() {
    let (_directory, store) = store().await;
    let table = table(&store, "numbers", 0..500).await;
    let options =
        LoaderOptions { batch_rows: 7, prefetch_bytes_max: ByteSize(1), threads: 4, ..LoaderOptions::default() };
    let loader = open(&table, options).await;
    assert_eq!(batches(&loader, usize::MAX).await.concat(), (0..500).collect::<Vec<_>>());
    assert_eq!(loader.stats().rows, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_do_not_fit_are_refused_with_the_difference() {
    let (_directory, store) = store().await;
    let (one, other) = (table(&store, "one", 0..20).await, table(&store, "other", 0..20).await);
    let options = LoaderOptions { batch_rows: 3, shuffle: Some(1), ..LoaderOptions::default() };
    let loader = open(&one, options.clone()).await;
    let state = loader.state();
    let says = |error: cenote_base::Error, text: &str| {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.message().contains(text), "{error}");
    };
    says(open(&other, options.clone()).await.restore(&state).await.unwrap_err(), "table one");
    let reseeded = LoaderOptions { shuffle: Some(2), ..options.clone() };
    says(open(&one, reseeded).await.restore(&state).await.unwrap_err(), "seed 1, and this loader has seed 2");
    let worker = LoaderOptions { worker: 1, workers: 2, ..options.clone() };
    let part = open(&one, worker).await.state();
    says(loader.restore(&part).await.unwrap_err(), "worker 1 of 2");
    says(merge(&[part.clone(), part]).unwrap_err(), "[1, 1]");
    one.upsert(rows(50..60, "more")).await.unwrap();
    let version = Some(one.snapshot().await.unwrap().version());
    let pinned =
        Loader::open(vec![SampleSource { version, ..SampleSource::new(one.clone()) }], options.clone()).await.unwrap();
    says(pinned.restore(&state).await.unwrap_err(), "the state is of version");
    let empty = SampleSource { filter: Some("id > 1000".to_owned()), ..SampleSource::new(one) };
    says(Loader::open(vec![empty], options.clone()).await.unwrap_err(), "no rows to load");
    // Another table has as many rows at the same version.
    store.drop_table("one").await.unwrap();
    let anew = table(&store, "one", 100..120).await;
    assert_eq!(anew.snapshot().await.unwrap().version().0, state.sources[0].version);
    says(open(&anew, options).await.restore(&state).await.unwrap_err(), "another table `one`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_under_the_name_of_a_dropped_one_is_loaded_by_its_own_rows() {
    const ROWS: i64 = 100_000;
    let (directory, _) = store().await;
    let options = StoreOptions { cache_directory: directory.path().join("cache"), ..StoreOptions::default() };
    let store = Store::open(directory.path().join("tables"), options).await.unwrap();
    let read = LoaderOptions { batch_rows: ROWS as usize, threads: 1, ..LoaderOptions::default() };
    for from in [0, 1_000_000] {
        // Keys descend, so that their order is not that of rows.
        let table = table(&store, "t", (from..from + ROWS).rev()).await;
        // The first order is sorted, the second is the kept one.
        for _ in 0..2 {
            let loader = open(&table, read.clone()).await;
            assert!(batches(&loader, 1).await.concat() == (from..from + ROWS).collect::<Vec<_>>(), "from {from}");
        }
        store.drop_table("t").await.unwrap();
    }
}
