//! Search against a plain model in memory, while rows are written, changed and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    AsArray, FixedSizeListBuilder, Float32Builder, Int64Array, LargeBinaryArray, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema};
use cenote_base::{ErrorKind, Random};
use cenote_index::{
    DISTANCE, HybridQuery, IndexKind, IndexSpec, Indexes, Metric, SCORE, SearchSettings, TextQuery, VectorQuery,
};
use cenote_store::{Filter, ROW_ID, Snapshot, Store, StoreOptions, Table, TableSpec, blob_field};

use crate::INDEXES;

const DIMENSIONS: usize = 8;
const WORDS: [&str; 12] = [
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbor", "island", "jungle", "kitten",
    "lantern",
];

#[derive(Debug, Clone, PartialEq)]
struct Row {
    color: i64,
    note: Option<String>,
    vector: Option<Vec<f32>>,
}

type Model = BTreeMap<i64, Row>;

fn vectors(rows: impl Iterator<Item = Option<Vec<f32>>>) -> arrow::array::FixedSizeListArray {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), DIMENSIONS as i32);
    for row in rows {
        match &row {
            Some(vector) => builder.values().append_slice(vector),
            None => builder.values().append_slice(&[0.0; DIMENSIONS]),
        }
        builder.append(row.is_some());
    }
    builder.finish()
}

fn schema() -> Schema {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("color", DataType::Int64, true),
        Field::new("note", DataType::Utf8, true),
        Field::new("embedding", DataType::FixedSizeList(item, DIMENSIONS as i32), true),
        blob_field("data"),
    ])
}

fn batch(rows: &[(i64, Row)]) -> RecordBatch {
    let data: Vec<Vec<u8>> = rows.iter().map(|(id, _)| id.to_le_bytes().to_vec()).collect();
    RecordBatch::try_new(
        Arc::new(schema()),
        vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.color))),
            Arc::new(rows.iter().map(|(_, row)| row.note.clone()).collect::<StringArray>()),
            Arc::new(vectors(rows.iter().map(|(_, row)| row.vector.clone()))),
            Arc::new(LargeBinaryArray::from_iter_values(data)),
        ],
    )
    .unwrap()
}

fn random_vector(random: &mut Random) -> Vec<f32> {
    (0..DIMENSIONS).map(|_| random.unit() as f32 * 2.0 - 1.0).collect()
}

fn random_row(random: &mut Random) -> Row {
    let words = 1 + random.below(6);
    let note: Vec<&str> = (0..words).map(|_| WORDS[random.below(WORDS.len() as u64) as usize]).collect();
    Row {
        color: random.below(100) as i64,
        note: (random.below(10) > 0).then(|| note.join(" ")),
        vector: (random.below(10) > 0).then(|| random_vector(random)),
    }
}

async fn table() -> (tempfile::TempDir, Table) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.create_table("things", TableSpec::new(Arc::new(schema()), ["id"])).await.unwrap();
    (directory, table)
}

async fn fill(table: &Table, model: &mut Model, random: &mut Random, ids: std::ops::Range<i64>) {
    let rows: Vec<(i64, Row)> = ids.map(|id| (id, random_row(random))).collect();
    table.upsert(batch(&rows)).await.unwrap();
    model.extend(rows);
}

/// Makes a random change to the table and to the model.
async fn change(table: &Table, model: &mut Model, random: &mut Random) {
    let known: Vec<i64> = model.keys().copied().collect();
    let pick = |random: &mut Random| known[random.below(known.len() as u64) as usize];
    match random.below(4) {
        0 | 1 => {
            let mut rows = BTreeMap::new();
            for _ in 0..=random.below(20) {
                let id = if random.below(2) == 0 { pick(random) } else { 10_000 + random.below(1_000) as i64 };
                rows.insert(id, random_row(random));
            }
            let rows: Vec<(i64, Row)> = rows.into_iter().collect();
            table.upsert(batch(&rows)).await.unwrap();
            model.extend(rows);
        }
        2 => {
            let ids: Vec<i64> = (0..=random.below(10)).map(|_| pick(random)).collect();
            let keys = batch(&ids.iter().map(|id| (*id, random_row(random))).collect::<Vec<_>>());
            table.delete(&keys).await.unwrap();
            ids.iter().for_each(|id| {
                model.remove(id);
            });
        }
        _ => {
            let mut ids: Vec<i64> = (0..=random.below(30)).map(|_| pick(random)).collect();
            ids.sort_unstable();
            ids.dedup();
            let rows: Vec<(i64, Row)> = ids
                .iter()
                .map(|id| {
                    let fresh = random_row(random);
                    (*id, Row { vector: fresh.vector, note: fresh.note, ..model[id].clone() })
                })
                .collect();
            table.update(batch(&rows).project(&[0, 2, 3]).unwrap()).await.unwrap();
            model.extend(rows);
        }
    }
}

fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    match metric {
        Metric::L2 => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt(),
        Metric::Cosine => 1.0 - dot / (norm(a) * norm(b)),
        Metric::Dot => -dot,
        Metric::Hamming => unreachable!("these vectors are no bits"),
    }
}

fn ids(found: &RecordBatch) -> Vec<i64> {
    found["id"].as_primitive::<Int64Type>().values().to_vec()
}

trait Named {
    fn floats(&self, name: &str) -> Vec<f32>;
}

impl Named for RecordBatch {
    fn floats(&self, name: &str) -> Vec<f32> {
        self[name].as_primitive::<Float32Type>().values().to_vec()
    }
}

/// Checks that the rows found are the nearest of the model, in order, with their distances.
fn check_vectors(found: &RecordBatch, model: &Model, query: &VectorQuery, metric: Metric, keep: impl Fn(&Row) -> bool) {
    let mut expected: Vec<f32> = model
        .values()
        .filter(|row| keep(row))
        .filter_map(|row| Some(distance(metric, row.vector.as_ref()?, &query.vector)))
        .collect();
    expected.sort_by(f32::total_cmp);
    expected.truncate(query.k);
    let got = found.floats(DISTANCE);
    assert_eq!(got.len(), expected.len(), "min(k, matching rows)");
    assert!(got.is_sorted());
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-4, "{metric}: {got} is not {expected}");
    }
    let mut seen = ids(found);
    for (id, got) in seen.iter().zip(&got) {
        let row = &model[id];
        assert!(keep(row));
        let current = distance(metric, row.vector.as_ref().expect("a null vector was found"), &query.vector);
        assert!((got - current).abs() < 1e-4, "row {id} was found by a superseded vector");
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), got.len(), "a row was found twice");
}

fn check_words(found: &RecordBatch, model: &Model, words: &[&str], k: usize, keep: impl Fn(&Row) -> bool) {
    let fits = |row: &Row| {
        keep(row) && row.note.as_ref().is_some_and(|note| note.split(' ').any(|word| words.contains(&word)))
    };
    let expected = model.values().filter(|row| fits(row)).count();
    let mut found_ids = ids(found);
    assert_eq!(found_ids.len(), expected.min(k));
    assert!(found_ids.iter().all(|id| model.get(id).is_some_and(&fits)), "a superseded row was found");
    assert!(found.floats(SCORE).is_sorted_by(|a, b| a >= b));
    found_ids.sort_unstable();
    found_ids.dedup();
    assert_eq!(found_ids.len(), expected.min(k), "a row was found twice");
}

async fn run_changes(seed: u64, metric: Metric, rows: i64) {
    let mut random = Random::new(seed);
    let mut model = Model::new();
    let (_directory, table) = table().await;
    fill(&table, &mut model, &mut random, 0..rows).await;
    INDEXES.create(&table, &IndexSpec::new("embedding", IndexKind::vector(metric))).await.unwrap();
    INDEXES.create(&table, &IndexSpec::new("note", IndexKind::full_text())).await.unwrap();
    INDEXES.create(&table, &IndexSpec::new("color", IndexKind::scalar())).await.unwrap();
    for round in 0..24 {
        change(&table, &mut model, &mut random).await;
        if round % 7 == 5 {
            INDEXES.optimize(&table).await.unwrap();
        }
        let snapshot = table.snapshot().await.unwrap();
        let k = 1 + random.below(40) as usize;
        let color = random.below(100) as i64;
        let columns = Some(vec!["id".to_owned()]);
        let plain =
            VectorQuery { columns: columns.clone(), ..VectorQuery::new("embedding", random_vector(&mut random), k) };
        let found = INDEXES.vector_search(&snapshot, &plain).await.unwrap();
        check_vectors(&found, &model, &plain, metric, |_| true);
        // One percent of the rows.
        let filtered = VectorQuery { filter: Some(format!("color = {color}").into()), ..plain.clone() };
        let found = INDEXES.vector_search(&snapshot, &filtered).await.unwrap();
        check_vectors(&found, &model, &filtered, metric, |row| row.color == color);

        let words = [WORDS[random.below(12) as usize], WORDS[random.below(12) as usize]];
        let text = TextQuery { columns: columns.clone(), ..TextQuery::new(words.join(" "), 10_000) };
        check_words(&INDEXES.text_search(&snapshot, &text).await.unwrap(), &model, &words, 10_000, |_| true);
        let few = TextQuery { k, filter: Some(format!("color < {color}").into()), ..text.clone() };
        check_words(&INDEXES.text_search(&snapshot, &few).await.unwrap(), &model, &words, k, |row| row.color < color);

        let hybrid = HybridQuery { vector: plain, text, k };
        let both = INDEXES.hybrid_search(&snapshot, &hybrid).await.unwrap();
        assert!(both.num_rows() <= k && both.floats(SCORE).is_sorted_by(|a, b| a >= b));
        assert_eq!(
            both,
            INDEXES.hybrid_search(&snapshot, &hybrid).await.unwrap(),
            "the same search gives the same order"
        );
        assert!(ids(&both).iter().all(|id| model.contains_key(id)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn search_equals_brute_force_under_l2() {
    run_changes(1, Metric::L2, 600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn search_equals_brute_force_under_cosine() {
    run_changes(2, Metric::Cosine, 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn search_equals_brute_force_under_dot_and_with_few_rows() {
    run_changes(3, Metric::Dot, 5).await;
}

/// Kinds with the structures that are built for many rows.
const MANY_ROWS: [(&str, &str); 2] = [("vector", "IVF_SQ"), ("ivf_hnsw_sq", "IVF_HNSW_SQ")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_many_rows_has_high_recall_and_fills_k_under_a_narrow_filter() {
    for (kind, structure) in MANY_ROWS {
        recall_is_high(kind, structure).await;
    }
}

async fn recall_is_high(kind: &str, structure: &str) {
    let mut random = Random::new(4);
    let mut model = Model::new();
    let (_directory, table) = table().await;
    fill(&table, &mut model, &mut random, 0..6_000).await;
    let kind = IndexKind::parse(kind, []).unwrap();
    let index = INDEXES.create(&table, &IndexSpec::new("embedding", kind)).await.unwrap();
    assert_eq!(index.structure, structure);
    for _ in 0..5 {
        change(&table, &mut model, &mut random).await;
    }
    let (mut right, mut wanted) = (0, 0);
    // From the second search on, the positions of filtered rows are cached, while the rows change.
    for _ in 0..3 {
        let snapshot = table.snapshot().await.unwrap();
        for color in 0..20 {
            let query = VectorQuery {
                columns: Some(vec!["id".to_owned()]),
                ..VectorQuery::new("embedding", random_vector(&mut random), 30)
            };
            // All rows; few enough that each is compared; and some that take probing more partitions.
            for colors in [0..100, color..color + 1, color..color + 25] {
                let filter = format!("color >= {} AND color < {}", colors.start, colors.end);
                let filter = (colors != (0..100)).then(|| filter.into());
                let query = VectorQuery { filter, ..query.clone() };
                let found = ids(&INDEXES.vector_search(&snapshot, &query).await.unwrap());
                let mut near: Vec<(f32, i64)> = model
                    .iter()
                    .filter(|(_, row)| colors.contains(&row.color))
                    .filter_map(|(id, row)| Some((distance(Metric::L2, row.vector.as_ref()?, &query.vector), *id)))
                    .collect();
                near.sort_by(|a, b| a.0.total_cmp(&b.0));
                near.truncate(30);
                assert_eq!(found.len(), near.len());
                assert!(found.iter().all(|id| model.get(id).is_some_and(|row| colors.contains(&row.color))));
                wanted += near.len();
                right += near.iter().filter(|(_, id)| found.contains(id)).count();
            }
        }
        change(&table, &mut model, &mut random).await;
    }
    assert!(right * 100 >= wanted * 97, "recall {right} of {wanted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fewer_rows_satisfy_a_filter_the_more_partitions_are_searched() {
    let mut random = Random::new(5);
    let mut model = Model::new();
    let (_directory, table) = table().await;
    fill(&table, &mut model, &mut random, 0..6_000).await;
    let kind = IndexKind::parse("ivf_flat", [("partitions", "1000")]).unwrap();
    INDEXES.create(&table, &IndexSpec::new("embedding", kind)).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    let (mut right, mut wanted) = (0, 0);
    for _ in 0..40 {
        let query = VectorQuery {
            columns: Some(vec!["id".to_owned()]),
            filter: Some("color < 20".into()),
            ..VectorQuery::new("embedding", random_vector(&mut random), 30)
        };
        let found = ids(&INDEXES.vector_search(&snapshot, &query).await.unwrap());
        let fits = model.iter().filter(|(_, row)| row.color < 20);
        let near = |(id, row): (&i64, &Row)| Some((distance(Metric::L2, row.vector.as_ref()?, &query.vector), *id));
        let mut near: Vec<(f32, i64)> = fits.filter_map(near).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(30);
        wanted += near.len();
        right += near.iter().filter(|(_, id)| found.contains(id)).count();
    }
    assert!(right * 100 >= wanted * 97, "recall {right} of {wanted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_many_rows_gives_any_number_of_rows() {
    for (kind, structure) in MANY_ROWS {
        any_number_is_given(kind, structure).await;
    }
}

async fn any_number_is_given(kind: &str, structure: &str) {
    let mut random = Random::new(9);
    let mut model = Model::new();
    let (_directory, table) = table().await;
    fill(&table, &mut model, &mut random, 0..6_000).await;
    let kind = IndexKind::parse(kind, []).unwrap();
    let index = INDEXES.create(&table, &IndexSpec::new("embedding", kind)).await.unwrap();
    assert_eq!(index.structure, structure);
    let snapshot = table.snapshot().await.unwrap();
    let with_vectors = model.values().filter(|row| row.vector.is_some()).count();
    for k in [1, 32, 33, 65, 500, 10_000] {
        let query = VectorQuery::new("embedding", random_vector(&mut random), k);
        assert_eq!(INDEXES.vector_hits(&snapshot, &query).await.unwrap().len(), k.min(with_vectors));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_its_table_has_outgrown_is_built_anew() {
    let mut random = Random::new(10);
    let mut model = Model::new();
    let (_directory, table) = table().await;
    fill(&table, &mut model, &mut random, 0..1_500).await;
    let index = INDEXES.create(&table, &IndexSpec::new("embedding", IndexKind::vector(Metric::L2))).await.unwrap();
    assert_eq!(index.structure, "IVF_FLAT");
    let tuned = INDEXES.tune(&table, "embedding", None, 0.9, 1).await.unwrap();
    // Never more at once than the index has, which would rebuild it.
    for ids in [1_500..2_500, 2_500..4_000, 4_000..6_100] {
        fill(&table, &mut model, &mut random, ids).await;
        table.fold().await.unwrap();
        INDEXES.optimize(&table).await.unwrap();
    }
    let index = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap().remove(0);
    assert_eq!((index.structure.as_str(), index.segments), ("IVF_SQ", 1));
    // Settings that were measured on the old index are dropped.
    assert_eq!(index.search, SearchSettings::default());
    INDEXES.retune(&table).await.unwrap();
    let index = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap().remove(0);
    let measured = index.measured.unwrap();
    assert!(measured.recall >= tuned.target && measured.rows == 6_100, "{measured:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_says_what_it_covers_and_how_late_it_is() {
    let mut random = Random::new(5);
    let mut model = Model::new();
    let (_directory, table) = table().await;
    fill(&table, &mut model, &mut random, 0..50).await;
    let index = INDEXES.create(&table, &IndexSpec::new("embedding", IndexKind::vector(Metric::Cosine))).await.unwrap();
    assert_eq!((index.name.as_str(), index.metric), ("embedding_cosine", Some(Metric::Cosine)));
    assert_eq!((index.rows_indexed, index.rows_unindexed), (50, 0));
    INDEXES.create(&table, &IndexSpec::new("note", IndexKind::full_text()).name("words")).await.unwrap();
    fill(&table, &mut model, &mut random, 100..120).await;
    let indexes = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap();
    assert_eq!(indexes.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["embedding_cosine", "words"]);
    assert!(indexes.iter().all(|index| (index.rows_indexed, index.rows_unindexed) == (50, 20)), "{indexes:?}");
    assert_eq!(indexes[1].kind, IndexKind::full_text());
    INDEXES.optimize(&table).await.unwrap();
    let indexes = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap();
    assert!(indexes.iter().all(|index| (index.rows_indexed, index.rows_unindexed) == (70, 0)), "{indexes:?}");
    INDEXES.remove(&table, "words").await.unwrap();
    assert_eq!(INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap().len(), 1);
    let error = INDEXES.remove(&table, "words").await.unwrap_err();
    assert_eq!(error.message(), "table `things`: no index `words`; there are embedding_cosine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_and_row_ids_can_be_asked_for() {
    let mut random = Random::new(6);
    let (_directory, table) = table().await;
    fill(&table, &mut Model::new(), &mut random, 0..20).await;
    let snapshot = table.snapshot().await.unwrap();
    let columns = Some(vec!["data".to_owned(), ROW_ID.to_owned(), "id".to_owned()]);
    let query = VectorQuery { columns, ..VectorQuery::new("embedding", random_vector(&mut random), 5) };
    let found = INDEXES.vector_search(&snapshot, &query).await.unwrap();
    let names: Vec<String> = found.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["data", ROW_ID, "id", DISTANCE]);
    for (row, id) in ids(&found).into_iter().enumerate() {
        assert_eq!(found["data"].as_binary::<i64>().value(row), id.to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vector_without_a_distance_is_no_hit() {
    let (_directory, table) = table().await;
    let row = |vector| Row { color: 1, note: None, vector };
    let rows = [(1, row(Some(vec![0.0; 8]))), (2, row(Some(vec![1.0; 8]))), (3, row(None))];
    table.upsert(batch(&rows)).await.unwrap();
    let query = VectorQuery { metric: Some(Metric::Cosine), ..VectorQuery::new("embedding", vec![2.0; 8], 5) };
    let found = INDEXES.vector_search(&table.snapshot().await.unwrap(), &query).await.unwrap();
    assert_eq!(ids(&found), [2]);
    INDEXES.create(&table, &IndexSpec::new("embedding", IndexKind::vector(Metric::Cosine))).await.unwrap();
    let found = INDEXES.vector_search(&table.snapshot().await.unwrap(), &query).await.unwrap();
    assert_eq!(ids(&found), [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phrases_and_all_words_narrow_a_text_search() {
    let (_directory, table) = table().await;
    let row = |note: &str| Row { color: 1, note: Some(note.to_owned()), vector: None };
    let rows = [(1, row("red fast car")), (2, row("fast red car")), (3, row("a red house"))];
    table.upsert(batch(&rows)).await.unwrap();
    INDEXES.create(&table, &IndexSpec::new("note", IndexKind::full_text())).await.unwrap();
    table.upsert(batch(&[(4, row("one more red car"))])).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    let search = async |query: TextQuery| {
        let mut found = ids(&INDEXES.text_search(&snapshot, &query).await.unwrap());
        found.sort_unstable();
        found
    };
    assert_eq!(search(TextQuery::new("red car", 9)).await, [1, 2, 3, 4]);
    assert_eq!(search(TextQuery::new("cars", 9)).await, [1, 2, 4]);
    assert_eq!(search(TextQuery { all_words: true, ..TextQuery::new("red car", 9) }).await, [1, 2, 4]);
    assert_eq!(search(TextQuery::new("\"red car\"", 9)).await, [2, 4]);
    assert_eq!(search(TextQuery::new("the", 9)).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_query_says_what_must_may_and_must_not_be_there() {
    let (_directory, table) = table().await;
    let row = |note: &str| Row { color: 1, note: Some(note.to_owned()), vector: None };
    let rows =
        [(1, row("red fast car")), (2, row("blue fast car")), (3, row("the colour red")), (4, row("naïve café"))];
    table.upsert(batch(&rows)).await.unwrap();
    INDEXES.create(&table, &IndexSpec::new("note", IndexKind::full_text())).await.unwrap();
    // Rows that the index lacks, in fragments and in the change store.
    table.upsert(batch(&[(5, row("one more red card")), (1, row("green fast car"))])).await.unwrap();
    table.fold().await.unwrap();
    table.upsert(batch(&[(6, row("gray colours, and a bicycle"))])).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    let search = async |text: &str, all_words: bool| {
        let query = TextQuery { all_words, ..TextQuery::new(text, 9) };
        let mut found = ids(&INDEXES.text_search(&snapshot, &query).await.unwrap());
        found.sort_unstable();
        found
    };
    for (text, any, all) in [
        ("fast AND NOT blue", &[1][..], &[1][..]),
        ("fast -blue", &[1], &[1]),
        ("+fast green", &[1, 2], &[1]),
        ("red OR blue AND fast", &[2, 3, 5], &[2, 3, 5]),
        ("(red OR blue) AND fast", &[2], &[2]),
        ("\"fast car\" bicycle -green", &[2, 6], &[]),
        ("color~1", &[3, 6], &[3, 6]),
        ("color~ car~1", &[1, 2, 3, 5, 6], &[]),
        ("car~1 -\"fast car\"", &[5], &[5]),
        ("(car~1 OR bicyle~) NOT (green blue)", &[5, 6], &[1, 2, 5, 6]),
        ("cafe naive~1", &[4], &[4]),
        ("the AND red", &[3, 5], &[3, 5]),
        ("the -red", &[], &[]),
        ("fast -the", &[1, 2], &[1, 2]),
        ("xylophone~2 OR card", &[5], &[5]),
    ] {
        assert_eq!(search(text, false).await, any, "any of {text}");
        assert_eq!(search(text, true).await, all, "all of {text}");
    }
    let error = INDEXES.text_search(&snapshot, &TextQuery::new("red (car", 9)).await.unwrap_err();
    assert_eq!(
        error.message(),
        "text query: `(car` at character 5 is not closed; add `)`, or write `\\(` for the character"
    );
    // The longest words that an index holds, in letters of one byte and of two.
    for word in ["x".repeat(39), "ж".repeat(19)] {
        assert_eq!(search(&format!("{word}~2"), false).await, [0; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_told_precisely() {
    let (_directory, table) = table().await;
    fill(&table, &mut Model::new(), &mut Random::new(7), 0..20).await;
    let snapshot = table.snapshot().await.unwrap();
    let vector = |column: &str, vector: Vec<f32>| VectorQuery::new(column, vector, 3);
    let cosine = |vector| VectorQuery { metric: Some(Metric::Cosine), ..VectorQuery::new("embedding", vector, 3) };
    for (query, kind, says) in [
        (vector("nothing", vec![0.0; 8]), ErrorKind::NotFound, "there are embedding"),
        (vector("note", vec![0.0; 8]), ErrorKind::InvalidInput, "holds no vectors"),
        (
            vector("embedding", vec![0.0; 7]),
            ErrorKind::InvalidInput,
            "7 numbers, and column `embedding` has vectors of 8",
        ),
        (vector("embedding", vec![f32::NAN; 8]), ErrorKind::InvalidInput, "number 1 of the query vector is NaN"),
        (cosine(vec![0.0; 8]), ErrorKind::InvalidInput, "undefined"),
        (VectorQuery { k: 0, ..vector("embedding", vec![0.0; 8]) }, ErrorKind::InvalidInput, "k must be from 1"),
        (
            VectorQuery { filter: Some(Filter::from("nosuch = 1")), ..vector("embedding", vec![0.0; 8]) },
            ErrorKind::InvalidInput,
            "nosuch",
        ),
    ] {
        let error = INDEXES.vector_search(&snapshot, &query).await.unwrap_err();
        assert!(error.kind() == kind && error.message().contains(says), "{error:?}");
    }
    let error = INDEXES.text_search(&snapshot, &TextQuery::new("apple", 3)).await.unwrap_err();
    assert!(error.message().contains("create an index of kind `text`"), "{error}");
    for (column, kind, says) in [
        ("nothing", IndexKind::scalar(), "there are id, color, note, embedding, data"),
        ("note", IndexKind::vector(Metric::L2), "these are: embedding"),
        ("color", IndexKind::full_text(), "these are: note"),
        ("data", IndexKind::scalar(), "these are: color, id, note"),
    ] {
        let error = INDEXES.create(&table, &IndexSpec::new(column, kind)).await.unwrap_err();
        assert!(error.message().contains(says), "{error}");
    }
    let klingon = IndexKind::parse("text", [("language", "Klingon")]).unwrap();
    let error = INDEXES.create(&table, &IndexSpec::new("note", klingon)).await.unwrap_err();
    assert!(error.message().contains("`Klingon`"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_score_is_the_same_before_and_after_a_fold_and_an_index_upkeep() {
    let mut random = Random::new(11);
    let mut model = Model::new();
    let (_directory, table) = table().await;
    fill(&table, &mut model, &mut random, 0..300).await;
    INDEXES.create(&table, &IndexSpec::new("note", IndexKind::full_text())).await.unwrap();
    // Some rows are deleted, some change and some are new, so that the counts of the index are stale.
    fill(&table, &mut model, &mut random, 250..400).await;
    let earlier = table.snapshot().await.unwrap();
    table.delete_where("id % 7 = 0".into()).await.unwrap();
    let scores_in = async |snapshot: &Snapshot, filter: Option<&str>| -> BTreeMap<i64, f32> {
        let query = TextQuery { filter: filter.map(Filter::from), ..TextQuery::new("apple garden kitten", 1_000) };
        let found = INDEXES.text_search(snapshot, &query).await.unwrap();
        ids(&found).into_iter().zip(found.floats(SCORE)).collect()
    };
    let scores = async |filter: Option<&str>| scores_in(&table.snapshot().await.unwrap(), filter).await;
    let before = scores(None).await;
    assert!(before.len() > 50);
    // What is cached for a later version is not used for an earlier one, and vice versa.
    let of_earlier = scores_in(&earlier, None).await;
    let anew = Indexes::default().text_search(&earlier, &TextQuery::new("apple garden kitten", 1_000)).await.unwrap();
    assert_eq!(of_earlier, ids(&anew).into_iter().zip(anew.floats(SCORE)).collect());
    assert!(of_earlier.len() > before.len() && scores(None).await == before);
    let same = |now: &BTreeMap<i64, f32>| {
        now.iter().all(|(id, score)| before.get(id).is_some_and(|before| (before - score).abs() < 1e-5 * before))
    };
    table.fold().await.unwrap();
    let folded = scores(None).await;
    assert!(folded.len() == before.len() && same(&folded));
    let some = scores(Some("color < 50")).await;
    assert!(!some.is_empty() && some.len() < before.len() && same(&some), "a filter changes no score");
    table.compact(true).await.unwrap();
    let compacted = scores(None).await;
    assert!(compacted.len() == before.len() && same(&compacted));
    INDEXES.optimize(&table).await.unwrap();
    let indexed = scores(None).await;
    assert!(indexed.len() == before.len() && same(&indexed));
    INDEXES.create(&table, &IndexSpec::new("note", IndexKind::full_text())).await.unwrap();
    let anew = scores(None).await;
    assert!(anew.len() == before.len() && same(&anew), "scores of the same rows indexed at once");
}
