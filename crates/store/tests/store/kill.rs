//! A process that writes and is killed with SIGKILL at random moments, repeatedly on the same table. `CENOTE_LONG=1`
//! does it a thousand times; `CENOTE_SEED` replays the moments as far as the machine allows.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, Random};
use cenote_store::{ScanRequest, Store, StoreOptions, Table, TableSpec};

const CHILD: &str = "CENOTE_KILL_CHILD";
const KEYS: u64 = 2_000;

type Rows = BTreeMap<i64, i64>;

fn options() -> StoreOptions {
    StoreOptions {
        bulk_bytes: ByteSize(40_000),
        fold_bytes: ByteSize(200_000),
        fold_rows: 2_000,
        ..StoreOptions::default()
    }
}

/// Returns what write number `number` does: its keys, and their value or `None` for a deletion.
fn write(number: u64) -> (Vec<i64>, Option<i64>) {
    let mut random = Random::new(number);
    let count = match random.below(20) {
        0 => 1_500,
        1..=4 => 100,
        _ => 1 + random.below(5),
    };
    let start = random.below(KEYS);
    let keys = (0..count).map(|offset| ((start + offset) % KEYS) as i64).collect();
    (keys, (random.below(5) > 0).then_some(number as i64))
}

fn batch(keys: &[i64], value: i64) -> RecordBatch {
    let notes: StringArray = keys.iter().map(|key| Some(format!("{key} at {value}"))).collect();
    RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(keys.to_vec())) as _),
        ("value", Arc::new(Int64Array::from(vec![value; keys.len()])) as _),
        ("note", Arc::new(notes) as _),
    ])
    .unwrap()
}

fn apply(rows: &mut Rows, number: u64) {
    let (keys, value) = write(number);
    for key in keys {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}

async fn contents(table: &Table) -> Rows {
    let snapshot = table.snapshot().await.unwrap();
    let batch = snapshot.collect(&ScanRequest::default()).await.unwrap();
    let (ids, values) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
    let notes = batch.column(2).as_string::<i32>();
    for row in 0..batch.num_rows() {
        assert_eq!(notes.value(row), format!("{} at {}", ids.value(row), values.value(row)), "a row is torn");
    }
    let rows: Rows = ids.values().iter().copied().zip(values.values().iter().copied()).collect();
    assert_eq!(rows.len(), batch.num_rows(), "a key occurs twice");
    rows
}

/// Writes from `CENOTE_KILL_CHILD`'s number on, and reports acknowledged writes, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (number, directory) = arguments.split_once(' ').unwrap();
    let store = Store::open(directory, options()).await.unwrap();
    let table = store.table("t").await.unwrap();
    for number in number.parse().unwrap().. {
        let (keys, value) = write(number);
        match value {
            Some(value) => table.upsert(batch(&keys, value)).await.unwrap(),
            None => table.delete(&batch(&keys, 0)).await.unwrap(),
        };
        println!("\nacknowledged {number}");
        std::io::stdout().flush().unwrap();
        if number % 50 == 0 {
            table.compact(number % 100 == 0).await.unwrap();
            table.collect(Some(Duration::ZERO)).await.unwrap();
        }
    }
}

/// Lets a child write from `first` on for `life`. Returns the last write that it acknowledged.
fn run_child(directory: &Path, first: u64, life: Duration) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{first} {}", directory.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let start = Instant::now();
    let mut last = None;
    for line in output.lines() {
        if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
            last = Some(number.parse().unwrap());
        }
        if start.elapsed() > life {
            // SIGKILL. What it printed before is still in the pipe, and is read to the end.
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "the child ended by itself: {status}");
    last
}

#[tokio::test]
async fn a_killed_writer_loses_nothing_acknowledged() {
    let seed = std::env::var("CENOTE_SEED").ok().map(|text| text.parse().unwrap()).unwrap_or(1);
    let rounds = if std::env::var_os("CENOTE_LONG").is_some() { 1_000 } else { 20 };
    let mut random = Random::new(seed);
    let directory = tempfile::tempdir().unwrap();
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Int64, true),
        Field::new("note", DataType::Utf8, true),
    ];
    let store = Store::open(directory.path(), options()).await.unwrap();
    store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap();
    drop(store);

    let mut rows = Rows::new();
    let mut next = 1;
    for round in 0..rounds {
        let life = Duration::from_millis(20 + random.below(250));
        let last = run_child(directory.path(), next, life).unwrap_or(next - 1);
        for number in next..=last {
            apply(&mut rows, number);
        }
        let store = Store::open(directory.path(), options()).await.unwrap();
        let seen = contents(&store.table("t").await.unwrap()).await;
        let mut with_next = rows.clone();
        apply(&mut with_next, last + 1);
        next = last + 1;
        // The write in flight is there as a whole or not at all.
        if seen != rows {
            assert_eq!(
                seen, with_next,
                "CENOTE_SEED={seed} round {round}: write {next} is torn, or one before it lost"
            );
            rows = with_next;
            next += 1;
        }
    }
    assert!(next > rounds, "the children wrote {next} times only");
}
