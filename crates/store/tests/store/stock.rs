//! The base of every table is a plain Lance dataset: stock `pylance` opens it, and finds what was folded.

use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int64Array, LargeBinaryArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use cenote_store::{Store, StoreOptions, Table, TableSpec, blob_field};

/// Prints what pylance finds, one line per row: every column, media as their length and first byte.
const READ: &str = r#"
import sys, lance
dataset = lance.dataset(sys.argv[1])
names = [field.name for field in dataset.schema if field.name != "data"]
table = dataset.to_table(columns=names, with_row_id=True)
media = {}
if "data" in dataset.schema.names:
    ids = table.column("_rowid").to_pylist()
    for row, blob in zip(ids, dataset.take_blobs("data", ids=ids)):
        media[row] = blob.readall() if blob is not None else None
for row in sorted(table.to_pylist(), key=lambda row: row["id"]):
    data = media.get(row["_rowid"])
    vector = row["vector"] and [round(x, 3) for x in row["vector"]]
    when = row["when"] and int(row["when"].timestamp())
    print(row["id"], row["note"], vector, when, data and (len(data), data[0]))
print(dataset.count_rows(), dataset.count_rows(filter="note = 'two'"))
"#;

fn schema() -> Arc<Schema> {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("note", DataType::Utf8, true),
        Field::new("vector", DataType::FixedSizeList(item, 2), true),
        Field::new("when", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        blob_field("data"),
    ]))
}

fn rows(ids: std::ops::Range<i64>, note: &str) -> RecordBatch {
    let count = ids.clone().count();
    let numbers: Float32Array = ids.clone().flat_map(|id| [id as f32, 0.5]).collect();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let times = TimestampMicrosecondArray::from_iter_values(ids.clone().map(|id| id * 1_000_000)).with_timezone("UTC");
    let data: LargeBinaryArray =
        ids.clone().map(|id| (id % 3 > 0).then(|| vec![id as u8; 100 + id as usize])).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids.collect::<Int64Array>()),
        Arc::new(StringArray::from(vec![note; count])),
        Arc::new(FixedSizeListArray::new(item, 2, Arc::new(numbers), None)),
        Arc::new(times),
        Arc::new(data),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn expected(rows: &[(std::ops::Range<i64>, &str)]) -> String {
    let mut text = String::new();
    let line = |id: i64, note: &str| {
        let data = match id % 3 {
            0 => "None".to_owned(),
            _ => format!("({}, {})", 100 + id, id as u8),
        };
        format!("{id} {note} [{id}.0, 0.5] {id} {data}\n")
    };
    for (ids, note) in rows {
        text.extend(ids.clone().map(|id| line(id, note)));
    }
    let count = |wanted: &str| {
        let fits = rows.iter().filter(|(_, note)| wanted.is_empty() || *note == wanted);
        fits.map(|(ids, _)| ids.clone().count()).sum::<usize>()
    };
    text + &format!("{} {}\n", count(""), count("two"))
}

fn read(directory: &std::path::Path) -> String {
    let python = crate::support::test_environment().join("bin/python");
    assert!(python.exists(), "{} is missing: run `scripts/setup tests`", python.display());
    let output = Command::new(python).args(["-c", READ]).arg(directory.join("t.lance")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn pylance_reads_what_was_folded() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table: Table = store.create_table("t", TableSpec::new(schema(), ["id"])).await.unwrap();
    table.upsert(rows(0..40, "one")).await.unwrap();
    table.fold().await.unwrap();
    assert_eq!(read(directory.path()), expected(&[(0..40, "one")]));

    // Unfolded writes are not there, and take nothing away.
    table.upsert(rows(10..20, "two")).await.unwrap();
    table.delete(&rows(0..5, "").project(&[0]).unwrap()).await.unwrap();
    assert_eq!(read(directory.path()), expected(&[(0..40, "one")]));
    table.fold().await.unwrap();
    let now = expected(&[(5..10, "one"), (10..20, "two"), (20..40, "one")]);
    assert_eq!(read(directory.path()), now);
    table.compact(true).await.unwrap();
    assert_eq!(read(directory.path()), now);
}
