//! A machine that loses power: acknowledged writes are there, a write in flight is there as a whole or not at all, and
//! work goes on. The test records what some processes do to their files, each of which takes over from one that died in
//! the middle of a write, and checks the disk as it may be after each acknowledgement and at random moments between.
//! `CENOTE_LONG=1` checks many more; `CENOTE_SEED` replays a failure as far as threads allow.

mod disk;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, ErrorKind, Random, Result};
use cenote_store::{
    DURABILITY_PROPERTY, Faults, ROW_ID, ScanRequest, Store, StoreOptions, Table, TableSpec, blob_field,
};
use disk::{Chance, Disk};
use futures::future::try_join_all;
use tokio::task::JoinSet;
use trace::Event;

const CHILD: &str = "CENOTE_POWER_CHILD";
/// Disks checked in parallel.
const PARALLEL: usize = 4;

/// A kind of table.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    /// With pictures, some in the data file and some beside it.
    Media,
    /// Writes are acknowledged when the operating system has them.
    Relaxed,
}

/// Returns the kind of a table, which its name tells so that steps stay short.
fn kind(table: &str) -> Kind {
    match table {
        "media" => Kind::Media,
        "relaxed" => Kind::Relaxed,
        _ => Kind::Plain,
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Drop,
    /// Upserts keys from, to, with their value. A wide range goes straight to the base.
    Put(i64, i64, i64),
    /// Upserts the same in several concurrent calls, each with a part of the keys.
    Together(i64, i64, i64, i64),
    /// Sets the value of existing keys.
    Patch(i64, i64, i64),
    Delete(i64, i64),
    Stage(i64, i64, i64),
    Fold,
    AddColumn(&'static str),
    Property(&'static str),
    Tag(&'static str),
    Consumer(&'static str),
    Compact,
    Collect,
    /// The process dies at an operation of a step, and another one goes on.
    Die(&'static str, &'static Step),
}

use Step::{
    AddColumn, Collect, Compact, Consumer, Create, Delete, Die, Drop, Fold, Patch, Property, Put, Stage, Tag, Together,
};

const WORKLOAD: &[(&str, Step)] = &[
    ("plain", Create),
    ("plain", Put(0, 5, 1)),
    ("plain", Together(0, 40, 2, 4)),
    ("plain", Tag("early")),
    ("plain", Delete(0, 2)),
    ("plain", Fold),
    ("plain", Put(2, 4, 3)),
    ("plain", Patch(3, 10, 4)),
    ("plain", Consumer("reader")),
    ("media", Create),
    ("media", Put(0, 6, 1)),
    ("plain", Put(0, 300, 5)),
    ("plain", Delete(90, 93)),
    ("plain", AddColumn("extra")),
    ("plain", Property("note")),
    ("plain", Patch(80, 100, 6)),
    ("relaxed", Create),
    ("relaxed", Put(0, 30, 1)),
    ("relaxed", Put(10, 50, 2)),
    ("relaxed", Put(20, 60, 3)),
    ("media", Put(3, 9, 2)),
    ("media", Delete(0, 1)),
    ("media", Patch(2, 5, 3)),
    ("plain", Stage(200, 320, 7)),
    ("plain", Together(95, 135, 8, 4)),
    ("plain", Fold),
    ("plain", Tag("late")),
    ("plain", Delete(50, 60)),
    ("plain", Compact),
    ("plain", Put(55, 56, 9)),
    ("relaxed", Fold),
    ("relaxed", Put(0, 20, 4)),
    ("relaxed", Tag("kept")),
    ("relaxed", Put(5, 25, 5)),
    ("plain", Collect),
    ("brief", Create),
    ("brief", Put(0, 10, 1)),
    ("brief", Drop),
    ("plain", Put(300, 700, 10)),
    ("brief", Create),
    ("brief", Put(3, 5, 2)),
    ("plain", Delete(0, 1)),
    ("media", Fold),
    ("media", Compact),
    ("media", Collect),
    ("plain", Collect),
    ("dying", Die("log.create", &Create)),
    ("dying", Drop),
    ("dying", Create),
    ("dying", Die("log.write", &Put(0, 6, 1))),
    ("dying", Put(4, 9, 2)),
    ("dying", Die("log.sync", &Put(3, 8, 3))),
    ("dying", Put(7, 12, 4)),
    ("dying", Die("base.commit", &Fold)),
    ("dying", Patch(8, 10, 5)),
    ("dying", Die("base.committed", &Put(0, 300, 6))),
    ("dying", Delete(5, 8)),
    ("dying", Die("base.committed", &AddColumn("extra"))),
    ("dying", Put(2, 3, 7)),
    ("dying", Die("log.create", &Fold)),
    ("dying", Put(3, 4, 8)),
];

type Rows = BTreeMap<i64, i64>;

/// The contents of a table.
#[derive(Debug, Clone, Default, PartialEq)]
struct Contents {
    rows: Rows,
    columns: Vec<String>,
    tags: BTreeMap<String, Rows>,
    consumers: Vec<String>,
    properties: Vec<String>,
}

/// The possible states of a table after a power cut; `None`: it does not exist.
type Possible = Vec<Option<Contents>>;

fn options() -> StoreOptions {
    StoreOptions { bulk_bytes: ByteSize(100_000), fold_bytes: ByteSize::mib(64), ..StoreOptions::default() }
}

fn spec(kind: Kind) -> TableSpec {
    let mut fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ];
    fields.extend((kind == Kind::Media).then(|| blob_field("picture")));
    let mut spec = TableSpec::new(Arc::new(Schema::new(fields)), ["id"]);
    if kind == Kind::Relaxed {
        spec.properties.insert(DURABILITY_PROPERTY.to_owned(), "relaxed".to_owned());
    }
    spec
}

/// Returns a text long enough that a row fills some sectors.
fn text(id: i64, value: i64) -> String {
    format!("{id} at {value}; ").repeat(60)
}

fn picture(id: i64, value: i64) -> Vec<u8> {
    let bytes = [100, 70_000, 9_000][(id % 3) as usize];
    let mut random = Random::new((id * 1_000 + value) as u64);
    (0..bytes).map(|_| random.next_u64() as u8).collect()
}

fn batch(kind: Kind, from: i64, to: i64, value: i64) -> RecordBatch {
    let ids: Int64Array = (from..to).collect();
    let values = Int64Array::from(vec![value; ids.len()]);
    let texts: StringArray = (from..to).map(|id| Some(text(id, value))).collect();
    let mut columns: Vec<Arc<dyn Array>> = vec![Arc::new(ids), Arc::new(values), Arc::new(texts)];
    if kind == Kind::Media {
        let pictures = (from..to).map(|id| Some(picture(id, value)));
        columns.push(Arc::new(pictures.collect::<LargeBinaryArray>()));
    }
    RecordBatch::try_new(spec(kind).schema, columns).unwrap()
}

async fn perform(store: &Store, name: &str, step: Step) -> Result<()> {
    let kind = kind(name);
    match step {
        Create => return store.create_table(name, spec(kind)).await.map(drop),
        Drop => return store.drop_table(name).await,
        _ => {}
    }
    let table = store.table(name).await?;
    match step {
        Put(from, to, value) => table.upsert(batch(kind, from, to, value)).await.map(drop),
        Together(from, to, value, parts) => {
            let part = (to - from) / parts;
            let starts = (from..to).step_by(part as usize);
            try_join_all(starts.map(|start| table.upsert(batch(kind, start, start + part, value)))).await.map(drop)
        }
        // Texts and pictures stay as they are: see `rows`.
        Patch(from, to, value) => {
            table.update(batch(Kind::Plain, from, to, value).project(&[0, 1]).unwrap()).await.map(drop)
        }
        Delete(from, to) => table.delete(&batch(kind, from, to, 0)).await.map(drop),
        Stage(from, to, value) => {
            let staged = table.stage(vec![batch(kind, from, to, value)]).await?;
            table.commit(vec![staged]).await.map(drop)
        }
        Fold => table.fold().await,
        AddColumn(column) => table.add_columns(&[Field::new(column, DataType::Utf8, true)]).await.map(drop),
        Property(name) => {
            let properties = BTreeMap::from([(name.to_owned(), Some("set".to_owned()))]);
            table.set_properties(properties).await.map(drop)
        }
        Tag(tag) => table.tag(tag, table.snapshot().await?.version()).await,
        Consumer(name) => table.set_consumer(name, Some(table.snapshot().await?.version())).await,
        Compact => table.compact(true).await,
        Collect => table.collect(Some(Duration::ZERO)).await.map(drop),
        Create | Drop | Die(..) => unreachable!(),
    }
}

/// Returns the possible results of `step` on `before`: the complete one last, before it those of its parts that are
/// writes of their own.
fn outcomes(before: &Option<Contents>, name: &str, step: Step) -> Possible {
    let mut after = before.clone().unwrap_or_default();
    let put = |rows: &mut Rows, from: i64, to: i64, value: i64| rows.extend((from..to).map(|id| (id, value)));
    match step {
        Create => {
            let spec = spec(kind(name));
            after.columns = spec.schema.fields().iter().map(|field| field.name().clone()).collect();
            let bare = after.clone();
            after.properties = spec.properties.into_keys().collect();
            return vec![Some(bare), Some(after)];
        }
        Drop => return vec![None],
        Put(from, to, value) | Stage(from, to, value) => put(&mut after.rows, from, to, value),
        Together(from, to, value, parts) => {
            let part = (to - from) / parts;
            let some = |chosen: i64| {
                let mut after = after.clone();
                for number in (0..parts).filter(|number| chosen >> number & 1 == 1) {
                    put(&mut after.rows, from + number * part, from + (number + 1) * part, value);
                }
                Some(after)
            };
            return (1..1 << parts).map(some).collect();
        }
        Patch(from, to, value) => after.rows.range_mut(from..to).for_each(|(_, row)| *row = value),
        Delete(from, to) => after.rows.retain(|id, _| !(from..to).contains(id)),
        AddColumn(column) => after.columns.push(column.to_owned()),
        Property(name) => after.properties.push(name.to_owned()),
        Tag(tag) => drop(after.tags.insert(tag.to_owned(), after.rows.clone())),
        Consumer(name) => after.consumers.push(name.to_owned()),
        Fold | Compact | Collect => {}
        Die(_, step) => return outcomes(before, name, *step),
    }
    vec![Some(after)]
}

/// Returns the possible states of a table once `step` was acknowledged, if it was in one of the states `before`.
fn acknowledge(before: &Possible, name: &str, step: Step) -> Possible {
    let done = |before: &Option<Contents>| outcomes(before, name, step).pop().unwrap();
    match (kind(name), step) {
        // Any number of the newest writes may be lost, until something is synced.
        (Kind::Relaxed, Put(..)) => before.iter().cloned().chain(before.last().map(done)).collect(),
        (Kind::Relaxed, _) => before.last().map(done).into_iter().collect(),
        (_, Die(..)) => before.iter().cloned().chain(in_flight(before, name, step)).collect(),
        _ => before.iter().map(done).collect(),
    }
}

/// Returns the possible states of a table, which was in one of the states `before`, once `step` has begun.
fn in_flight(before: &Possible, name: &str, step: Step) -> Possible {
    before.iter().flat_map(|before| outcomes(before, name, step)).collect()
}

async fn rows(snapshot: &cenote_store::Snapshot) -> Rows {
    let found = snapshot.collect(&ScanRequest::default().columns(["id", "value", "text"]).with_row_id()).await.unwrap();
    let (ids, values) = (found["id"].as_primitive::<Int64Type>(), found["value"].as_primitive::<Int64Type>());
    let texts = found["text"].as_string::<i32>();
    // A patch leaves the text of the previous write.
    let written =
        |row: usize| texts.value(row).split(" at ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    for (row, id) in ids.values().iter().enumerate() {
        assert_eq!(texts.value(row), text(*id, written(row)), "a row is torn");
    }
    if snapshot.schema().field_with_name("picture").is_ok() {
        let row_ids = found[ROW_ID].as_primitive::<arrow::datatypes::UInt64Type>().values();
        let pictures = snapshot.take(row_ids, &["picture".to_owned()]).await.unwrap();
        let pictures = pictures["picture"].as_binary::<i64>();
        for (row, id) in ids.values().iter().enumerate() {
            assert!(pictures.value(row) == picture(*id, written(row)), "picture {id} is torn");
        }
    }
    let rows: Rows = ids.values().iter().copied().zip(values.values().iter().copied()).collect();
    assert_eq!(rows.len(), ids.len(), "a key occurs twice");
    rows
}

async fn contents(table: &Table) -> Contents {
    let snapshot = table.snapshot().await.unwrap();
    let mut tags = BTreeMap::new();
    for tag in table.tags().await.unwrap().into_keys() {
        tags.insert(tag.clone(), rows(&table.snapshot_of(&tag).await.unwrap()).await);
    }
    let consumers = table.consumers().await.unwrap();
    for version in consumers.values() {
        let mut feed = table.changes(*version).await.unwrap();
        while feed.next().await.unwrap().is_some() {}
    }
    let known = [DURABILITY_PROPERTY, "note"];
    Contents {
        rows: rows(&snapshot).await,
        columns: snapshot.schema().fields().iter().map(|field| field.name().clone()).collect(),
        tags,
        consumers: consumers.into_keys().collect(),
        properties: known
            .iter()
            .filter(|name| snapshot.properties().contains_key(**name))
            .map(ToString::to_string)
            .collect(),
    }
}

/// Opens the lake that a power cut left at `path`, compares it with its possible states, and continues with table
/// `used`.
async fn check(path: &Path, possible: &BTreeMap<&str, Possible>, used: &str) {
    let store = Store::open(path, options()).await.unwrap();
    let listed = store.tables().await.unwrap();
    for (name, possible) in possible {
        let seen = match store.table(name).await {
            Ok(table) => Some(contents(&table).await),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{name}: {error:#}"),
        };
        assert_eq!(listed.iter().any(|listed| listed == name), seen.is_some(), "{name} in {listed:?}");
        assert!(possible.contains(&seen), "{name}: {seen:?} is none of {possible:?}");
        if *name != used {
            continue;
        }
        if seen.is_none() {
            perform(&store, name, Create).await.unwrap();
        }
        // The next write adopts a commit that was not logged.
        let since = possible.iter().skip_while(|possible| **possible != seen);
        let mut after: Possible = since
            .map(|seen| match seen {
                Some(seen) => Some(seen.clone()),
                None => outcomes(&None, name, Create).pop().unwrap(),
            })
            .collect();
        for step in [Put(1_000, 1_003, 90), Compact, Collect] {
            perform(&store, name, step).await.unwrap_or_else(|error| panic!("{name}: {step:?}: {error:#}"));
            after = after.iter().map(|after| outcomes(after, name, step).pop().unwrap()).collect();
        }
        let seen = Some(contents(&store.table(name).await.unwrap()).await);
        assert!(after.contains(&seen), "{name} went on: {seen:?} is none of {after:?}");
    }
}

/// Makes a directory, in memory where possible: syncing costs nothing there, and its effect is simulated from the
/// recording.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn lake(root: &Path) -> PathBuf {
    root.join("below").join("lake")
}

/// Performs the workload, from the step and in the directory that `CENOTE_POWER_CHILD` gives, until a step at which it
/// dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (first, root) = arguments.split_once(' ').unwrap();
    let (first, root): (usize, _) = (first.parse().unwrap(), Path::new(root));
    let deadly = Arc::new(Mutex::new(None));
    let armed = Arc::clone(&deadly);
    let faults = Faults::new(move |operation| match *armed.lock().unwrap() {
        Some(deadly) if operation == deadly => std::process::abort(),
        _ => Ok(()),
    });
    if let Some(before) = first.checked_sub(1) {
        // The death of the process before was the end of its step.
        trace::mark(root, before);
    }
    let store = Store::open(lake(root), StoreOptions { faults, ..options() }).await.unwrap();
    for (number, (table, step)) in WORKLOAD.iter().enumerate().skip(first) {
        if let Die(operation, step) = step {
            *deadly.lock().unwrap() = Some(*operation);
            let survived = perform(&store, table, **step).await;
            panic!("{table}: {step:?} does not come to {operation}: {survived:?}");
        }
        perform(&store, table, *step).await.unwrap_or_else(|error| panic!("{table}: {step:?}: {error:#}"));
        trace::mark(root, number);
    }
}

/// Records what the processes that perform the workload do to `root`.
fn record(root: &Path) -> Vec<Event> {
    let deaths = WORKLOAD.iter().enumerate().filter(|(_, (_, step))| matches!(step, Die(..)));
    let firsts = std::iter::once(0).chain(deaths.map(|(number, _)| number + 1));
    firsts
        .flat_map(|first| trace::record("power::child", (CHILD, &format!("{first} {}", root.display())), root))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_acknowledged() {
    if !trace::can_trace() {
        println!("skipped: strace is missing or may not trace; `scripts/setup tests` installs it");
        return;
    }
    let seed = std::env::var("CENOTE_SEED").ok().map(|text| text.parse().unwrap()).unwrap_or(1);
    let is_long = std::env::var_os("CENOTE_LONG").is_some();
    let (moments, tries) = if is_long { (2_000, 10) } else { (40, 1) };
    let root = directory();
    let events = record(root.path());
    let marks = events.iter().filter(|event| matches!(event, Event::Mark(_))).count();
    assert_eq!(marks, WORKLOAD.len(), "the recording misses steps");

    let mut random = Random::new(seed);
    let mut between: Vec<usize> = (0..moments).map(|_| random.below(events.len() as u64) as usize).collect();
    between.sort_unstable();
    between.dedup();
    let mut disk = Disk::new(root.path());
    let mut possible: BTreeMap<&str, Possible> = WORKLOAD.iter().map(|(name, _)| (*name, vec![None])).collect();
    let names: Vec<&str> = possible.keys().copied().collect();
    let mut checks = JoinSet::new();
    let mut steps = WORKLOAD.iter().enumerate().peekable();
    for (number, event) in events.iter().enumerate() {
        disk.apply(event);
        let mut may_be = possible.clone();
        if let Event::Mark(done) = event {
            let (expected, (name, step)) = steps.next().unwrap();
            assert_eq!(*done, expected);
            possible.insert(name, acknowledge(&possible[name], name, *step));
            may_be.clone_from(&possible);
        } else if between.binary_search(&number).is_err() {
            continue;
        } else if let Some((_, (name, step))) = steps.peek() {
            may_be.get_mut(name).unwrap().extend(in_flight(&possible[name], name, *step));
        }
        let used = names[random.below(names.len() as u64) as usize];
        for attempt in 0..=tries {
            let target = directory();
            let mut chance = (attempt > 0).then(|| Chance::new(random.next_u64()));
            let what = format!("CENOTE_SEED={seed}: after event {number}, {}, {chance:?}", event.summary());
            disk.write(target.path(), &mut chance);
            let (path, expected) = (lake(target.path()), may_be.clone());
            checks.spawn(async move {
                let checked = tokio::spawn(async move { check(&path, &expected, used).await });
                checked.await.map_err(|failed| {
                    format!("{what}, {used} used: {failed}; what is left is in {}", target.keep().display())
                })
            });
            while checks.len() >= PARALLEL {
                checks.join_next().await.unwrap().unwrap().unwrap_or_else(|failed| panic!("{failed}"));
            }
        }
    }
    for checked in checks.join_all().await {
        checked.unwrap_or_else(|failed| panic!("{failed}"));
    }
}
