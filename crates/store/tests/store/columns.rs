//! The columns that a table accepts, and what a batch must say about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, Float32Array, Float64Array, Int8Array, Int64Array,
    Int64Builder, MapBuilder, RecordBatch, RecordBatchOptions, StringArray, StringBuilder, UInt8Array, make_array,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
use cenote_base::{ErrorKind, Result};
use cenote_store::{DEPENDENTS_PROPERTY, ScanRequest, Store, StoreOptions, Table, TableSpec, VOID};

async fn new_store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    (directory, store)
}

fn spec(fields: impl IntoIterator<Item = Field>) -> TableSpec {
    let fields = [Field::new("id", DataType::Int64, false)].into_iter().chain(fields);
    TableSpec::new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), ["id"])
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

fn fixed(data_type: DataType) -> DataType {
    DataType::FixedSizeList(item(data_type), 2)
}

fn structure(data_type: DataType) -> DataType {
    DataType::Struct(Fields::from(vec![Field::new("x", data_type, true)]))
}

fn ids(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// Makes a batch whose columns may share a name.
fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    let columns = columns.iter().map(|(_, column)| Arc::clone(column)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(says), "`{error}` does not say `{says}`");
}

#[tokio::test]
async fn types_that_cannot_be_stored_are_refused_before_rows_are() {
    let (_directory, store) = new_store().await;
    let table = store.create_table("t", spec([])).await.unwrap();
    let version = table.snapshot().await.unwrap().version();
    let empty = DataType::Struct(Fields::empty());
    let twice = vec![Field::new("x", DataType::Int8, true), Field::new("x", DataType::Utf8, true)];
    let cases = [
        (fixed(DataType::Utf8), "a fixed-size list holds numbers"),
        (fixed(DataType::LargeBinary), "a fixed-size list holds numbers"),
        (fixed(structure(DataType::Int32)), "a fixed-size list holds numbers"),
        (fixed(fixed(DataType::Utf8)), "a fixed-size list holds numbers"),
        (fixed(DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8))), "a fixed-size list"),
        (structure(fixed(structure(DataType::Int32))), "a fixed-size list holds numbers"),
        (DataType::List(item(fixed(DataType::Utf8))), "a fixed-size list holds numbers"),
        (DataType::LargeList(item(fixed(structure(DataType::Int32)))), "a fixed-size list holds numbers"),
        (empty.clone(), "a struct has one field or more"),
        (structure(empty.clone()), "a struct has one field or more"),
        (DataType::List(item(empty)), "a struct has one field or more"),
        (DataType::Struct(Fields::from(twice)), "field `x` is twice in one struct"),
    ];
    for (data_type, says) in cases {
        let field = Field::new("v", data_type, true);
        let says = format!("column `v`: {says}");
        refused(store.create_table("u", spec([field.clone()])).await, &says);
        refused(table.add_columns(&[field]).await, &says);
    }
    assert_eq!(store.tables().await.unwrap(), ["t"]);
    assert_eq!(table.snapshot().await.unwrap().version(), version);
}

#[tokio::test]
async fn fixed_size_lists_of_values_of_one_size_come_back_after_a_fold() {
    let (_directory, store) = new_store().await;
    let types = [
        fixed(DataType::Boolean),
        fixed(DataType::Float64),
        fixed(DataType::Date32),
        fixed(DataType::Decimal128(5, 2)),
        fixed(DataType::FixedSizeBinary(3)),
        fixed(fixed(DataType::Int32)),
        structure(fixed(fixed(DataType::Float32))),
        DataType::List(item(fixed(DataType::Boolean))),
    ];
    for (number, data_type) in types.into_iter().enumerate() {
        let table = store.create_table(&format!("t{number}"), spec([Field::new("v", data_type.clone(), true)])).await;
        let table = table.unwrap();
        let column = new_null_array(&data_type, 3);
        table.upsert(batch(&[("id", ids(&[1, 2, 3])), ("v", column)])).await.unwrap();
        table.fold().await.unwrap();
        let rows = table.snapshot().await.unwrap().collect(&ScanRequest::default()).await.unwrap();
        assert_eq!((rows.num_rows(), rows["v"].null_count()), (3, 3), "{data_type}");
    }
}

#[tokio::test]
async fn names_that_nobody_could_use_are_refused_for_new_columns() {
    let (_directory, store) = new_store().await;
    let table = store.create_table("t", spec([])).await.unwrap();
    let names = [
        "",
        "*",
        "`",
        "a`b",
        "a.b",
        "a\0b",
        "_cenote_x",
        "_rowid",
        "_rowaddr",
        "_rowoffset",
        "_row_created_at_version",
        "_row_last_updated_at_version",
        "_distance",
        "_score",
    ];
    for name in names {
        let field = Field::new(name, DataType::Int64, true);
        let says = if name.is_empty() { "a column needs a name".to_owned() } else { name.escape_debug().to_string() };
        refused(store.create_table("u", spec([field.clone()])).await, &says);
        refused(table.add_columns(&[field]).await, &says);
    }
    let both = [Field::new("a", DataType::Int64, true), Field::new("a", DataType::Utf8, true)];
    refused(store.create_table("u", spec(both.clone())).await, "column `a` is given twice");
    refused(table.add_columns(&both).await, "column `a` is given twice");
    // Cenote adds its own columns by another function. Fields of structs may have any name except none.
    table.add_own_columns(&[Field::new("_cenote_x", DataType::Int64, true)]).await.unwrap();
    let unnamed = DataType::Struct(Fields::from(vec![Field::new("", DataType::Int64, true)]));
    refused(
        store.create_table("u", spec([Field::new("s", unnamed, true)])).await,
        "each field of a struct needs a name",
    );
    let names = ["*", "a`b", "a.b", "_rowid"].map(|name| Field::new(name, DataType::Int64, true));
    let within = DataType::Struct(Fields::from(names.to_vec()));
    store.create_table("u", spec([Field::new("s", within, true)])).await.unwrap();
    assert_eq!(table.snapshot().await.unwrap().schema().fields().len(), 1);
}

#[tokio::test]
async fn a_column_that_is_given_twice_is_refused_and_one_that_is_asked_for_twice_is_there_once() {
    let (_directory, store) = new_store().await;
    let fields = || [Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)];
    let both = TableSpec::new(spec(fields()).schema, ["id", "id"]);
    refused(store.create_table("t", both).await, "the primary key has column `id` twice");
    let table = store.create_table("t", spec(fields())).await.unwrap();
    let row = |id: i64| batch(&[("id", ids(&[id])), ("a", ids(&[10])), ("b", ids(&[20]))]);
    table.upsert(row(1)).await.unwrap();
    table.fold().await.unwrap();
    let version = table.upsert(row(2)).await.unwrap().version;

    let twice = batch(&[("id", ids(&[1])), ("a", ids(&[11])), ("a", ids(&[12]))]);
    refused(table.upsert(twice.clone()).await, "column `a` is given twice");
    refused(table.stage(vec![twice.clone()]).await, "column `a` is given twice");
    refused(table.update(twice).await, "column `a` is given twice");
    let keys = batch(&[("id", ids(&[1])), ("id", ids(&[2]))]);
    refused(table.delete(&keys).await, "primary key column `id` is given twice");
    let snapshot = table.snapshot().await.unwrap();
    refused(snapshot.get(&keys, None).await, "primary key column `id` is given twice");
    assert_eq!(snapshot.version(), version);

    // A row of the base, a row of the change store, and both.
    let columns = ["b", "id", "b", "id"];
    let names = |rows: &RecordBatch| -> Vec<String> {
        rows.schema().fields().iter().map(|field| field.name().clone()).collect()
    };
    for wanted in [vec![1], vec![2], vec![1, 2]] {
        let rows = snapshot.get(&batch(&[("id", ids(&wanted))]), Some(columns.map(str::to_owned).to_vec())).await;
        let rows = rows.unwrap();
        assert_eq!((names(&rows), rows.num_rows()), (vec!["b".to_owned(), "id".to_owned()], wanted.len()));
    }
    let rows = snapshot.collect(&ScanRequest::default().columns(columns)).await.unwrap();
    assert_eq!(names(&rows), ["b", "id"]);
    assert_eq!(rows["b"].as_primitive::<Int64Type>().values(), &[20, 20]);
    let request = ScanRequest::default().columns(columns).filter("a = 10").with_row_id();
    assert_eq!(names(&snapshot.collect(&request).await.unwrap()), ["b", "id", "_rowid"]);
}

fn vectors(numbers: ArrayRef, nulls: Option<NullBuffer>) -> ArrayRef {
    let item = item(numbers.data_type().clone());
    Arc::new(FixedSizeListArray::new(item, 2, numbers, nulls))
}

#[tokio::test]
async fn vectors_have_all_their_numbers_and_finite_ones() {
    let (_directory, store) = new_store().await;
    let half = |numbers: [f32; 6]| cast(&Float32Array::from(numbers.to_vec()), &DataType::Float16).unwrap();
    let halves = |at: usize| -> ArrayRef {
        let ones = half([1.0; 6]);
        Arc::new(
            ones.as_primitive::<arrow::datatypes::Float16Type>()
                .iter()
                .enumerate()
                .map(|(row, number)| number.filter(|_| row != at))
                .collect::<Float16Array>(),
        )
    };
    let wide = |number: f64| -> ArrayRef { Arc::new(Float64Array::from(vec![1.0, 1.0, 1.0, number, 1.0, 1.0])) };
    let narrow = |number: f32| -> ArrayRef { Arc::new(Float32Array::from(vec![1.0, 1.0, 1.0, number, 1.0, 1.0])) };
    let missing = [Some(1), Some(1), Some(1), None, Some(1), Some(1)];
    let bad: Vec<ArrayRef> = vec![
        half([1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0]),
        half([1.0, 1.0, 1.0, f32::INFINITY, 1.0, 1.0]),
        halves(3),
        narrow(f32::NAN),
        narrow(f32::NEG_INFINITY),
        Arc::new(missing.map(|number| number.map(|n: i8| f32::from(n))).into_iter().collect::<Float32Array>()),
        wide(f64::NAN),
        wide(f64::INFINITY),
        Arc::new(missing.map(|number| number.map(|n: i8| f64::from(n))).into_iter().collect::<Float64Array>()),
        Arc::new(missing.into_iter().collect::<Int8Array>()),
        Arc::new(missing.map(|number| number.map(|n: i8| n as u8)).into_iter().collect::<UInt8Array>()),
    ];
    for (number, numbers) in bad.into_iter().enumerate() {
        let field = Field::new("v", fixed(numbers.data_type().clone()), true);
        let table = store.create_table(&format!("t{number}"), spec([field])).await.unwrap();
        let rows = |nulls| batch(&[("id", ids(&[1, 2, 3])), ("v", vectors(Arc::clone(&numbers), nulls))]);
        let says = "column `v` holds vectors with numbers that are NaN, infinite or null, in rows 1:";
        refused(table.upsert(rows(None)).await, says);
        refused(table.update(rows(None)).await, says);
        // Values under a null vector do not count.
        let nulls = NullBuffer::from(vec![true, false, true]);
        assert_eq!(table.upsert(rows(Some(nulls))).await.unwrap().inserted, 3);
        refused(table.upsert(rows(None).slice(1, 2)).await, "in rows 0:");
    }
    // Lists of other numbers are not vectors.
    let field = Field::new("v", fixed(DataType::Int64), true);
    let table = store.create_table("boxes", spec([field])).await.unwrap();
    let numbers = Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef;
    table.upsert(batch(&[("id", ids(&[1])), ("v", vectors(numbers, None))])).await.unwrap();
}

#[tokio::test]
async fn no_columns_to_drop_make_no_version_and_a_property_is_what_is_read_of_it() {
    let (_directory, store) = new_store().await;
    let table: Table = store.create_table("t", spec([])).await.unwrap();
    let version = table.snapshot().await.unwrap().version();
    assert_eq!(table.drop_columns(&[]).await.unwrap(), version);
    assert_eq!(table.snapshot().await.unwrap().version(), version);

    let property = |value: &str| BTreeMap::from([(DEPENDENTS_PROPERTY.to_owned(), Some(value.to_owned()))]);
    refused(table.set_properties(property("nonsense")).await, "a JSON object from column to list of columns");
    refused(table.set_properties(property(r#"{"a": 1}"#)).await, "a JSON object from column to list of columns");
    table.set_properties(property(r#"{"a": ["b"]}"#)).await.unwrap();
    let properties = [(DEPENDENTS_PROPERTY.to_owned(), "nonsense".to_owned())].into_iter().collect();
    let made = store.create_table("u", TableSpec { properties, ..spec([]) }).await;
    refused(made, "a JSON object from column to list of columns");
}

#[tokio::test]
async fn a_number_that_is_void_is_zero_where_it_was_set_and_null_where_not() {
    let (_directory, store) = new_store().await;
    let fields = [
        Field::new("text", DataType::Utf8, true),
        Field::new("mark", DataType::Int64, true),
        Field::new("made", DataType::Utf8, true),
    ];
    let table = store.create_table("t", spec(fields)).await.unwrap();
    let property = (DEPENDENTS_PROPERTY.to_owned(), Some(r#"{"text": ["mark", "made", "gone"]}"#.to_owned()));
    table.set_properties([property].into_iter().collect()).await.unwrap();
    let text = |value: &str, rows: usize| Arc::new(StringArray::from(vec![value; rows])) as ArrayRef;
    let marks: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(9)]));
    let rows = [("id", ids(&[1, 2, 3])), ("text", text("old", 3)), ("mark", marks), ("made", text("made", 3))];
    table.upsert(batch(&rows)).await.unwrap();
    for is_folded in [false, true] {
        if is_folded {
            table
                .update(batch(&[("id", ids(&[1, 2])), ("mark", Arc::new(Int64Array::from(vec![Some(7), None])))]))
                .await
                .unwrap();
            table.fold().await.unwrap();
        }
        table.update(batch(&[("id", ids(&[4, 2, 1])), ("text", text("new", 3))])).await.unwrap();
        let read = table.snapshot().await.unwrap().get(&batch(&[("id", ids(&[1, 2, 3]))]), None).await.unwrap();
        let marks =
            read["id"].as_primitive::<Int64Type>().iter().flatten().zip(read["mark"].as_primitive::<Int64Type>());
        assert_eq!(marks.collect::<BTreeMap<_, _>>(), [(1, Some(VOID)), (2, None), (3, Some(9))].into());
        assert_eq!(read["made"].null_count(), 2);
    }
}

/// Uses keys of eight bits, as pandas makes them, which are too few for the values of several writes, and a map that
/// claims to be sorted, which nothing maintains.
#[tokio::test]
async fn dictionaries_with_short_keys_and_sorted_maps_hold_what_all_writes_bring() {
    let (_directory, store) = new_store().await;
    let short = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let long = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let table = store.create_table("t", spec([Field::new("kind", short.clone(), true)])).await.unwrap();
    table.add_columns(&[Field::new("in_list", DataType::List(item(short.clone())), true)]).await.unwrap();
    let schema = table.snapshot().await.unwrap().schema().clone();
    assert_eq!(schema.field_with_name("kind").unwrap().data_type(), &long);
    assert_eq!(schema.field_with_name("in_list").unwrap().data_type(), &DataType::List(item(long)));
    table.add_columns(&[Field::new("in_list", DataType::List(item(short.clone())), true)]).await.unwrap();
    let truths = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Boolean));
    let truths = Field::new("truths", truths, true);
    refused(table.add_columns(&[truths]).await, "a dictionary of booleans cannot be written");
    let kinds = |start: i64| {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((start..start + 100).map(|id| format!("k{id}"))));
        cast(&texts, &short).unwrap()
    };
    for start in (0..400).step_by(100) {
        let numbers: Vec<i64> = (start..start + 100).collect();
        table.upsert(batch(&[("id", ids(&numbers)), ("kind", kinds(start))])).await.unwrap();
        if start == 100 {
            table.fold().await.unwrap();
        }
    }
    table.update(batch(&[("id", ids(&(50..150).collect::<Vec<_>>())), ("kind", kinds(0))])).await.unwrap();
    for step in ["in memory", "folded", "joined"] {
        match step {
            "folded" => table.fold().await.unwrap(),
            "joined" => table.compact(true).await.unwrap(),
            _ => {}
        }
        let rows = table.snapshot().await.unwrap().collect(&ScanRequest::default()).await.unwrap();
        let kinds = cast(&rows["kind"], &DataType::Utf8).unwrap();
        let found =
            rows["id"].as_primitive::<Int64Type>().iter().flatten().zip(kinds.as_string::<i32>().iter().flatten());
        let expected = |id: i64| format!("k{}", if (50..150).contains(&id) { id - 50 } else { id });
        assert_eq!(
            found.map(|(id, kind)| (id, kind.to_owned())).collect::<BTreeMap<_, _>>(),
            (0..400).map(|id| (id, expected(id))).collect(),
            "{step}"
        );
    }

    let entries =
        Fields::from(vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int64, true)]);
    let entries = Arc::new(Field::new("entries", DataType::Struct(entries.clone()), false));
    let sorted = Field::new("map", DataType::Map(Arc::clone(&entries), true), true);
    let table = store.create_table("maps", spec([sorted.clone()])).await.unwrap();
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    builder.keys().append_value("a");
    builder.values().append_value(1);
    builder.append(true).unwrap();
    let map = builder.finish();
    let given = map.to_data().into_builder().data_type(sorted.data_type().clone()).build().unwrap();
    table.upsert(batch(&[("id", ids(&[1])), ("map", make_array(given))])).await.unwrap();
    let read = table.snapshot().await.unwrap().collect(&ScanRequest::default()).await.unwrap();
    assert_eq!(read["map"].data_type(), &DataType::Map(entries, false));
    assert_eq!(read["map"].as_map().value(0).column(0).as_string::<i32>().value(0), "a");
}

#[tokio::test]
async fn a_batch_without_columns_is_refused_with_what_it_lacks() {
    let (_directory, store) = new_store().await;
    let table = store.create_table("t", spec([])).await.unwrap();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
    refused(table.upsert(rows).await, "column `id` must be given");
}
