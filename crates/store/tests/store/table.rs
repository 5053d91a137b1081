//! A table, checked against its documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes as arrow_schema;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use cenote_base::{ErrorKind, Random};
use cenote_store::{
    DUPLICATES_PROPERTY, ROW_ID, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, blob_field,
    row_ids_after,
};
use futures::TryStreamExt;

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("note", DataType::Utf8, true),
        Field::new("size", DataType::Int64, true),
        blob_field("data"),
    ]))
}

async fn new_table() -> (tempfile::TempDir, Store, Table) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.create_table("media", TableSpec::new(schema(), ["id"])).await.unwrap();
    (directory, store, table)
}

/// Makes rows of (id, note, media); size is the length of the media.
fn rows(rows: &[(&str, &str, Option<&[u8]>)]) -> RecordBatch {
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(rows.iter().map(|r| Some(r.0)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| Some(r.1)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| r.2.map(|d| d.len() as i64)).collect::<arrow::array::Int64Array>()),
            Arc::new(rows.iter().map(|r| r.2).collect::<LargeBinaryArray>()),
        ],
    )
    .unwrap()
}

fn keys(ids: &[&str]) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Utf8, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(ids.to_vec()))]).unwrap()
}

type Model = BTreeMap<String, (Option<String>, Option<Vec<u8>>)>;

async fn contents(snapshot: &Snapshot) -> Model {
    let batch = snapshot.collect(&ScanRequest::default().columns(["id", "note", "data"])).await.unwrap();
    let (ids, notes) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
    let data = batch.column(2).as_binary::<i64>();
    let model: Model = (0..batch.num_rows())
        .map(|row| {
            let note = notes.is_valid(row).then(|| notes.value(row).to_owned());
            (ids.value(row).to_owned(), (note, data.is_valid(row).then(|| data.value(row).to_vec())))
        })
        .collect();
    assert_eq!(model.len(), batch.num_rows(), "a key occurs twice");
    model
}

#[tokio::test]
async fn upserts_replace_whole_rows_and_keep_old_snapshots() {
    let (_directory, _store, table) = new_table().await;
    // One inline, one packed, one dedicated blob.
    let (small, middle, large) = (vec![1u8; 10], vec![2u8; 100_000], vec![3u8; 5_000_000]);
    let first =
        table.upsert(rows(&[("a", "x", Some(&small)), ("b", "y", Some(&middle)), ("c", "z", Some(&large))])).await;
    assert_eq!(first.unwrap().inserted, 3);
    let before = table.snapshot().await.unwrap();
    let second = table.upsert(rows(&[("b", "y2", Some(&large)), ("d", "new", None)])).await.unwrap();
    assert_eq!((second.inserted, second.updated), (1, 1));

    let now = contents(&table.snapshot().await.unwrap()).await;
    assert_eq!(now["a"], (Some("x".into()), Some(small)));
    assert_eq!(now["b"], (Some("y2".into()), Some(large.clone())));
    assert_eq!(now["c"], (Some("z".into()), Some(large)));
    assert_eq!(now["d"], (Some("new".into()), None));
    assert_eq!(contents(&before).await["b"], (Some("y".into()), Some(middle)));
}

#[tokio::test]
async fn equal_keys_in_one_call_are_refused_unless_the_last_counts() {
    let (_directory, _store, table) = new_table().await;
    let batches = || vec![rows(&[("a", "1", None), ("b", "2", None), ("a", "2", None)]), rows(&[("a", "3", None)])];
    let refused = table.upsert_all(batches()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(refused.to_string().contains("rows 0 and 2"), "{refused}");
    assert_eq!(table.snapshot().await.unwrap().count(None).await.unwrap(), 0);

    table.set_properties(BTreeMap::from([(DUPLICATES_PROPERTY.into(), Some("last".into()))])).await.unwrap();
    assert_eq!(table.upsert_all(batches()).await.unwrap().inserted, 2);
    let now = contents(&table.snapshot().await.unwrap()).await;
    assert_eq!(now["a"].0.as_deref(), Some("3"));
}

#[tokio::test]
async fn updates_keep_media_whether_rows_or_columns_are_rewritten() {
    let (_directory, _store, table) = new_table().await;
    let ids: Vec<String> = (0..100).map(|i| format!("k{i:03}")).collect();
    let media = vec![7u8; 90_000];
    let batch: Vec<_> = ids.iter().map(|id| (id.as_str(), "old", Some(media.as_slice()))).collect();
    table.upsert(rows(&batch)).await.unwrap();

    for (touched, note) in [(&ids[..2], "few"), (&ids[..80], "many")] {
        let ids: Vec<&str> = touched.iter().map(String::as_str).chain(["absent"]).collect();
        let notes = Arc::new(StringArray::from(vec![note; ids.len()]));
        let columns = vec![keys(&ids).column(0).clone(), notes as _];
        let schema =
            Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new("note", DataType::Utf8, true)]);
        let report = table.update(RecordBatch::try_new(Arc::new(schema), columns).unwrap()).await.unwrap();
        assert_eq!((report.inserted, report.updated), (0, touched.len()), "{note}");
        let now = contents(&table.snapshot().await.unwrap()).await;
        assert_eq!(now.len(), 100);
        assert_eq!(now.values().filter(|row| row.0.as_deref() == Some(note)).count(), touched.len(), "{note}");
        assert!(now.values().all(|row| row.1.as_ref() == Some(&media)), "{note}");
    }
}

/// Uses values of 20 KB, so that a file is read and written in several steps.
#[tokio::test]
async fn large_values_are_patched_in_files_with_deleted_and_untouched_rows() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("number", DataType::Int64, false),
        Field::new("large", DataType::Utf8, true),
        Field::new("other", DataType::Int64, true),
    ]));
    let table = store.create_table("t", TableSpec::new(Arc::clone(&schema), ["id"])).await.unwrap();
    let large = |id: i64, round: i64| (id % 11 != round).then(|| format!("{id} {round} {}", "x".repeat(20_000)));
    let batch = |ids: &[i64], round: i64, columns: &[usize]| {
        let numbers = |of: &dyn Fn(i64) -> i64| -> ArrayRef {
            Arc::new(arrow::array::Int64Array::from_iter_values(ids.iter().map(|id| of(*id))))
        };
        let texts: StringArray = ids.iter().map(|id| large(*id, round)).collect();
        let all = [numbers(&|id| id), numbers(&|id| id * 10 + round), Arc::new(texts), numbers(&|id| -id)];
        let schema = Arc::new(schema.project(columns).unwrap());
        RecordBatch::try_new(schema, columns.iter().map(|column| Arc::clone(&all[*column])).collect()).unwrap()
    };
    let mut random = Random::new(5);
    let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
    for ids in [0..700, 700..1_500] {
        let ids: Vec<i64> = ids.collect();
        expected.extend(ids.iter().map(|id| (*id, 0)));
        table.upsert(batch(&ids, 0, &[0, 1, 2, 3])).await.unwrap();
        table.fold().await.unwrap();
    }
    let verify = async |expected: &BTreeMap<i64, i64>| {
        let found = table.snapshot().await.unwrap().collect(&ScanRequest::default()).await.unwrap();
        assert_eq!(found.num_rows(), expected.len());
        let int = |name: &str| found[name].as_primitive::<Int64Type>().values().to_vec();
        let (ids, numbers, others) = (int("id"), int("number"), int("other"));
        let texts = found["large"].as_string::<i32>();
        for row in 0..found.num_rows() {
            let (id, round) = (ids[row], expected[&ids[row]]);
            assert_eq!((numbers[row], others[row]), (id * 10 + round, -id));
            assert_eq!(texts.is_valid(row).then(|| texts.value(row).to_owned()), large(id, round), "{id}");
        }
    };
    // Nothing is deleted yet, and the update is unordered.
    let all: Vec<i64> = (0..1_500).rev().collect();
    table.update(batch(&all, 4, &[0, 1, 2])).await.unwrap();
    expected.extend(all.iter().map(|id| (*id, 4)));
    verify(&expected).await;
    let deleted: Vec<i64> = (0..1_500).filter(|id| id % 7 == 0 || (1_300..1_450).contains(id)).collect();
    expected.retain(|id, _| deleted.binary_search(id).is_err());
    table.delete(&batch(&deleted, 0, &[0])).await.unwrap();
    table.fold().await.unwrap();
    let rows = async |table: &Table| -> BTreeMap<i64, u64> {
        let request = ScanRequest::default().columns(["id"]).with_row_id();
        let found = table.snapshot().await.unwrap().collect(&request).await.unwrap();
        let rows = found[ROW_ID].as_primitive::<UInt64Type>().values();
        found["id"].as_primitive::<Int64Type>().values().iter().copied().zip(rows.iter().copied()).collect()
    };
    let rows_before = rows(&table).await;

    let live: Vec<i64> = expected.keys().copied().collect();
    // All rows in order; some in arbitrary order; all of one file and few of the other.
    let some: Vec<i64> = (0..500).map(|_| live[random.below(live.len() as u64) as usize]).collect();
    let some: Vec<i64> = some.into_iter().collect::<BTreeSet<_>>().into_iter().rev().collect();
    let one: Vec<i64> = live.iter().copied().filter(|id| *id < 700 || *id == 900).collect();
    for (round, touched) in [(1, &live), (2, &some), (3, &one)] {
        let report = table.update(batch(touched, round, &[0, 1, 2])).await.unwrap();
        assert_eq!(report.updated, touched.len());
        expected.extend(touched.iter().map(|id| (*id, round)));
        assert_eq!(rows(&table).await, rows_before, "an update moves no row");
        verify(&expected).await;
    }
}

#[tokio::test]
async fn a_read_by_key_never_gives_rows_of_other_files() {
    let (_directory, store, table) = new_table().await;
    let ids: Vec<String> = (0..100).map(|i| format!("k{i:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let batch = |note| rows(&ids.iter().map(|id| (*id, note, Some(b"media".as_slice()))).collect::<Vec<_>>());
    let notes = async |table: &Table| {
        let columns = Some(vec!["note".to_owned()]);
        let found = table.snapshot().await.unwrap().get(&keys(&ids), columns).await.unwrap();
        assert_eq!(found.num_rows(), ids.len());
        let notes: BTreeSet<_> = found["note"].as_string::<i32>().iter().map(|note| note.unwrap().to_owned()).collect();
        notes.into_iter().collect::<Vec<_>>().join(" ")
    };
    table.upsert(batch("first")).await.unwrap();
    table.fold().await.unwrap();
    assert_eq!(notes(&table).await, "first");

    // The same fragment with another file for the column.
    let schema = Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new("note", DataType::Utf8, true)]);
    let columns = vec![keys(&ids).column(0).clone(), Arc::new(StringArray::from(vec!["second"; ids.len()])) as _];
    table.update(RecordBatch::try_new(Arc::new(schema), columns).unwrap()).await.unwrap();
    assert_eq!(notes(&table).await, "second");

    // The same fragment number and fields in other tables.
    let other = store.create_table("other", TableSpec::new(self::schema(), ["id"])).await.unwrap();
    other.upsert(batch("other")).await.unwrap();
    other.fold().await.unwrap();
    assert_eq!((notes(&table).await, notes(&other).await), ("second".to_owned(), "other".to_owned()));
    store.drop_table("other").await.unwrap();
    let other = store.create_table("other", TableSpec::new(self::schema(), ["id"])).await.unwrap();
    other.upsert(batch("again")).await.unwrap();
    other.fold().await.unwrap();
    assert_eq!(notes(&other).await, "again");
}

#[tokio::test]
async fn reads_by_key_row_id_and_filter_agree() {
    let (_directory, _store, table) = new_table().await;
    table.upsert(rows(&[("a", "x", Some(b"aa")), ("b", "y", None), ("c", "z", Some(b"cccc"))])).await.unwrap();
    let steady = async |filter: &str| table.snapshot().await.unwrap().is_steady(&filter.into());
    assert!(steady("upper(note) = 'X'").await.unwrap());
    assert!(!steady("note < cast(now() as string)").await.unwrap());
    assert!(steady("note <").await.is_err());
    table.delete(&keys(&["b", "nobody"])).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    assert_eq!(snapshot.count(None).await.unwrap(), 2);
    let got = snapshot.get(&keys(&["c", "b"]), Some(vec!["data".into(), "id".into()])).await.unwrap();
    assert_eq!(got.num_rows(), 1);
    assert_eq!(got.column(0).as_binary::<i64>().value(0), b"cccc");

    let scan =
        snapshot.collect(&ScanRequest::default().columns(["size"]).with_row_id().filter("size >= 2")).await.unwrap();
    let ids = scan.column_by_name(ROW_ID).unwrap().as_primitive::<UInt64Type>().values().to_vec();
    let reversed: Vec<u64> = ids.iter().rev().copied().collect();
    let taken = snapshot.take(&reversed, &["size".into(), "data".into()]).await.unwrap();
    for row in 0..taken.num_rows() {
        let length = taken.column(0).as_primitive::<Int64Type>().value(row);
        assert_eq!(taken.column(1).as_binary::<i64>().value(row).len() as i64, length);
    }
    assert_eq!(
        taken.column(0).as_primitive::<Int64Type>().value(0),
        scan.column(0).as_primitive::<Int64Type>().value(1)
    );
}

#[tokio::test]
async fn schema_evolves_and_tags_keep_the_past() {
    let (_directory, store, table) = new_table().await;
    let version = table.upsert(rows(&[("a", "x", None)])).await.unwrap().version;
    table.tag("v1", version).await.unwrap();
    table.add_columns(&[Field::new("score", DataType::Float32, true)]).await.unwrap();
    assert!(table.snapshot().await.unwrap().schema().field_with_name("score").is_ok());
    assert!(table.snapshot_of("v1").await.unwrap().schema().field_with_name("score").is_err());
    let error = table.add_columns(&[Field::new("score", DataType::Utf8, true)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    table.drop_columns(&["score"]).await.unwrap();
    assert_eq!(table.drop_columns(&["id"]).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    table.set_properties(BTreeMap::from([("owner".into(), Some("me".into()))])).await.unwrap();
    let reopened = store.table("media").await.unwrap().snapshot().await.unwrap();
    assert_eq!(reopened.properties()["owner"], "me");
    assert_eq!(table.tags().await.unwrap()["v1"], version);
    let missing = store.table("medai").await.unwrap_err();
    assert_eq!(missing.to_string(), "no table `medai`: did you mean `media`?; there are media");
}

#[tokio::test]
async fn bad_batches_are_refused_and_write_nothing() {
    let (_directory, _store, table) = new_table().await;
    let unknown = arrow::array::record_batch!(("id", Utf8, ["a"]), ("colour", Utf8, ["red"])).unwrap();
    let error = table.upsert(unknown).await.unwrap_err();
    assert_eq!(error.to_string(), "the table has no column `colour`; it has id, note, size, data");
    let keyless = arrow::array::record_batch!(("note", Utf8, ["a"])).unwrap();
    assert_eq!(table.upsert(keyless).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let nulls = arrow::array::record_batch!(("id", Utf8, [Some("a"), None])).unwrap();
    assert_eq!(table.upsert(nulls).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let wrong = arrow::array::record_batch!(("id", Utf8, ["a"]), ("size", Utf8, ["large"])).unwrap();
    assert_eq!(table.upsert(wrong).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(table.snapshot().await.unwrap().count(None).await.unwrap(), 0);
}

/// Does not store 1.7 as 1, and does not take the key 1.9 for row 1.
#[tokio::test]
async fn what_a_column_cannot_hold_is_refused_and_reaches_no_row() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("size", DataType::Int64, true)];
    let table = store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap();
    let rows = |ids: Vec<f64>, sizes: Vec<f64>| {
        let column = |values: Vec<f64>| -> ArrayRef { Arc::new(arrow::array::Float64Array::from(values)) };
        RecordBatch::try_from_iter([("id", column(ids)), ("size", column(sizes))]).unwrap()
    };
    table.upsert(rows(vec![1.0, 2.0], vec![10.0, 20.0])).await.unwrap();
    let before = table.snapshot().await.unwrap();
    let refused = |error: cenote_base::Error, column: &str, value: &str, row: usize| {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let expected = format!("column `{column}` is Int64 and cannot hold {value} of row {row} as it is");
        assert_eq!(error.to_string(), expected);
    };
    let size = rows(vec![1.0, 3.0], vec![11.0, 1.7]);
    refused(table.upsert(size.clone()).await.unwrap_err(), "size", "1.7", 1);
    refused(table.stage(vec![size.clone()]).await.unwrap_err(), "size", "1.7", 1);
    refused(table.update(size).await.unwrap_err(), "size", "1.7", 1);
    let key = rows(vec![2.0, 1.9], vec![11.0, 11.0]);
    refused(table.upsert(key.clone()).await.unwrap_err(), "id", "1.9", 1);
    refused(table.update(key.clone()).await.unwrap_err(), "id", "1.9", 1);
    refused(table.delete(&key).await.unwrap_err(), "id", "1.9", 1);
    refused(before.get(&key, None).await.unwrap_err(), "id", "1.9", 1);
    refused(before.locate(&key).await.unwrap_err(), "id", "1.9", 1);
    let text = before.primary_key().parse(&[vec!["1.9".into()]]).unwrap_err();
    refused(text, "id", "1.9", 0);
    assert_eq!(table.snapshot().await.unwrap().version(), before.version());
    // The same numbers without a fraction are the same keys.
    assert_eq!(table.delete(&rows(vec![1.0], vec![0.0])).await.unwrap().deleted, 1);
}

#[tokio::test]
async fn every_key_type_finds_its_rows() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let uuid = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
    let types = [
        ("i32", DataType::Int32, "7"),
        ("u64", DataType::UInt64, "18446744073709551615"),
        ("text", DataType::Utf8, "it's"),
        ("binary", DataType::Binary, "00ff"),
        ("date", DataType::Date32, "2024-02-29"),
        ("time", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), "2024-02-29T12:30:00.000001"),
        ("uuid", DataType::FixedSizeBinary(16), uuid),
    ];
    for (name, data_type, text) in types {
        let schema = Schema::new(vec![Field::new("part", DataType::Int64, false), Field::new("k", data_type, false)]);
        let table = store.create_table(name, TableSpec::new(Arc::new(schema), ["part", "k"])).await.unwrap();
        let key = table.snapshot().await.unwrap().primary_key().clone();
        let keys = key.parse(&[vec!["1".into(), text.into()], vec!["2".into(), text.into()]]).unwrap();
        table.upsert(keys.clone()).await.unwrap();
        table.upsert(keys.clone()).await.unwrap();
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(snapshot.count(None).await.unwrap(), 2, "{name}");
        assert_eq!(snapshot.get(&keys.slice(1, 1), None).await.unwrap(), keys.slice(1, 1), "{name}");
        assert_eq!(table.delete(&keys.slice(0, 1)).await.unwrap().deleted, 1, "{name}");
    }
    let schema = Schema::new(vec![Field::new("k", DataType::Float64, false)]);
    let error = store.create_table("float", TableSpec::new(Arc::new(schema), ["k"])).await.unwrap_err();
    assert!(error.to_string().contains("a key is an integer"), "{error}");
}

#[tokio::test]
async fn a_changed_row_has_one_id_in_every_snapshot_and_process_until_it_changes() {
    let (directory, _store, table) = new_table().await;
    table.upsert(rows(&[("a", "first", None), ("b", "first", None)])).await.unwrap();
    let then = table.snapshot().await.unwrap();
    let ids = then.locate(&keys(&["a", "b"])).await.unwrap();
    let (a, b) = (ids[0].unwrap(), ids[1].unwrap());
    table.upsert(rows(&[("b", "second", None), ("c", "first", None)])).await.unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    for table in [table, store.table("media").await.unwrap()] {
        let now = table.snapshot().await.unwrap();
        let ids = now.locate(&keys(&["a", "b", "c"])).await.unwrap();
        let since = row_ids_after(then.version());
        assert!(ids[0] == Some(a) && a < since && ids[1..].iter().all(|id| id.unwrap() >= since), "{ids:?}");
        assert_eq!((now.is_changed(a), now.is_changed(b), now.is_changed(ids[1].unwrap())), (true, false, true));
        let request = ScanRequest::default().columns(["note"]).with_row_id();
        let changed = now.changed_since(then.version(), &request).await.unwrap();
        assert_eq!(
            changed[0].column(1).as_primitive::<UInt64Type>().values().to_vec(),
            [ids[1].unwrap(), ids[2].unwrap()]
        );
        assert_eq!((changed.len(), now.changed_rows_since(then.version()), now.changed_rows()), (1, 2, 3));
        let taken = now.take(&[ids[1].unwrap(), a], &["note".into()]).await.unwrap();
        assert_eq!(taken.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["second", "first"]);
    }
    assert_eq!((then.is_changed(a), then.is_changed(b), then.is_changed(0)), (true, true, false));
}

/// Compacts a row that was patched and so lies behind its neighbours; the compaction writes them in that order.
#[tokio::test]
async fn rows_are_replaced_where_a_file_has_them_out_of_order() {
    let (_directory, _store, table) = new_table().await;
    let names: Vec<String> = (0..21).map(|row| format!("k{row:02}")).collect();
    let all: Vec<(&str, &str, Option<&[u8]>)> = names.iter().map(|name| (name.as_str(), "first", None)).collect();
    table.upsert(rows(&all[..20])).await.unwrap();
    table.fold().await.unwrap();
    let patch = keys(&["k10"]);
    let note: ArrayRef = Arc::new(StringArray::from(vec!["patched"]));
    let patch =
        RecordBatch::try_from_iter_with_nullable([("id", patch.column(0).clone(), false), ("note", note, true)]);
    table.update(patch.unwrap()).await.unwrap();
    table.upsert(rows(&all[20..])).await.unwrap();
    table.fold().await.unwrap();
    table.compact(true).await.unwrap();
    let last = [("k10", "last", None), ("k11", "last", None), ("k19", "last", None)];
    table.upsert(rows(&last)).await.unwrap();
    table.fold().await.unwrap();
    let now = contents(&table.snapshot().await.unwrap()).await;
    let replaced: Vec<&str> =
        now.iter().filter(|(_, row)| row.0.as_deref() == Some("last")).map(|(id, _)| &**id).collect();
    assert_eq!((replaced, now.len()), (vec!["k10", "k11", "k19"], 21));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_keep_keys_unique_and_lose_nothing() {
    let (directory, _store, _table) = new_table().await;
    // Two stores on one directory lock each other as two processes do.
    let mut writers = Vec::new();
    for writer in 0..4 {
        let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
        writers.push(tokio::spawn(async move {
            let table = store.table("media").await.unwrap();
            for round in 0..5 {
                let own = format!("w{writer}r{round}");
                table.upsert(rows(&[("shared", own.as_str(), None), (own.as_str(), "own", None)])).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let now = contents(&store.table("media").await.unwrap().snapshot().await.unwrap()).await;
    assert_eq!(now.len(), 4 * 5 + 1);
}

/// Whatever a scan requests, it returns wide rows a few megabytes at a time, and the same rows.
#[tokio::test]
async fn batches_of_wide_rows_are_bounded_in_bytes() {
    const ROWS: usize = 600;
    const BYTES: usize = 64 << 10;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let item = Arc::new(Field::new("item", DataType::UInt8, true));
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::LargeBinary, true),
        Field::new("pixels", DataType::FixedSizeList(item, BYTES as i32), true),
        blob_field("data"),
    ];
    let schema = Arc::new(Schema::new(fields));
    let table = store.create_table("wide", TableSpec::new(Arc::clone(&schema), ["id"])).await.unwrap();
    let mut random = Random::new(7);
    let batch = |ids: std::ops::Range<usize>, random: &mut Random| {
        let bytes: Vec<Vec<u8>> =
            ids.clone().map(|_| (0..BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()).collect();
        let values: ArrayRef = Arc::new(arrow::array::UInt8Array::from_iter_values(bytes.iter().flatten().copied()));
        let list = arrow::array::FixedSizeListArray::try_new(
            Arc::new(Field::new("item", DataType::UInt8, true)),
            BYTES as i32,
            values,
            None,
        );
        let binary: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(&bytes));
        let ids: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter_values(ids.map(|id| id as i64)));
        RecordBatch::try_new(Arc::clone(&schema), vec![ids, binary.clone(), Arc::new(list.unwrap()), binary]).unwrap()
    };
    for start in (0..ROWS).step_by(100) {
        table.upsert(batch(start..start + 100, &mut random)).await.unwrap();
    }
    table.fold().await.unwrap();
    table.upsert(batch(ROWS..ROWS + 20, &mut random)).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    for column in ["text", "pixels", "data"] {
        for filter in [None, Some("id >= 0"), Some("id % 5 = 0")] {
            let mut request = ScanRequest::default().columns(["id", column]).with_row_id();
            request.filter = filter.map(Into::into);
            let mut few = snapshot.scan(&request.clone().batch_rows(3)).await.unwrap();
            while let Some(batch) = few.try_next().await.unwrap() {
                assert!(batch.num_rows() <= 3, "{} rows of {column} by {filter:?}", batch.num_rows());
            }
            let mut scan = snapshot.scan(&request).await.unwrap();
            let mut ids = BTreeSet::new();
            while let Some(batch) = scan.try_next().await.unwrap() {
                let payload = batch.num_rows() * BYTES;
                assert!(payload <= 10 << 20, "a batch of {column} by {filter:?} has {payload} bytes");
                let numbers = batch["id"].as_primitive::<Int64Type>().values();
                let row_ids = batch[ROW_ID].as_primitive::<UInt64Type>().values();
                let again = snapshot.take(row_ids, &["id".into(), column.into()]).await.unwrap();
                assert_eq!(&again["id"], &batch["id"]);
                assert_eq!(&again[column], &batch[column]);
                ids.extend(numbers.iter().copied());
            }
            let kept = |id: &i64| filter != Some("id % 5 = 0") || id % 5 == 0;
            assert_eq!(ids, (0..ROWS as i64 + 20).filter(kept).collect());
        }
    }
}
