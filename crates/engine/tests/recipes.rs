//! Recipes over a real store: only what changed is done again, bad rows are data, and a wrong recipe says where.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int32Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Schema};
use cenote_base::{ByteSize, Error, ErrorKind};
use cenote_engine::{
    ERROR_TABLE, Engine, EngineOptions, ErrorTable, Keep, Recipe, RunOptions, RunReport, Step, fingerprints_of,
};
use cenote_operator::{
    Definition, Operator, OperatorSpec, Output, ParamType, Port, PortType, Registry, RowError, Rows, Shape, Worker,
    row_wise,
};
use cenote_scheduler::{Scheduler, SchedulerOptions};
use cenote_store::{Faults, ScanRequest, Store, StoreOptions, Table, TableSpec, blob_field};

/// Counts of the rows that operators saw, and the pause of the next call.
#[derive(Default)]
struct Calls {
    upper: AtomicUsize,
    split: AtomicUsize,
    pause: Mutex<Option<Pause>>,
}

/// A pause of a call, which announces that it has its rows and waits for leave to go on.
struct Pause {
    arrived: mpsc::SyncSender<()>,
    leave: mpsc::Receiver<()>,
}

impl Calls {
    fn wait(&self) {
        let pause = self.pause.lock().unwrap().take();
        if let Some(pause) = pause {
            pause.arrived.send(()).unwrap();
            pause.leave.recv().unwrap();
        }
    }
}

struct Split(Vec<Field>, Arc<Calls>);

impl Operator for Split {
    fn outputs(&self) -> &[Field] {
        &self.0
    }

    fn worker(&self) -> cenote_base::Result<Box<dyn Worker>> {
        Ok(Box::new(SplitWorker(Arc::clone(&self.1))))
    }
}

struct SplitWorker(Arc<Calls>);

impl Worker for SplitWorker {
    fn process(&mut self, rows: &Rows<'_>) -> cenote_base::Result<Output> {
        self.0.split.fetch_add(rows.len(), Ordering::SeqCst);
        self.0.wait();
        let (mut words, mut parents, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (row, text) in rows.column(0).as_string::<i32>().iter().enumerate() {
            if text == Some("broken") {
                errors.push(RowError { row, reason: "the text is `broken`".into() });
                continue;
            }
            for word in text.unwrap_or_default().split_whitespace() {
                words.push(word);
                parents.push(row as u32);
            }
        }
        let columns = vec![Arc::new(StringArray::from(words)) as ArrayRef];
        Ok(Output { columns, parents: Some(UInt32Array::from(parents)), errors })
    }
}

/// Makes a vector of each text, or of each of its words.
#[derive(Clone)]
struct Embed(Vec<Field>, Shape);

fn vector() -> Field {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    Field::new("vector", DataType::FixedSizeList(item, 1), true)
}

impl Operator for Embed {
    fn outputs(&self) -> &[Field] {
        &self.0
    }

    fn worker(&self) -> cenote_base::Result<Box<dyn Worker>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for Embed {
    fn process(&mut self, rows: &Rows<'_>) -> cenote_base::Result<Output> {
        let (mut numbers, mut parents) = (Vec::new(), Vec::new());
        for (row, text) in rows.column(0).as_string::<i32>().iter().enumerate() {
            let text = text.unwrap_or_default();
            let parts = if self.1 == Shape::OneToMany { text.split(' ').collect() } else { vec![text] };
            for part in parts {
                numbers.push(Some(vec![Some(if part.contains("nan") { f32::NAN } else { 1.0 })]));
                parents.push(row as u32);
            }
        }
        let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(numbers, 1);
        let parents = (self.1 == Shape::OneToMany).then(|| UInt32Array::from(parents));
        Ok(Output { columns: vec![Arc::new(vectors)], parents, errors: Vec::new() })
    }
}

fn registry(calls: &Arc<Calls>, version: u32) -> Registry {
    let mut registry = Registry::default();
    let counted = Arc::clone(calls);
    registry.register(
        Definition::new("upper_text", version, "Upper case; `bad` fails", move |params| {
            let (counted, suffix) = (Arc::clone(&counted), params.text("suffix")?.to_owned());
            Ok(row_wise(vec![Field::new("upper", DataType::Utf8, true)], move |rows: &Rows<'_>| {
                counted.upper.fetch_add(rows.len(), Ordering::SeqCst);
                counted.wait();
                let mut errors = Vec::new();
                let column: StringArray = rows
                    .column(0)
                    .as_string::<i32>()
                    .iter()
                    .enumerate()
                    .map(|(row, text)| match text? {
                        "bad" => {
                            errors.push(RowError { row, reason: "the text is `bad`".into() });
                            None
                        }
                        text => Some(text.to_uppercase() + &suffix),
                    })
                    .collect();
                Ok(Output::from(vec![Arc::new(column) as ArrayRef]).with_errors(errors))
            }))
        })
        .input(Port::new("text", PortType::Text))
        .param("suffix", ParamType::Text, "", "Appended"),
    );
    registry.register(
        Definition::new("score_length", 1, "Length", |_| {
            Ok(row_wise(vec![Field::new("score", DataType::Float32, true)], |rows: &Rows<'_>| {
                let text = rows.column(0).as_string::<i32>();
                let scores: Float32Array = text.iter().map(|text| text.map(|text| text.len() as f32)).collect();
                Ok(vec![Arc::new(scores) as ArrayRef].into())
            }))
        })
        .shape(Shape::Filter)
        .input(Port::new("text", PortType::Text)),
    );
    registry.register(
        Definition::new("measure_bytes", 1, "Size of media", |_| {
            Ok(row_wise(vec![Field::new("bytes", DataType::Int32, true)], |rows: &Rows<'_>| {
                let media = rows.column(0).as_binary::<i64>();
                let sizes: arrow::array::Int32Array = media.iter().map(|m| m.map(|m| m.len() as i32)).collect();
                Ok(vec![Arc::new(sizes) as ArrayRef].into())
            }))
        })
        .input(Port::new("media", PortType::Bytes)),
    );
    registry.register(
        Definition::new("measure_text", 1, "Length, and the text itself", |params| {
            let suffix = params.text("suffix")?.to_owned();
            let fields = vec![Field::new("size", DataType::Int32, true), Field::new("echo", DataType::Utf8, true)];
            Ok(row_wise(fields, move |rows: &Rows<'_>| {
                let text = rows.column(0).as_string::<i32>();
                let sizes: Int32Array = text.iter().map(|text| text.map(|text| text.len() as i32)).collect();
                let echo: StringArray = text.iter().map(|text| text.map(|text| text.to_owned() + &suffix)).collect();
                Ok(vec![Arc::new(sizes) as ArrayRef, Arc::new(echo)].into())
            }))
        })
        .input(Port::new("text", PortType::Text))
        .param("suffix", ParamType::Text, "", "Appended"),
    );
    for (name, shape) in [("embed", Shape::RowWise), ("embed_words", Shape::OneToMany)] {
        registry.register(
            Definition::new(name, 1, "Numbers, or for the word `nan` none", move |_| {
                Ok(Box::new(Embed(vec![vector()], shape)))
            })
            .shape(shape)
            .input(Port::new("text", PortType::Text)),
        );
    }
    let counted = Arc::clone(calls);
    registry.register(
        Definition::new("split_text", 1, "Words", move |_| {
            Ok(Box::new(Split(vec![Field::new("word", DataType::Utf8, true)], Arc::clone(&counted))))
        })
        .shape(Shape::OneToMany)
        .input(Port::new("text", PortType::Text)),
    );
    registry
}

struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
    table: Table,
    calls: Arc<Calls>,
}

async fn fixture(rows: &[(&str, &str)]) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = docs(&store, rows).await;
    Fixture { directory, store, table, calls: Arc::default() }
}

async fn docs(store: &Store, rows: &[(&str, &str)]) -> Table {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("note", DataType::Utf8, true),
        blob_field("media"),
    ]);
    let table = store.create_table("docs", TableSpec::new(Arc::new(schema), ["id"])).await.unwrap();
    table.upsert(batch("text", rows)).await.unwrap();
    table
}

fn batch(column: &str, rows: &[(&str, &str)]) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new(column, DataType::Utf8, true)]);
    let ids: StringArray = rows.iter().map(|row| Some(row.0)).collect();
    let values: StringArray = rows.iter().map(|row| Some(row.1)).collect();
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(values)]).unwrap()
}

impl Fixture {
    fn engine(&self, version: u32) -> Engine {
        self.engine_over(self.store.clone(), version)
    }

    fn engine_over(&self, store: Store, version: u32) -> Engine {
        let scheduler = Scheduler::new(SchedulerOptions { cpu_cores: 2.0, ..SchedulerOptions::default() }).unwrap();
        let registry = Arc::new(registry(&self.calls, version));
        Engine::new(store, registry, scheduler, EngineOptions::default())
    }

    async fn run(&self, recipe: &Recipe) -> RunReport {
        self.engine(1).run(recipe, &RunOptions::default()).await.unwrap()
    }

    async fn column(&self, table: &str, key: &[&str], column: &str) -> BTreeMap<String, Option<String>> {
        let snapshot = self.store.table(table).await.unwrap().snapshot().await.unwrap();
        let columns = key.iter().copied().chain([column]);
        let rows = snapshot.collect(&ScanRequest::default().columns(columns)).await.unwrap();
        let text = |index: usize| arrow::compute::cast(rows.column(index), &DataType::Utf8).unwrap();
        let keys: Vec<ArrayRef> = (0..key.len()).map(text).collect();
        let values = text(key.len());
        let values = values.as_string::<i32>();
        (0..rows.num_rows())
            .map(|row| {
                let key: Vec<&str> = keys.iter().map(|key| key.as_string::<i32>().value(row)).collect();
                (key.join("/"), values.is_valid(row).then(|| values.value(row).to_owned()))
            })
            .collect()
    }
}

fn processed(report: &RunReport) -> Vec<usize> {
    report.steps.iter().map(|step| step.rows_processed).collect()
}

fn upper() -> Step {
    Step::new("docs", OperatorSpec::new("upper_text"), "text")
}

#[tokio::test]
async fn a_record_of_a_step_that_cannot_be_read_is_said_and_not_taken_for_none() {
    let fixture = fixture(&[("a", "one")]).await;
    let recipe = Recipe::new("r", vec![upper()]);
    fixture.run(&recipe).await;
    let damaged = BTreeMap::from([("cenote.derived.upper".to_owned(), Some("{".to_owned()))]);
    fixture.table.set_properties(damaged).await.unwrap();
    let error = fixture.engine(1).run(&recipe, &RunOptions::default()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Corrupt, "property `cenote.derived.upper` of table `docs` is not JSON")
    );
}

/// Checks that a value under a current fingerprint was made of the current input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_changes_while_it_is_processed_is_processed_again() {
    let split = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    for (step, is_upper) in [(upper(), true), (split, false)] {
        let fixture = fixture(&[("a", "one x"), ("b", "two x"), ("c", "three x"), ("d", "four x")]).await;
        let recipe = Recipe::new("r", vec![step]);
        let ((arrived, arrivals), (go_on, leave)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
        *fixture.calls.pause.lock().unwrap() = Some(Pause { arrived, leave });
        let change = async {
            tokio::task::spawn_blocking(move || arrivals.recv().unwrap()).await.unwrap();
            fixture.table.upsert(batch("text", &[("b", "second"), ("c", "three x")])).await.unwrap();
            fixture.table.update(batch("note", &[("a", "no input")])).await.unwrap();
            fixture.table.delete(&batch("text", &[("d", "")])).await.unwrap();
            // Everything gets a new place.
            fixture.table.compact(true).await.unwrap();
            go_on.send(()).unwrap();
        };
        let (report, ()) = tokio::join!(fixture.run(&recipe), change);
        assert_eq!(processed(&report), [4]);
        assert_eq!(processed(&fixture.run(&recipe).await), [1], "of upper_text: {is_upper}");
        assert_eq!(processed(&fixture.run(&recipe).await), [0]);
        let made = match is_upper {
            true => fixture.column("docs", &["id"], "upper").await.into_values().flatten().collect::<Vec<_>>(),
            false => fixture.column("words", &["id", "ordinal"], "word").await.into_values().flatten().collect(),
        };
        let expected: &[&str] =
            if is_upper { &["ONE X", "SECOND", "THREE X"] } else { &["one", "x", "second", "three", "x"] };
        assert_eq!(made, expected);
    }
}

/// Runs one recipe twice over two stores of one directory, as two processes would. Rows change after the first run has
/// read them, and it goes on after the second run has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_run_leaves_alone_what_a_later_one_made_of_newer_rows() {
    let split = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    for (step, is_upper) in [(upper(), true), (split, false)] {
        let fixture = fixture(&[("a", "one x"), ("b", "bad"), ("c", "three x"), ("d", "bad")]).await;
        let recipe = Recipe::new("r", vec![step]);
        let ((arrived, arrivals), (go_on, leave)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
        *fixture.calls.pause.lock().unwrap() = Some(Pause { arrived, leave });
        let later = async {
            tokio::task::spawn_blocking(move || arrivals.recv().unwrap()).await.unwrap();
            fixture.table.update(batch("text", &[("b", "fine at last"), ("c", "bad")])).await.unwrap();
            fixture.table.upsert(batch("text", &[("e", "new x")])).await.unwrap();
            fixture.table.delete(&batch("text", &[("d", "")])).await.unwrap();
            let store = Store::open(fixture.directory.path(), StoreOptions::default()).await.unwrap();
            let report = fixture.engine_over(store, 1).run(&recipe, &RunOptions::default()).await.unwrap();
            go_on.send(()).unwrap();
            report
        };
        let (slow, later) = tokio::join!(fixture.run(&recipe), later);
        assert_eq!((processed(&slow), processed(&later)), (vec![4], vec![4]));
        let again = fixture.run(&recipe).await;
        assert_eq!((processed(&again), again.steps[0].child_rows_removed), (vec![0], 0));
        let made = match is_upper {
            true => fixture.column("docs", &["id"], "upper").await.into_values().flatten().collect::<Vec<_>>(),
            false => fixture.column("words", &["id", "ordinal"], "word").await.into_values().flatten().collect(),
        };
        let expected: &[&str] = match is_upper {
            true => &["ONE X", "FINE AT LAST", "NEW X"],
            false => &["one", "x", "fine", "at", "last", "bad", "new", "x"],
        };
        assert_eq!(made, expected, "upper_text: {is_upper}");
        if is_upper {
            let failed = fixture.column(ERROR_TABLE, &["row_key"], "reason").await.into_keys().collect::<Vec<_>>();
            assert_eq!(failed, [r#"["c"]"#]);
        }
    }
}

/// Does as above, where the later run finds the children of one row as they must be, and writes none for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_run_leaves_alone_what_a_later_one_found_to_be_right() {
    let fixture = fixture(&[("a", "one x"), ("b", "two x")]).await;
    let recipe = Recipe::new("r", vec![Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words")]);
    assert_eq!(processed(&fixture.run(&recipe).await), [2]);
    fixture.table.update(batch("text", &[("a", "first y"), ("b", "second y")])).await.unwrap();
    let ((arrived, arrivals), (go_on, leave)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
    *fixture.calls.pause.lock().unwrap() = Some(Pause { arrived, leave });
    let later = async {
        tokio::task::spawn_blocking(move || arrivals.recv().unwrap()).await.unwrap();
        // One row comes back to what it was, one goes on.
        fixture.table.update(batch("text", &[("a", "one x"), ("b", "third")])).await.unwrap();
        let store = Store::open(fixture.directory.path(), StoreOptions::default()).await.unwrap();
        let report = fixture.engine_over(store, 1).run(&recipe, &RunOptions::default()).await.unwrap();
        go_on.send(()).unwrap();
        report
    };
    let (slow, later) = tokio::join!(fixture.run(&recipe), later);
    // The first row has the children that it had; the other one loses a word and gets another.
    assert_eq!((later.steps[0].child_rows_written, later.steps[0].child_rows_removed), (1, 1));
    assert_eq!((slow.steps[0].child_rows_written, slow.steps[0].child_rows_removed), (0, 0));
    assert_eq!(processed(&fixture.run(&recipe).await), [0]);
    let words: Vec<String> =
        fixture.column("words", &["id", "ordinal"], "word").await.into_values().flatten().collect();
    assert_eq!(words, ["one", "x", "third"]);
}

/// Refuses child tables whose rows would be removed as orphans.
#[tokio::test]
async fn a_step_fills_no_table_with_rows_of_others() {
    let fixture = fixture(&[("a", "one two")]).await;
    let split = |table: &str, into: &str| {
        Recipe::new("r", vec![Step::new(table, OperatorSpec::new("split_text"), "text").into_table(into)])
    };
    fixture.run(&split("docs", "words")).await;
    // A table of the user's that looks like a child table.
    let like = fixture.store.table("words").await.unwrap().snapshot().await.unwrap();
    let rows = like.collect(&ScanRequest::default()).await.unwrap();
    let own = fixture.store.create_table("own", TableSpec::new(rows.schema(), ["id", "ordinal"])).await.unwrap();
    own.upsert(rows).await.unwrap();
    // Another parent of the same key.
    let schema = fixture.table.snapshot().await.unwrap().full_schema().clone();
    let fields = schema.fields().iter().filter(|field| !field.name().starts_with('_')).cloned();
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let notes = fixture.store.create_table("notes", TableSpec::new(schema, ["id"])).await.unwrap();
    notes.upsert(batch("text", &[("b", "three")])).await.unwrap();
    for (recipe, says) in [
        (split("docs", "own"), "table `own` holds rows that no step made"),
        (split("notes", "words"), "table `words` holds children of table `docs`"),
        (split("docs", ERROR_TABLE), "holds the rows that failed"),
    ] {
        let error = fixture.engine(1).run(&recipe, &RunOptions::default()).await.unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.message().contains(says), "{error}");
    }
    for table in ["own", "words"] {
        let words: Vec<_> = fixture.column(table, &["id", "ordinal"], "word").await.into_values().flatten().collect();
        assert_eq!(words, ["one", "two"], "{table}");
    }
    assert_eq!(processed(&fixture.run(&split("docs", "words")).await), [0]);
}

/// Lets a run of an older recipe end after one of a newer recipe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_another_column_is_stale() {
    let fixture = fixture(&[("a", "text")]).await;
    fixture.table.update(batch("note", &[("a", "note")])).await.unwrap();
    let of = |input: &str| Recipe::new("r", vec![Step::new("docs", OperatorSpec::new("upper_text"), input)]);
    let ((arrived, arrivals), (go_on, leave)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
    *fixture.calls.pause.lock().unwrap() = Some(Pause { arrived, leave });
    let newer = of("note");
    let later = async {
        tokio::task::spawn_blocking(move || arrivals.recv().unwrap()).await.unwrap();
        let store = Store::open(fixture.directory.path(), StoreOptions::default()).await.unwrap();
        fixture.engine_over(store, 1).run(&newer, &RunOptions::default()).await.unwrap();
        go_on.send(()).unwrap();
    };
    let older = of("text");
    let (_, ()) = tokio::join!(async { drop(fixture.engine(1).run(&older, &RunOptions::default()).await) }, later);
    fixture.run(&newer).await;
    let made: Vec<_> = fixture.column("docs", &["id"], "upper").await.into_values().flatten().collect();
    assert_eq!(made, ["NOTE"]);
}

#[tokio::test]
async fn a_child_column_that_was_dropped_is_made_again() {
    let fixture = fixture(&[("a", "one two"), ("b", "three")]).await;
    let recipe = Recipe::new("r", vec![Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words")]);
    fixture.run(&recipe).await;
    fixture.store.table("words").await.unwrap().drop_columns(&["word"]).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe).await), [2]);
    let words: Vec<_> = fixture.column("words", &["id", "ordinal"], "word").await.into_values().flatten().collect();
    assert_eq!(words, ["one", "two", "three"]);
}

#[tokio::test]
async fn a_column_is_made_before_it_is_read() {
    let fixture = fixture(&[("a", "one")]).await;
    fixture.table.add_columns(&[Field::new("upper", DataType::Utf8, true)]).await.unwrap();
    let read = Step::new("docs", OperatorSpec::new("split_text"), "upper").into_table("words");
    let recipe = Recipe::new("r", vec![read, upper()]);
    let error = fixture.engine(1).run(&recipe, &RunOptions::default()).await.unwrap_err();
    assert!(error.message().contains("column `upper` is read by an earlier step"), "{error}");
}

#[tokio::test]
async fn only_changed_rows_parameters_and_versions_are_derived_again() {
    let fixture = fixture(&[("a", "one"), ("b", "two"), ("c", "three")]).await;
    let recipe = Recipe::new("r", vec![upper()]);
    assert_eq!(processed(&fixture.run(&recipe).await), [3]);
    assert_eq!(processed(&fixture.run(&recipe).await), [0]);

    fixture.table.upsert(batch("text", &[("b", "second"), ("d", "four")])).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe).await), [2]);
    // A partial update of the input voids it; one of another column does not.
    fixture.table.update(batch("note", &[("a", "n")])).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe).await), [0]);
    fixture.table.update(batch("text", &[("a", "first")])).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe).await), [1]);
    let expected = [("a", "FIRST"), ("b", "SECOND"), ("c", "THREE"), ("d", "FOUR")];
    let expected = expected.map(|(id, text)| (id.to_owned(), Some(text.to_owned())));
    assert_eq!(fixture.column("docs", &["id"], "upper").await, BTreeMap::from(expected));

    let suffixed = Step { operator: OperatorSpec::new("upper_text").with("suffix", "!"), ..upper() };
    assert_eq!(processed(&fixture.run(&Recipe::new("r", vec![suffixed.clone()])).await), [4]);
    let newer = fixture.engine(2).run(&Recipe::new("r", vec![suffixed]), &RunOptions::default()).await.unwrap();
    assert_eq!(processed(&newer), [4]);
    assert_eq!(fixture.calls.upper.load(Ordering::SeqCst), 3 + 2 + 1 + 4 + 4);
    // A version of the table is written only when something was done.
    let before = fixture.table.snapshot().await.unwrap().version();
    let spec = OperatorSpec::new("upper_text").with("suffix", "!");
    let again = Recipe::new("r", vec![Step { operator: spec, ..upper() }]);
    fixture.engine(2).run(&again, &RunOptions::default()).await.unwrap();
    assert_eq!(fixture.table.snapshot().await.unwrap().version(), before);
}

#[tokio::test]
async fn chained_steps_follow_their_inputs() {
    let fixture = fixture(&[("a", "one"), ("b", "two")]).await;
    let second = Step::new("docs", OperatorSpec::new("upper_text").with("suffix", "?"), "upper").output("twice");
    let recipe = |first: Step| Recipe::new("r", vec![first, second.clone()]);
    assert_eq!(processed(&fixture.run(&recipe(upper())).await), [2, 2]);
    let changed = Step { operator: OperatorSpec::new("upper_text").with("suffix", "!"), ..upper() };
    assert_eq!(processed(&fixture.run(&recipe(changed.clone())).await), [2, 2]);
    fixture.table.update(batch("text", &[("b", "due")])).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe(changed)).await), [1, 1]);
    assert_eq!(fixture.column("docs", &["id"], "twice").await["b"].as_deref(), Some("DUE!?"));
}

/// Checks that a run registers its own steps and keeps those of other recipes, and of steps that it no longer has.
#[tokio::test]
async fn recipes_over_one_table_follow_what_others_and_users_change() {
    let fixture = fixture(&[("a", "one"), ("b", "two")]).await;
    let noted = Step::new("docs", OperatorSpec::new("upper_text"), "note").output("noted");
    let split = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    let second = Step::new("docs", OperatorSpec::new("upper_text").with("suffix", "?"), "upper").output("twice");
    let first = Recipe::new("first", vec![upper(), split]);
    let others = [Recipe::new("notes", vec![noted]), Recipe::new("chained", vec![second])];
    for recipe in [&first].into_iter().chain(&others).chain([&first]) {
        fixture.run(recipe).await;
    }
    fixture.table.update(batch("text", &[("b", "due x")])).await.unwrap();
    assert_eq!(processed(&fixture.run(&first).await), [1, 1]);
    assert_eq!(processed(&fixture.run(&others[1]).await), [1]);
    assert_eq!(fixture.column("docs", &["id"], "twice").await["b"].as_deref(), Some("DUE X?"));
    assert_eq!(fixture.column("words", &["id", "ordinal"], "word").await.len(), 3);

    // A step is left out, and comes back.
    let shorter = Recipe::new("first", vec![first.steps[1].clone()]);
    fixture.run(&shorter).await;
    fixture.table.update(batch("text", &[("a", "uno")])).await.unwrap();
    assert_eq!(processed(&fixture.run(&first).await), [1, 1]);
    assert_eq!(fixture.column("docs", &["id"], "upper").await["a"].as_deref(), Some("UNO"));
    fixture.table.update(batch("note", &[("a", "n")])).await.unwrap();
    assert_eq!(processed(&fixture.run(&others[0]).await), [1]);
    assert_eq!(fixture.column("docs", &["id"], "noted").await["a"].as_deref(), Some("N"));
}

#[tokio::test]
async fn a_row_that_changes_and_leaves_the_condition_at_once_keeps_nothing() {
    let fixture = fixture(&[("a", "one"), ("b", "two")]).await;
    fixture.table.update(batch("note", &[("a", "in"), ("b", "in")])).await.unwrap();
    let split = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    let second = Step::new("docs", OperatorSpec::new("upper_text"), "upper").output("twice");
    let steps = [upper(), second, split].map(|step| step.filter("note = 'in'"));
    let recipe = Recipe::new("r", steps.to_vec());
    assert_eq!(processed(&fixture.run(&recipe).await), [2, 2, 2]);
    let key = fixture.table.snapshot().await.unwrap().primary_key().parse(&[vec!["a".into()]]).unwrap();
    let text = StringArray::from(vec!["eins"]);
    let both = [
        ("id", Arc::clone(key.column(0))),
        ("text", Arc::new(text) as ArrayRef),
        ("note", Arc::new(StringArray::from(vec!["out"])) as _),
    ];
    fixture.table.update(RecordBatch::try_from_iter(both).unwrap()).await.unwrap();
    let report = fixture.run(&recipe).await;
    assert_eq!(processed(&report), [0, 0, 0]);
    assert_eq!(report.steps[0].rows_cleared, 1);
    for column in ["upper", "twice"] {
        let values = fixture.column("docs", &["id"], column).await;
        assert_eq!(values, [("a".to_owned(), None), ("b".to_owned(), Some("TWO".to_owned()))].into(), "{column}");
    }
    assert_eq!(fixture.column("words", &["id", "ordinal"], "word").await.into_keys().collect::<Vec<_>>(), ["b/0"]);
    let before = fixture.table.snapshot().await.unwrap().version();
    let report = fixture.run(&recipe).await;
    assert!(report.steps.iter().all(|step| step.rows_cleared == 0));
    assert_eq!(fixture.table.snapshot().await.unwrap().version(), before);
}

#[tokio::test]
async fn a_step_that_reads_another_column_or_lost_an_output_runs_anew() {
    let fixture = fixture(&[("a", "one"), ("b", "two")]).await;
    fixture.table.update(batch("note", &[("a", "n"), ("b", "m")])).await.unwrap();
    let step = |input: &str| Step::new("docs", OperatorSpec::new("upper_text"), input).output("made");
    let last = Step::new("docs", OperatorSpec::new("upper_text").with("suffix", "?"), "made").output("twice");
    let recipe = |input: &str| Recipe::new("r", vec![step(input), last.clone()]);
    assert_eq!(processed(&fixture.run(&recipe("text")).await), [2, 2]);
    assert_eq!(processed(&fixture.run(&recipe("note")).await), [2, 2]);
    assert_eq!(fixture.column("docs", &["id"], "twice").await["a"].as_deref(), Some("N?"));
    assert_eq!(processed(&fixture.run(&recipe("note")).await), [0, 0]);
    fixture.table.drop_columns(&["made"]).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe("note")).await), [2, 2]);
    assert_eq!(fixture.column("docs", &["id"], "made").await["b"].as_deref(), Some("M"));
    fixture.table.drop_columns(&["twice"]).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe("note")).await), [0, 2]);
    assert_eq!(fixture.column("docs", &["id"], "twice").await["b"].as_deref(), Some("M?"));
}

/// Lets a run stop before and after each commit to the base, as a kill would, while a step gets another input.
#[tokio::test]
async fn a_run_that_stops_between_two_changes_of_a_table_leaves_them_to_the_next() {
    let of =
        |input: &str| Recipe::new("r", vec![Step::new("docs", OperatorSpec::new("upper_text"), input).output("made")]);
    for stop_at in 0.. {
        let fixture = fixture(&[("a", "text"), ("b", "text")]).await;
        fixture.table.update(batch("note", &[("a", "note"), ("b", "note")])).await.unwrap();
        fixture.run(&of("text")).await;
        let commits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&commits);
        let faults = Faults::new(move |operation| match operation {
            "base.commit" | "base.committed" if counted.fetch_add(1, Ordering::SeqCst) >= stop_at => {
                Err(Error::internal("stopped"))
            }
            _ => Ok(()),
        });
        let stopping = StoreOptions { faults, ..StoreOptions::default() };
        let store = Store::open(fixture.directory.path(), stopping).await.unwrap();
        let stopped = fixture.engine_over(store, 1).run(&of("note"), &RunOptions::default()).await;
        fixture.run(&of("note")).await;
        let made = fixture.column("docs", &["id"], "made").await.into_values().flatten().collect::<Vec<_>>();
        assert_eq!(made, ["NOTE", "NOTE"], "stopped at commit {stop_at}");
        if stopped.is_ok() {
            assert!(stop_at > 4, "the run stopped only {stop_at} times");
            break;
        }
    }
}

#[tokio::test]
async fn a_column_that_was_dropped_and_added_again_is_another_one() {
    let split = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    let twice = Step::new("docs", OperatorSpec::new("upper_text"), "upper").output("twice");
    let fixture = fixture(&[("a", "one"), ("b", "two")]).await;
    let recipe = Recipe::new("r", vec![upper().filter("text IS NOT NULL"), twice, split]);
    fixture.run(&recipe).await;
    fixture.table.drop_columns(&["text"]).await.unwrap();
    fixture.table.add_columns(&[Field::new("text", DataType::Utf8, true)]).await.unwrap();
    fixture.table.update(batch("text", &[("b", "due")])).await.unwrap();
    fixture.run(&recipe).await;
    let rows = |value: &str| [("a".to_owned(), None), ("b".to_owned(), Some(value.to_owned()))].into();
    assert_eq!(fixture.column("docs", &["id"], "upper").await, rows("DUE"));
    assert_eq!(fixture.column("docs", &["id"], "twice").await, rows("DUE"));
    let words = fixture.column("words", &["id", "ordinal"], "word").await.into_values().flatten().collect::<Vec<_>>();
    assert_eq!(words, ["due"]);
    assert_eq!(processed(&fixture.run(&recipe).await), [0, 0, 0]);

    // So is an output, which nobody has made.
    let fingerprints = fingerprints_of(&fixture.table.snapshot().await.unwrap(), &["twice"]);
    assert_eq!(fingerprints, ["_cenote_fingerprint_twice"]);
    fixture.table.drop_columns(&["twice", &fingerprints[0]]).await.unwrap();
    fixture.table.add_columns(&[Field::new("twice", DataType::Utf8, true)]).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe).await), [0, 2, 0]);
    assert_eq!(fixture.column("docs", &["id"], "twice").await, rows("DUE"));
}

/// Lets two steps make one column in turn, each with a first output of its own.
#[tokio::test]
async fn a_renamed_output_leaves_its_other_columns_to_the_step() {
    let fixture = fixture(&[("a", "one")]).await;
    let measure = |first: &str| {
        let output = BTreeMap::from([("size".to_owned(), first.to_owned())]);
        Recipe::new("r", vec![Step { output, ..Step::new("docs", OperatorSpec::new("measure_text"), "text") }])
    };
    let quiet = |recipe: &Recipe| {
        let mut recipe = recipe.clone();
        recipe.steps[0].operator = OperatorSpec::new("measure_text").with("suffix", "?");
        recipe
    };
    for (recipe, last) in [(measure("size"), "one"), (quiet(&measure("length")), "one?"), (measure("size"), "one")] {
        assert_eq!(processed(&fixture.run(&recipe).await), [1]);
        assert_eq!(fixture.column("docs", &["id"], "echo").await["a"].as_deref(), Some(last));
        assert_eq!(processed(&fixture.run(&recipe).await), [0]);
    }
}

#[tokio::test]
async fn a_column_of_the_users_in_a_child_table_is_not_overwritten() {
    let fixture = fixture(&[("a", "one two")]).await;
    let split = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    fixture.run(&Recipe::new("r", vec![split.clone()])).await;
    let words = fixture.store.table("words").await.unwrap();
    words.add_columns(&[Field::new("upper", DataType::Utf8, true)]).await.unwrap();
    let recipe = Recipe::new("r", vec![split.clone(), Step::new("words", OperatorSpec::new("upper_text"), "word")]);
    let error = fixture.engine(1).run(&recipe, &RunOptions::default()).await.unwrap_err();
    assert!(error.message().contains("step 2, output: column `upper` holds data that no step made"), "{error}");
    let output = BTreeMap::from([("word".to_owned(), "upper".to_owned())]);
    let recipe = Recipe::new("r", vec![Step { output, ..split.clone() }]);
    let error = fixture.engine(1).run(&recipe, &RunOptions::default()).await.unwrap_err();
    assert!(error.message().contains("column `upper` of child table `words` holds data that no step made"), "{error}");
    // It can be read like any other.
    let read = Step::new("words", OperatorSpec::new("upper_text"), "upper").output("loud");
    assert_eq!(processed(&fixture.run(&Recipe::new("r", vec![split, read])).await), [0, 2]);
}

#[tokio::test]
async fn a_vector_that_no_table_takes_is_a_bad_row() {
    let fixture = fixture(&[("a", "fine"), ("b", "nan"), ("c", "fine nan"), ("d", "fine fine")]).await;
    let vectors = |operator: &str| Step::new("docs", OperatorSpec::new(operator), "text");
    let recipe = Recipe::new("r", vec![vectors("embed"), vectors("embed_words").into_table("words")]);
    let report = fixture.run(&recipe).await;
    assert_eq!(report.steps.iter().map(|step| step.rows_failed).collect::<Vec<_>>(), [2, 2]);
    let errors = fixture.column(ERROR_TABLE, &["row_key", "step"], "reason").await;
    assert_eq!(
        errors["[\"b\"]/vector"].as_deref(),
        Some("output `vector` is a vector with a number that is NaN, infinite or null")
    );
    assert_eq!(
        errors.into_keys().collect::<Vec<_>>(),
        ["[\"b\"]/vector", "[\"b\"]/words", "[\"c\"]/vector", "[\"c\"]/words"]
    );
    let rows = async |table: &str, filter: &str| {
        let snapshot = fixture.store.table(table).await.unwrap().snapshot().await.unwrap();
        snapshot.count(Some(filter.into())).await.unwrap()
    };
    assert_eq!(rows("docs", "vector IS NULL AND id IN ('b', 'c')").await, 2);
    assert_eq!(rows("docs", "vector IS NOT NULL").await, 2);
    assert_eq!((rows("words", "true").await, rows("words", "id IN ('a', 'd')").await), (3, 3));
}

/// Checks that one run clears a value, what was made of it, and the other steps of that pass.
#[tokio::test]
async fn what_was_made_of_a_value_that_is_cleared_is_made_anew_at_once() {
    let fixture = fixture(&[("a", "one"), ("b", "two")]).await;
    fixture.table.update(batch("note", &[("a", "in"), ("b", "in")])).await.unwrap();
    let second = Step::new("docs", OperatorSpec::new("upper_text").with("suffix", "?"), "upper").output("twice");
    let noted = Step::new("docs", OperatorSpec::new("upper_text"), "note").output("noted");
    let recipe = Recipe::new("r", vec![upper().filter("text <> 'gone'"), second, noted]);
    assert_eq!(processed(&fixture.run(&recipe).await), [2, 2, 2]);
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let [text, note] = ["gone", "out"].map(|value| Arc::new(StringArray::from(vec![value])) as ArrayRef);
    let both = RecordBatch::try_from_iter([("id", ids), ("text", text), ("note", note)]).unwrap();
    fixture.table.update(both).await.unwrap();
    let report = fixture.run(&recipe).await;
    assert_eq!((processed(&report), report.steps[0].rows_cleared), (vec![0, 1, 1], 1));
    for (column, value) in [("upper", None), ("twice", None), ("noted", Some("OUT"))] {
        assert_eq!(fixture.column("docs", &["id"], column).await["a"].as_deref(), value, "{column}");
    }
    let again = fixture.run(&recipe).await;
    assert_eq!((processed(&again), again.steps[0].rows_cleared), (vec![0, 0, 0], 0));
}

#[tokio::test]
async fn bad_rows_are_recorded_retried_on_request_and_forgotten_when_mended() {
    let fixture = fixture(&[("a", "bad"), ("b", "fine"), ("c", "bad")]).await;
    let recipe = Recipe::new("r", vec![upper()]);
    let report = fixture.run(&recipe).await;
    assert_eq!((report.steps[0].rows_processed, report.steps[0].rows_failed), (3, 2));
    assert_eq!(fixture.column("docs", &["id"], "upper").await["a"], None);
    let errors = fixture.column(ERROR_TABLE, &["table_name", "row_key", "step"], "reason").await;
    assert_eq!(errors["docs/[\"a\"]/upper"].as_deref(), Some("the text is `bad`"));
    assert_eq!(errors.len(), 2);

    assert_eq!(processed(&fixture.run(&recipe).await), [0]);
    let retry = RunOptions { retry_errors: true, ..RunOptions::default() };
    assert_eq!(processed(&fixture.engine(1).run(&recipe, &retry).await.unwrap()), [2]);

    fixture.table.upsert(batch("text", &[("a", "mended")])).await.unwrap();
    let keys = fixture.table.snapshot().await.unwrap().primary_key().parse(&[vec!["c".into()]]).unwrap();
    fixture.table.delete(&keys).await.unwrap();
    assert_eq!(processed(&fixture.run(&recipe).await), [1]);
    assert_eq!(fixture.column(ERROR_TABLE, &["row_key"], "reason").await, BTreeMap::new());
}

#[tokio::test]
async fn a_failure_is_forgotten_and_not_retried_when_the_step_no_longer_applies() {
    let split = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    for (step, text) in [(upper(), "bad"), (split, "broken")] {
        let fixture = fixture(&[("a", text), ("b", "two")]).await;
        fixture.table.update(batch("note", &[("a", "in"), ("b", "in")])).await.unwrap();
        let recipe = Recipe::new("r", vec![step.filter("note = 'in'")]);
        let report = fixture.run(&recipe).await;
        assert_eq!((report.steps[0].rows_processed, report.steps[0].rows_failed), (2, 1));
        fixture.table.update(batch("note", &[("a", "out")])).await.unwrap();
        let retry = RunOptions { retry_errors: true, ..RunOptions::default() };
        for rows_cleared in [1, 0] {
            let report = fixture.engine(1).run(&recipe, &retry).await.unwrap();
            assert_eq!((report.steps[0].rows_processed, report.steps[0].rows_cleared), (0, rows_cleared), "{text}");
            assert_eq!(fixture.column(ERROR_TABLE, &["row_key"], "reason").await, BTreeMap::new(), "{text}");
        }
        // A row that is replaced has lost its fingerprint, too.
        fixture.table.update(batch("note", &[("a", "in")])).await.unwrap();
        assert_eq!(fixture.run(&recipe).await.steps[0].rows_failed, 1);
        fixture.table.upsert(batch("text", &[("a", "mended")])).await.unwrap();
        fixture.run(&recipe).await;
        assert_eq!(fixture.column(ERROR_TABLE, &["row_key"], "reason").await, BTreeMap::new(), "{text}");
    }
}

#[tokio::test]
async fn the_bad_rows_of_a_dropped_table_are_not_those_of_the_next_of_its_name() {
    let mut fixture = fixture(&[("a", "bad"), ("b", "bad"), ("c", "bad")]).await;
    let recipe = Recipe::new("r", vec![upper()]);
    let errors = async |fixture: &Fixture| {
        let snapshot = fixture.table.snapshot().await.unwrap();
        let errors = ErrorTable::new(&fixture.store, "docs", &snapshot);
        let rows = errors.rows().await.unwrap();
        let keys =
            rows["row_key"].as_string::<i32>().iter().map(|key| key.unwrap().to_owned()).collect::<BTreeSet<_>>();
        (errors, keys.into_iter().collect::<Vec<_>>().join(" "))
    };
    fixture.run(&recipe).await;
    let (of_dropped, keys) = errors(&fixture).await;
    assert_eq!(keys, r#"["a"] ["b"] ["c"]"#);

    fixture.store.drop_table("docs").await.unwrap();
    fixture.table = docs(&fixture.store, &[("a", "fine"), ("b", "bad"), ("d", "fine")]).await;
    assert_eq!(errors(&fixture).await.1, "", "rows of the dropped table are told as its own");
    let retry = RunOptions { retry_errors: true, ..RunOptions::default() };
    assert_eq!(processed(&fixture.engine(1).run(&recipe, &retry).await.unwrap()), [3]);
    assert_eq!(errors(&fixture).await.1, r#"["b"]"#);
    of_dropped.forget().await.unwrap();
    assert_eq!(fixture.column(ERROR_TABLE, &["row_key"], "reason").await.len(), 1);
    assert_eq!(errors(&fixture).await.1, r#"["b"]"#);
}

#[tokio::test]
async fn a_child_table_that_is_gone_or_another_one_is_filled_again() {
    let fixture = fixture(&[("a", "x y z"), ("b", "one two")]).await;
    let step = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    let recipe = Recipe::new("r", vec![step]);
    assert_eq!(processed(&fixture.run(&recipe).await), [2]);
    let words = fixture.column("words", &["id", "ordinal"], "word").await;
    assert_eq!(words.len(), 5);
    let spec = {
        let snapshot = fixture.store.table("words").await.unwrap().snapshot().await.unwrap();
        TableSpec::new(Arc::clone(snapshot.schema()), snapshot.primary_key().columns())
    };
    for is_made_anew in [false, true] {
        fixture.store.drop_table("words").await.unwrap();
        if is_made_anew {
            fixture.store.create_table("words", spec.clone()).await.unwrap();
        }
        assert_eq!(processed(&fixture.run(&recipe).await), [2], "made anew: {is_made_anew}");
        assert_eq!(fixture.column("words", &["id", "ordinal"], "word").await, words);
        assert_eq!(processed(&fixture.run(&recipe).await), [0]);
    }
}

#[tokio::test]
async fn a_child_table_follows_its_parents_and_keeps_what_did_not_change() {
    let fixture = fixture(&[("a", "x y z"), ("b", "one two"), ("c", "")]).await;
    let recipe = Recipe::new(
        "r",
        vec![
            Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words"),
            Step::new("words", OperatorSpec::new("upper_text"), "word"),
        ],
    );
    assert_eq!(processed(&fixture.run(&recipe).await), [3, 5]);
    let all = fixture.column("words", &["id", "ordinal"], "upper").await;
    let expected = [("a/0", "X"), ("a/1", "Y"), ("a/2", "Z"), ("b/0", "ONE"), ("b/1", "TWO")];
    assert_eq!(all, expected.map(|(key, word)| (key.to_owned(), Some(word.to_owned()))).into());

    // One word of `a` changes and one goes; `b` goes whole; `d` comes.
    fixture.table.upsert(batch("text", &[("a", "x Q"), ("d", "new")])).await.unwrap();
    let key = fixture.table.snapshot().await.unwrap().primary_key().clone();
    fixture.table.delete(&key.parse(&[vec!["b".into()]]).unwrap()).await.unwrap();
    let report = fixture.run(&recipe).await;
    assert_eq!(processed(&report), [2, 2], "only the changed word and the new one");
    assert_eq!((report.steps[0].child_rows_written, report.steps[0].child_rows_removed), (2, 3));
    let all: BTreeSet<String> = fixture.column("words", &["id", "ordinal"], "upper").await.into_keys().collect();
    assert_eq!(all, ["a/0", "a/1", "d/0"].map(str::to_owned).into());
    assert_eq!(processed(&fixture.run(&recipe).await), [0, 0]);
}

#[tokio::test]
async fn filters_decide_what_goes_on_and_moving_the_threshold_computes_no_score_again() {
    let fixture = fixture(&[("a", "1"), ("b", "22"), ("c", "333"), ("d", "4444")]).await;
    let recipe = |min: f64| {
        let mut score = Step::new("docs", OperatorSpec::new("score_length"), "text");
        score.keep = Some(Keep { min: Some(min), max: None });
        Recipe::new("r", vec![score, upper().filter("text <> '4444'")])
    };
    assert_eq!(processed(&fixture.run(&recipe(3.0)).await), [4, 1]);
    let looser = fixture.run(&recipe(2.0)).await;
    assert_eq!(processed(&looser), [0, 1]);
    let tighter = fixture.run(&recipe(3.0)).await;
    assert_eq!((processed(&tighter), tighter.steps[1].rows_cleared), (vec![0, 0], 1));
    let upper = fixture.column("docs", &["id"], "upper").await;
    assert_eq!(upper.into_iter().filter(|(_, v)| v.is_some()).map(|(k, _)| k).collect::<Vec<_>>(), ["c"]);
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let fixture = fixture(&[("a", "one"), ("b", "bad"), ("c", "three")]).await;
    let recipe = Recipe::new(
        "r",
        vec![
            upper(),
            Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words"),
            Step::new("words", OperatorSpec::new("upper_text"), "word"),
            Step::new("docs", OperatorSpec::new("upper_text"), "note").output("loud").filter("upper IS NOT NULL"),
        ],
    );
    let before = fixture.table.snapshot().await.unwrap().version();
    let dry = RunOptions { dry_run_rows: Some(2), ..RunOptions::default() };
    let report = fixture.engine(1).run(&recipe, &dry).await.unwrap();
    assert_eq!((processed(&report), report.steps[0].rows_failed), (vec![2, 2], 1));
    assert_eq!(fixture.table.snapshot().await.unwrap().version(), before);
    assert_eq!(fixture.store.tables().await.unwrap(), ["docs"]);
}

#[tokio::test]
async fn media_over_the_budget_is_a_bad_row_and_the_rest_goes_on() {
    let fixture = fixture(&[]).await;
    let schema = Schema::new(vec![Field::new("id", DataType::Utf8, false), blob_field("media")]);
    let media: Vec<Vec<u8>> = vec![vec![1; 1000], vec![2; 300_000], vec![3; 70_000]];
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let bytes: arrow::array::LargeBinaryArray = media.iter().map(|m| Some(m.as_slice())).collect();
    fixture.table.upsert(RecordBatch::try_new(Arc::new(schema), vec![ids, Arc::new(bytes)]).unwrap()).await.unwrap();
    let scheduler = Scheduler::new(SchedulerOptions::default()).unwrap();
    let options = EngineOptions { row_bytes_max: ByteSize(100_000), ..EngineOptions::default() };
    let engine = Engine::new(fixture.store.clone(), Arc::new(registry(&fixture.calls, 1)), scheduler, options);
    let recipe = Recipe::new("r", vec![Step::new("docs", OperatorSpec::new("measure_bytes"), "media")]);
    let report = engine.run(&recipe, &RunOptions::default()).await.unwrap();
    assert_eq!((report.steps[0].rows_processed, report.steps[0].rows_failed), (3, 1));
    let rows = fixture.table.snapshot().await.unwrap();
    let rows = rows.collect(&ScanRequest::default().columns(["bytes"]).filter("id <> 'b'")).await.unwrap();
    let sizes: BTreeSet<i32> = rows.column(0).as_primitive::<Int32Type>().iter().flatten().collect();
    assert_eq!(sizes, BTreeSet::from([1000, 70_000]));
}

#[tokio::test]
async fn a_wrong_recipe_says_where_and_what_would_be_right() {
    let fixture = fixture(&[("a", "one")]).await;
    let engine = fixture.engine(1);
    let cases = [
        (
            "operator: uper_text\n    input: text",
            "r.yaml:4:15 (step 1, operator): no operator `uper_text`: did you mean `upper_text`?; \
             `cenote operators` lists them",
        ),
        (
            "operator: upper_text\n    input: txt",
            "r.yaml:5:12 (step 1, input): table `docs`: no column `txt`: did you mean `text`?; there are id, text, \
             note, media",
        ),
        (
            "operator: upper_text\n    input: { txt: text }",
            "r.yaml:5:12 (step 1, input): operator `upper_text` has no input `txt`: did you mean `text`?; it has text",
        ),
        (
            "operator: upper_text\n    input: media",
            "r.yaml:5:12 (step 1, input): input `text` of operator `upper_text` takes text, and column `media` is \
             LargeBinary",
        ),
        (
            "operator: upper_text\n    input: text\n    params: { sufix: a }",
            "r.yaml:6:13 (step 1, params): operator `upper_text` has no parameter `sufix`: did you mean `suffix`?",
        ),
        (
            "operator: split_text\n    input: text",
            "operator `split_text` is one-to-many: name its child table with `into`",
        ),
        (
            "operator: upper_text\n    input: text\n    output: note",
            "r.yaml:6:13 (step 1, output): column `note` holds data that no step made, and the step would overwrite \
             it: rename the output",
        ),
        (
            "operator: upper_text\n    input: text\n    where: nothing > 3",
            "r.yaml:6:12 (step 1, where): filter `nothing > 3`: ",
        ),
        (
            "operator: upper_text\n    input: text\n    where: \"1 = 1) OR (true\"",
            "r.yaml:6:12 (step 1, where): filter `1 = 1) OR (true`: not a SQL predicate: ",
        ),
        ("operator: upper_text\n    input: text\n    where: note", "is not a condition"),
        (
            "operator: upper_text\n    input: text\n    colour at line 7: red",
            "r.yaml:6:5: unknown field `colour at line 7`, expected one of ",
        ),
    ];
    for (step, expected) in cases {
        let text = format!("name: r\nsteps:\n  - table: docs\n    {step}\n");
        let error = match Recipe::from_yaml(&text, "r.yaml") {
            Ok(recipe) => engine.run(&recipe, &RunOptions::default()).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.message().contains(expected), "{}\nlacks\n{expected}", error.message());
    }
    let nested = "name: r\nsteps:\n  - { table: docs, operator: split_text, input: text, into: words }\n  \
                  - { table: words, operator: split_text, input: word, into: letters }\n";
    let nested = Recipe::from_yaml(nested, "r.yaml").unwrap();
    let error = engine.run(&nested, &RunOptions::default()).await.unwrap_err();
    let expected = "r.yaml:4:62 (step 2, into): child table `letters` numbers its rows in a column `ordinal`";
    assert!(error.message().starts_with(expected), "{error}");
    assert_eq!(fixture.store.tables().await.unwrap(), ["docs"]);
    let missing = Recipe::new("r", vec![Step { table: "nowhere".into(), ..upper() }]);
    let error = engine.run(&missing, &RunOptions::default()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::NotFound, "step 1, table: no table `nowhere`; there are docs")
    );
}

#[tokio::test]
async fn yaml_and_rust_make_the_same_recipe() {
    let text = "
name: words
steps:
  - table: docs
    operator: upper_text
    input: { text: text }
    params: { suffix: '!' }
    output: shout
    where: id <> 'x'
  - { table: docs, operator: split_text, input: text, into: words }
indexes:
  - { table: words, column: word, kind: text }
";
    let shout = OperatorSpec::new("upper_text").with("suffix", "!");
    let mut first = Step::new("docs", shout, "text").output("shout").filter("id <> 'x'");
    first.input = BTreeMap::from([("text".into(), "text".into())]);
    let second = Step::new("docs", OperatorSpec::new("split_text"), "text").into_table("words");
    let mut recipe = Recipe::new("words", vec![first, second]);
    recipe.indexes = vec![cenote_engine::IndexRequest {
        table: "words".into(),
        column: "word".into(),
        kind: "text".into(),
        metric: None,
    }];
    assert_eq!(Recipe::from_yaml(text, "words.yaml").unwrap(), recipe);
}
