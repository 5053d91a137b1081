//! SQL over a generated lake: statements with their results and plans in `slt/`, and tests that need more than
//! statements.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lake;

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use cenote_base::{ErrorKind, Random};
use cenote_index::{IndexKind, IndexSpec, Indexes, Metric, ScalarStructure};
use cenote_query::QueryEngine;
use cenote_store::TableSpec;
use futures::StreamExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};

use crate::lake::TestLake;

static INDEXES: LazyLock<Indexes> = LazyLock::new(Indexes::default);

struct Session<'a>(&'a QueryEngine);

#[derive(Debug)]
struct Failure(String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}

fn cells(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    rows
}

#[async_trait::async_trait]
impl AsyncDB for Session<'_> {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let fail = |error: cenote_base::Error| Failure(format!("{:?}: {}", error.kind(), error.message()));
        let result = self.0.sql(sql).await.map_err(fail)?;
        let types = vec![DefaultColumnType::Any; result.schema.fields().len()];
        let rows = cells(&result.collect().await.map_err(fail)?);
        // A plan is one cell of several lines: each becomes a row, with its indentation visible.
        let lines = |cell: &String| cell.lines().map(|line| line.replace("  ", "--")).collect::<Vec<_>>();
        let rows = match sql.trim_start().starts_with("EXPLAIN") {
            true => rows.iter().flat_map(|row| lines(&row[1])).map(|line| vec![line]).collect(),
            false => rows,
        };
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_give_the_answers_on_file() {
    let lake = TestLake::new().await;
    let mut files: Vec<_> = std::fs::read_dir("tests/slt").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let mut runner = sqllogictest::Runner::new(async || Ok(Session(&lake.engine)));
        if std::env::var_os("UPDATE_SLT").is_some() {
            let update = runner.update_test_file(
                &file,
                " ",
                sqllogictest::default_validator,
                sqllogictest::default_normalizer,
                sqllogictest::default_column_validator,
            );
            update.await.unwrap();
        } else {
            runner.run_file_async(&file).await.unwrap_or_else(|error| panic!("{}", error.display(false)));
        }
    }
}

async fn column(engine: &QueryEngine, sql: &str) -> Vec<String> {
    let batches = engine.sql(sql).await.unwrap().collect().await.unwrap();
    cells(&batches).into_iter().map(|row| row[0].clone()).collect()
}

async fn failure(engine: &QueryEngine, sql: &str) -> (ErrorKind, String) {
    let error = match engine.sql(sql).await {
        Ok(result) => result.collect().await.unwrap_err(),
        Err(error) => error,
    };
    (error.kind(), error.message().to_owned())
}

/// Compares a statement that searches the index with one whose sort the rule leaves alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_gives_what_a_sort_of_all_rows_gives() {
    let lake = TestLake::new().await;
    let mut random = Random::new(11);
    for (column_name, function, order) in [
        ("embedding", "l2_distance", "ASC"),
        ("embedding", "cosine_distance", "ASC"),
        ("embedding", "inner_product", "DESC"),
    ] {
        for filter in ["", "WHERE color = 3", "WHERE kind = 'image' AND width BETWEEN 20 AND 60", "WHERE id = 999999"] {
            for k in [1, 7, 100, 1000] {
                let vector: Vec<String> = (0..4).map(|_| format!("{:.4}", random.unit() - 0.5)).collect();
                let distance = format!("{function}({column_name}, [{}])", vector.join(", "));
                let by = |keys: &str| format!("SELECT {distance} AS d FROM photos {filter} ORDER BY {keys} LIMIT {k}");
                let searched = by(&format!("{distance} {order}"));
                let plan = column(&lake.engine, &format!("EXPLAIN {searched}")).await.len();
                assert!(plan > 0);
                // A second sort key keeps the rule away.
                let sorted = by(&format!("{distance} {order}, id"));
                let explain = |sql: &str| format!("EXPLAIN {sql}");
                let text = async |sql: String| {
                    let batches = lake.engine.sql(&sql).await.unwrap().collect().await.unwrap();
                    format!("{:?}", cells(&batches))
                };
                assert!(text(explain(&searched)).await.contains("VectorIndexScan"), "{searched}");
                assert!(!text(explain(&sorted)).await.contains("VectorIndexScan"), "{sorted}");
                assert_eq!(column(&lake.engine, &searched).await, column(&lake.engine, &sorted).await, "{searched}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_sees_an_acknowledged_write_and_one_version_of_a_table() {
    let lake = TestLake::new().await;
    let vector = "[9.0, 9.0, 9.0, 9.0]";
    lake.add_photo(5000, "freshly written", [9.0; 4]).await;
    let nearest = format!("SELECT id FROM photos ORDER BY l2_distance(embedding, {vector}) LIMIT 1");
    assert_eq!(column(&lake.engine, &nearest).await, ["5000"]);
    let found = "SELECT id FROM text_search('photos', 'freshly', 5)";
    assert_eq!(column(&lake.engine, found).await, ["5000"]);
    lake.delete_photo(5000).await;
    assert_ne!(column(&lake.engine, &nearest).await, ["5000"]);
    assert_eq!(column(&lake.engine, found).await, [""; 0]);
    let twice = "SELECT count(*) FROM photos a FULL JOIN photos b ON a.id = b.id WHERE a.id IS NULL OR b.id IS NULL";
    let held = lake.engine.sql(twice).await.unwrap();
    lake.add_photo(6000, "later", [1.0; 4]).await;
    assert_eq!(cells(&held.collect().await.unwrap()), [["0"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_are_bytes_and_are_read_only_when_named() {
    let lake = TestLake::new().await;
    let sql = "SELECT id, data FROM photos WHERE id < 3 ORDER BY id";
    let batches = lake.engine.sql(sql).await.unwrap().collect().await.unwrap();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let id = batch.column(0).as_primitive::<Int64Type>().value(row);
            assert_eq!(batch.column(1).as_binary::<i64>().value(row), id.to_le_bytes());
        }
    }
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let searched =
        "SELECT length(encode(data, 'hex')) FROM vector_search('photos', 'embedding', [0.0, 0.0, 0.0, 1.0], 2)";
    assert_eq!(column(&lake.engine, searched).await, ["16", "16"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_may_drop_the_engine_or_a_result_anywhere() {
    let lake = TestLake::new().await;
    let sql = "SELECT a.id FROM photos a CROSS JOIN photos b CROSS JOIN photos c";
    let mut result = lake.engine.sql(sql).await.unwrap();
    assert!(result.stream.next().await.unwrap().unwrap().num_rows() > 0);
    drop(result);
    let unfinished = lake.engine.sql(sql).await.unwrap();
    drop(lake.engine);
    // The kind of the error depends on which of the engine's threads stops first.
    assert!(unfinished.collect().await.is_err(), "an unfinished answer must not pass for a whole one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_has_a_limit_that_the_error_names() {
    let lake = TestLake::with_memory(cenote_base::ByteSize(40_000)).await;
    let (kind, message) =
        failure(&lake.engine, "SELECT a.caption, count(*) FROM photos a JOIN photos b ON a.id < b.id GROUP BY 1").await;
    assert_eq!(kind, ErrorKind::ResourceExhausted, "{message}");
    assert!(message.contains("raise the budget"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_of_a_column_without_an_index_is_exact() {
    let lake = TestLake::new().await;
    let sql = "SELECT _distance FROM vector_search('bare', 'embedding', [1.0, 0.0, 0.0, 0.0], 3)";
    let batches = lake.engine.sql(sql).await.unwrap().collect().await.unwrap();
    let found: Vec<f32> =
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Float32Type>().values().to_vec()).collect();
    let sorted = "SELECT l2_distance(embedding, [1.0, 0.0, 0.0, 0.0]) d FROM bare ORDER BY d LIMIT 3";
    let batches = lake.engine.sql(sorted).await.unwrap().collect().await.unwrap();
    let expected: Vec<f32> =
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Float32Type>().values().to_vec()).collect();
    assert_eq!(found.len(), 3);
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    let table = lake.store.table("bare").await.unwrap();
    INDEXES.create(&table, &IndexSpec::new("embedding", IndexKind::vector(Metric::L2))).await.unwrap();
    assert_eq!(column(&lake.engine, sql).await.len(), 3);
}

/// Computes BM25 by its formula, over captions of which two words each count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_scores_are_those_of_the_formula() {
    let lake = TestLake::new().await;
    let captions = column(&lake.engine, "SELECT caption FROM photos").await;
    let count = captions.len() as f64;
    let with = |word: &str| captions.iter().filter(|text| text.split(' ').any(|own| own == word)).count() as f64;
    // A row of average length that has a word once scores the word's weight, whatever k1 and b are.
    let weight = |word: &str| ((count - with(word) + 0.5) / (with(word) + 0.5) + 1.0).ln();
    let sql = "SELECT caption, _score FROM text_search('photos', 'red car', 400)";
    let found = lake.engine.sql(sql).await.unwrap().collect().await.unwrap();
    let mut rows = 0;
    for batch in &found {
        let scores = batch.column(1).as_primitive::<Float32Type>();
        for (row, score) in cells(std::slice::from_ref(batch)).iter().zip(scores.iter().flatten()) {
            let wanted: f64 =
                ["red", "car"].iter().filter(|word| row[0].contains(**word)).map(|word| weight(word)).sum();
            assert!((f64::from(score) - wanted).abs() < 1e-4, "{}: {score}, not {wanted}", row[0]);
            rows += 1;
        }
    }
    let either = captions.iter().filter(|text| text.contains("red") || text.contains("car")).count();
    assert_eq!(rows, either);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_are_made_listed_and_dropped_by_statements() {
    let lake = TestLake::new().await;
    let made = column(&lake.engine, "CREATE INDEX near ON bare USING hnsw (embedding) WITH (metric = 'cosine', m = 8)");
    assert_eq!(made.await, ["near"]);
    assert_eq!(column(&lake.engine, "CREATE INDEX ON photos (width)").await, ["width_scalar"]);
    assert_eq!(
        column(&lake.engine, "CREATE INDEX IF NOT EXISTS width_scalar ON photos (width)").await,
        ["width_scalar"]
    );
    assert_eq!(column(&lake.engine, "SHOW INDEXES FROM bare").await, ["near"]);
    let nearest = "SELECT id FROM vector_search('bare', 'embedding', [1.0, 0.0, 0.0, 0.1], 2)";
    assert_eq!(column(&lake.engine, nearest).await, ["0", "4"]);
    assert_eq!(column(&lake.engine, "DROP INDEX near ON bare").await, ["near"]);
    assert!(column(&lake.engine, "DROP INDEX IF EXISTS near ON bare").await.is_empty());
    for (sql, kind, says) in [
        ("DROP INDEX near ON bare", ErrorKind::NotFound, "no index `near`; there are none"),
        ("DROP INDEX near", ErrorKind::InvalidInput, "DROP INDEX name ON table"),
        ("CREATE INDEX ON bare USING tree (id)", ErrorKind::InvalidInput, "not a kind of index"),
        ("CREATE INDEX ON bare (id, embedding)", ErrorKind::InvalidInput, "one column"),
        ("CREATE UNIQUE INDEX ON bare (id)", ErrorKind::Unsupported, "not UNIQUE"),
        ("CREATE INDEX ON bare USING hnsw (embedding) WITH (n = 3)", ErrorKind::InvalidInput, "no option `n`"),
        ("CREATE INDEX ON nothing (id)", ErrorKind::NotFound, "nothing"),
    ] {
        let (found, message) = failure(&lake.engine, sql).await;
        assert!(found == kind && message.contains(says), "{sql}: {found:?} {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_chain_of_operators_runs_and_one_without_end_is_refused() {
    let lake = TestLake::new().await;
    let chain = |parts: usize| (0..parts).map(|id| format!("id = {id}")).collect::<Vec<_>>().join(" OR ");
    let found = column(&lake.engine, &format!("SELECT id FROM photos WHERE {}", chain(300))).await;
    assert_eq!(found.len(), 300);
    let either = format!("SELECT sum(CASE WHEN {} THEN 1 ELSE 0 END) FROM photos", chain(300));
    assert_eq!(column(&lake.engine, &either).await, ["300"]);
    let many = format!("SELECT count(*) FROM photos WHERE id IN ({})", vec!["-1"; 5000].join(", "));
    assert_eq!(column(&lake.engine, &many).await, ["0"]);
    for endless in [
        format!("SELECT {} FROM photos", chain(100_000)),
        format!("SELECT {}", vec!["1"; 100_000].join(" + ")),
        vec!["SELECT 1, 2"; 10_000].join(" UNION ALL "),
        format!("SELECT 1 FROM {}", vec!["photos"; 10_000].join(", ")),
    ] {
        let (kind, message) = failure(&lake.engine, &endless).await;
        assert!(kind == ErrorKind::InvalidInput && message.contains("more than 1000 operators"), "{message}");
    }
    let (kind, message) = failure(&lake.engine, &format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000))).await;
    assert!(kind == ErrorKind::InvalidInput && message.contains("nested too deeply"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_analysed_search_says_how_it_went_about_it() {
    let lake = TestLake::new().await;
    let nearest = "EXPLAIN ANALYZE SELECT id FROM vector_search('photos', 'embedding', [1.0, 0.0, 0.0, 0.1], 5";
    for (filter, says) in
        [(")", "strategy=index embedding_cosine"), (", 'color = 3')", "strategy=exact over 10 matching rows")]
    {
        let batches = lake.engine.sql(&format!("{nearest}{filter}")).await.unwrap().collect().await.unwrap();
        let plan = cells(&batches).into_iter().flatten().collect::<String>();
        assert!(plan.contains(says), "{plan}");
    }
}

/// Compares floats as the documentation says: −0.0 equals 0.0, and every NaN equals every other and is the greatest.
fn float_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// A generated condition in SQL, and its value for a row of four floats.
type Condition = (String, Box<dyn Fn(&[Option<f64>; 4]) -> Option<bool>>);

const FLOATS: [&str; 4] = ["h", "f", "d", "\"x y\""];
const CONSTANTS: [(&str, f64); 7] = [
    ("0.0", 0.0),
    ("-0.0", -0.0),
    ("0.1", 0.1),
    ("1.5", 1.5),
    ("CAST('NaN' AS DOUBLE)", f64::NAN),
    ("CAST('inf' AS DOUBLE)", f64::INFINITY),
    ("CAST('-inf' AS DOUBLE)", f64::NEG_INFINITY),
];

fn condition(random: &mut Random, depth: u32) -> Condition {
    let column = random.below(4) as usize;
    let mut constant = || CONSTANTS[random.below(7) as usize];
    let ((low, low_value), (high, high_value), name) = (constant(), constant(), FLOATS[column]);
    let order = move |row: &[Option<f64>; 4], value: f64| row[column].map(|own| float_order(own, value));
    match random.below(if depth > 0 { 6 } else { 4 }) {
        0 => {
            let other = random.below(4) as usize;
            let equal = move |row: &[Option<f64>; 4]| Some(float_order(row[column]?, row[other]?).is_eq());
            (format!("{name} = {}", FLOATS[other]), Box::new(equal))
        }
        1 => (
            format!("{name} IN ({low}, {high})"),
            Box::new(move |row| Some(order(row, low_value)?.is_eq() || order(row, high_value)?.is_eq())),
        ),
        2 => (
            format!("{name} BETWEEN {low} AND {high}"),
            Box::new(move |row| Some(order(row, low_value)?.is_ge() && order(row, high_value)?.is_le())),
        ),
        3 => {
            let (sign, holds): (_, fn(Ordering) -> bool) = [
                ("=", Ordering::is_eq as fn(Ordering) -> bool),
                ("<>", Ordering::is_ne),
                ("<", Ordering::is_lt),
                ("<=", Ordering::is_le),
                (">", Ordering::is_gt),
                (">=", Ordering::is_ge),
            ][random.below(6) as usize];
            (format!("{name} {sign} {low}"), Box::new(move |row| order(row, low_value).map(holds)))
        }
        4 => {
            let (text, inner) = condition(random, depth - 1);
            (format!("NOT ({text})"), Box::new(move |row| inner(row).map(|holds| !holds)))
        }
        _ => {
            let ((left, a), (right, b)) = (condition(random, depth - 1), condition(random, depth - 1));
            let either = move |row: &[Option<f64>; 4]| match (a(row), b(row)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            };
            (format!("({left} OR {right})"), Box::new(either))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floats_have_one_order_wherever_they_are_compared() {
    let lake = TestLake::new().await;
    let mut random = Random::new(5);
    let some = [0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5, -1.5, 0.1];
    let given: Vec<[Option<f64>; 4]> =
        (0..60).map(|_| [(); 4].map(|()| some.get(random.below(10) as usize).copied())).collect();
    let array = |at: usize, data_type: &DataType| {
        cast(&given.iter().map(|row| row[at]).collect::<Float64Array>(), data_type).unwrap()
    };
    let columns = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..60)) as ArrayRef, false),
        ("h", array(0, &DataType::Float16), true),
        ("f", array(1, &DataType::Float32), true),
        ("d", array(2, &DataType::Float64), true),
        ("x y", array(3, &DataType::Float64), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let wide = |at: usize| cast(batch.column(at + 1), &DataType::Float64).unwrap();
    let wide: Vec<ArrayRef> = (0..4).map(wide).collect();
    let value = |at: usize, row: usize| {
        let floats = wide[at].as_primitive::<Float64Type>();
        floats.is_valid(row).then(|| floats.value(row))
    };
    let rows: Vec<[Option<f64>; 4]> = (0..60).map(|row| [0, 1, 2, 3].map(|at| value(at, row))).collect();
    let table = lake.store.create_table("floats", TableSpec::new(batch.schema(), ["id"])).await.unwrap();
    table.upsert(batch.slice(0, 40)).await.unwrap();
    table.fold().await.unwrap();
    INDEXES.create(&table, &IndexSpec::new("d", IndexKind::Scalar(ScalarStructure::BTree))).await.unwrap();
    table.upsert(batch.slice(40, 20)).await.unwrap();

    for _ in 0..150 {
        let (text, holds) = condition(&mut random, 2);
        let expected = |row: &[Option<f64>; 4]| holds(row).map_or("NULL".to_owned(), |holds| holds.to_string());
        let selected = column(&lake.engine, &format!("SELECT {text} FROM floats ORDER BY id")).await;
        assert_eq!(selected, rows.iter().map(expected).collect::<Vec<_>>(), "SELECT {text}");
        let found = column(&lake.engine, &format!("SELECT id FROM floats WHERE {text} ORDER BY id")).await;
        let passing = rows.iter().enumerate().filter(|(_, row)| holds(row) == Some(true));
        assert_eq!(found, passing.map(|(id, _)| id.to_string()).collect::<Vec<_>>(), "WHERE {text}");
    }
    for (at, name) in FLOATS.into_iter().enumerate() {
        let mut order: Vec<usize> = (0..60).collect();
        let by = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => float_order(a, b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        };
        order.sort_by(|a, b| by(rows[*a][at], rows[*b][at]));
        let distinct = order.chunk_by(|a, b| by(rows[*a][at], rows[*b][at]).is_eq()).count().to_string();
        let equal = |row: &[Option<f64>; 4]| rows.iter().filter(|other| by(other[1], row[at]).is_eq()).count();
        let pairs: usize = rows.iter().filter(|row| row[at].is_some()).map(equal).sum();
        let within = rows.iter().filter(|row| row[at].is_some() && equal(row) > 0).count();
        let order: Vec<String> = order.iter().map(usize::to_string).collect();
        assert_eq!(column(&lake.engine, &format!("SELECT id FROM floats ORDER BY {name}, id")).await, order);
        for (sql, expected) in [
            (format!("SELECT count(*) FROM (SELECT {name} FROM floats GROUP BY {name})"), &distinct),
            (format!("SELECT count(*) FROM (SELECT DISTINCT {name} FROM floats)"), &distinct),
            (format!("SELECT count(*) FROM (SELECT {name} FROM floats UNION SELECT {name} FROM floats)"), &distinct),
            (format!("SELECT count(*) FROM floats a JOIN floats b ON a.{name} = b.f"), &pairs.to_string()),
            (format!("SELECT count(*) FROM floats WHERE {name} IN (SELECT f FROM floats)"), &within.to_string()),
            ("SELECT array_has([0.0, 1.5], max(-0.0)) FROM floats".to_owned(), &"true".to_owned()),
        ] {
            assert_eq!(column(&lake.engine, &sql).await, [expected.as_str()], "{sql}");
        }
    }
}
