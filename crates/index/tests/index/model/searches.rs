//! Each search of a snapshot, compared with the plain model.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int64Type, UInt64Type};
use cenote_base::{ErrorKind, Random};
use cenote_index::{DISTANCE, Hit, HybridQuery, IndexInfo, IndexKind, Metric, SCORE, TextQuery, VectorQuery};
use cenote_store::{ROW_ID, ScanRequest, Snapshot};

use super::plain::{Keep, Row, Rows, content_word, distance, query_vector, word};
use super::queries::{Query, scores};
use crate::INDEXES;

/// The hits found, and those that the exact search returns.
#[derive(Debug, Default, Clone, Copy)]
pub struct Recall {
    pub found: usize,
    pub wanted: usize,
}

fn ids(found: &RecordBatch) -> Vec<i64> {
    found["id"].as_primitive::<Int64Type>().values().to_vec()
}

fn id_set(found: &RecordBatch) -> BTreeSet<i64> {
    let ids = ids(found);
    let set: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(set.len(), ids.len(), "a row was found twice: {ids:?}");
    set
}

fn only_id() -> Option<Vec<String>> {
    Some(vec!["id".to_owned()])
}

fn floats(found: &RecordBatch, name: &str) -> Vec<f32> {
    found[name].as_primitive::<Float32Type>().values().to_vec()
}

/// Checks one search of each sort.
pub async fn check(snapshot: &Snapshot, rows: &Rows, random: &mut Random, newest: &str, recall: &mut Recall) {
    let indexes = INDEXES.list(snapshot).await.unwrap();
    for index in &indexes {
        assert_eq!(index.rows_indexed + index.rows_unindexed, rows.len(), "{index:?}");
    }
    let keys = rows.keys().last().map_or(1, |last| *last as u64 + 1);
    let ks = [1, 1 + random.below(20) as usize, rows.len().max(1), rows.len() + 10];
    let k = ks[random.below(4) as usize];
    let mut keep = || Keep::random(random, keys);
    let (first, second, third) = (keep(), keep(), keep());
    check_filter(snapshot, rows, random, first).await;

    let vector = query_vector(random);
    check_vector(snapshot, rows, &indexes, &vector, k, None, second, recall).await;
    // The same filter each time, so that the positions of its rows are cached.
    check_vector(snapshot, rows, &indexes, &vector, k, None, Keep::ColorBelow(3), recall).await;
    let metric = [Metric::L2, Metric::Cosine, Metric::Dot][random.below(3) as usize];
    check_vector(snapshot, rows, &indexes, &vector, k, Some(metric), Keep::All, recall).await;

    let mut columns: Vec<&str> = indexes
        .iter()
        .filter(|index| matches!(index.kind, IndexKind::FullText { .. }))
        .map(|index| index.column.as_str())
        .collect();
    columns.dedup();
    if columns.is_empty() {
        let error = INDEXES.text_search(snapshot, &TextQuery::new("car", 5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        return;
    }
    let column = columns[random.below(columns.len() as u64) as usize];
    let one = content_word(random);
    let (second, last) = (content_word(random), word(random));
    let two = format!("{one} {second}");
    let (query, text, all_words) = match random.below(6) {
        0 => (Query::any([one, second]), two, false),
        1 => (Query::all([one, second]), two, true),
        2 => (Query::Phrase(two.clone()), format!("\"{two}\""), false),
        _ => {
            let all_words = random.below(2) == 0;
            let query = Query::random(random, 3, all_words);
            let text = query.written(random, all_words);
            (query, text, all_words)
        }
    };
    let ask = |columns: &[&str], text: &str, all_words: bool, k: usize, keep: Keep| {
        let column = if let [column] = columns { Some((*column).to_owned()) } else { None };
        let query = TextQuery { columns: only_id(), column, ..TextQuery::new(text, k) };
        TextQuery { all_words, filter: keep.sql().map(Into::into), ..query }
    };
    let many = ask(&columns, &format!("{last}, {newest}"), all_words, k, Keep::All);
    let wanted = if all_words { Query::all([last, newest]) } else { Query::any([last, newest]) };
    check_text(snapshot, rows, &columns, &many, &wanted, Keep::All).await;
    let single = ask(&[column], one, false, rows.len() + 1, third);
    check_text(snapshot, rows, &[column], &single, &Query::any([one]), third).await;
    check_text(snapshot, rows, &columns, &ask(&columns, &text, all_words, k, Keep::All), &query, Keep::All).await;
    let of_one = ask(&[column], &text, all_words, k, third);
    check_text(snapshot, rows, &[column], &of_one, &query, third).await;

    let near = VectorQuery { filter: third.sql().map(Into::into), ..VectorQuery::new("embedding", vector, 1) };
    let near = VectorQuery { columns: only_id(), ..near };
    let fitting = scores(rows, column, &query);
    check_hybrid(snapshot, rows, &HybridQuery { vector: near, text: of_one, k }, third, &fitting).await;
}

/// Checks that a filter, a count and a read by row ids give the same rows.
async fn check_filter(snapshot: &Snapshot, rows: &Rows, random: &mut Random, keep: Keep) {
    let wanted = keep.of(rows);
    assert_eq!(snapshot.count(None).await.unwrap(), rows.len());
    assert_eq!(snapshot.count(keep.sql().map(Into::into)).await.unwrap(), wanted.len(), "{keep:?}");
    let request = ScanRequest { filter: keep.sql().map(Into::into), ..ScanRequest::default() };
    let found = snapshot.collect(&request.columns(["id"]).with_row_id()).await.unwrap();
    assert_eq!(id_set(&found), wanted, "{keep:?}");

    let mut order: Vec<usize> = (0..found.num_rows()).collect();
    order.sort_by_cached_key(|_| random.next_u64());
    let row_ids = found[ROW_ID].as_primitive::<UInt64Type>().values();
    let row_ids: Vec<u64> = order.iter().map(|at| row_ids[*at]).collect();
    let taken = snapshot.take(&row_ids, &["id", "color", "note", "embedding"].map(str::to_owned)).await.unwrap();
    let found = ids(&found);
    assert_eq!(ids(&taken), order.iter().map(|at| found[*at]).collect::<Vec<_>>());
    let (colors, notes) = (taken["color"].as_primitive::<Int64Type>(), taken["note"].as_string::<i32>());
    let vectors = taken["embedding"].as_fixed_size_list();
    for ((id, color), (note, vector)) in ids(&taken).iter().zip(colors).zip(notes.iter().zip(vectors.iter())) {
        let row = &rows[id];
        let vector = vector.map(|vector| vector.as_primitive::<Float32Type>().values().to_vec());
        assert_eq!((color, note, vector), (row.color, row.note.as_deref(), row.vector.clone()), "row {id}");
    }
}

/// Checks that the nearest rows are found, as many as there are, each once and by its current vector.
#[expect(clippy::too_many_arguments)]
async fn check_vector(
    snapshot: &Snapshot,
    rows: &Rows,
    indexes: &[IndexInfo],
    vector: &[f32],
    k: usize,
    metric: Option<Metric>,
    keep: Keep,
    recall: &mut Recall,
) {
    let query = VectorQuery { columns: only_id(), ..VectorQuery::new("embedding", vector.to_vec(), k) };
    let query = VectorQuery { metric, filter: keep.sql().map(Into::into), ..query };
    let metric = metric.or(indexes.iter().find_map(|index| index.metric)).unwrap_or_default();
    let quantised = indexes.iter().any(|index| index.metric == Some(metric) && index.structure != "IVF_FLAT");
    let about = format!("{metric} {query:?}");
    let found = INDEXES.vector_search(snapshot, &query).await.unwrap();
    let of = |row: &Row| row.vector.as_ref().and_then(|own| distance(metric, own, vector));
    let fitting = rows.iter().filter(|(id, row)| keep.has(**id, row));
    let mut near: Vec<f32> = fitting.filter_map(|(_, row)| of(row)).collect();
    near.sort_by(f32::total_cmp);
    near.truncate(k);
    id_set(&found);
    let got: Vec<(f32, i64)> = floats(&found, DISTANCE).into_iter().zip(ids(&found)).collect();
    assert_eq!(got.len(), near.len(), "{about}\n   got {got:?}\nwanted {near:?}");
    assert!(got.is_sorted_by(|a, b| a.0 <= b.0), "{about}: {got:?}");
    for (now, id) in &got {
        let row = rows.get(id).unwrap_or_else(|| panic!("{about}: row {id} is deleted"));
        assert!(keep.has(*id, row), "{about}: row {id} does not satisfy the filter");
        let own = of(row).unwrap_or_else(|| panic!("{about}: row {id} has no distance"));
        assert!((now - own).abs() < 1e-4, "{about}: row {id} was found by an old vector: {now}, not {own}");
    }
    let Some(last) = near.last() else { return };
    let hits = got.iter().filter(|(now, _)| *now < last + 1e-4).count();
    if quantised {
        recall.wanted += near.len();
        recall.found += hits;
    } else {
        let equal = got.iter().zip(&near).all(|(got, near)| (got.0 - near).abs() < 1e-4);
        assert!(equal, "{about}\n   got {got:?}\nwanted {near:?}");
    }
}

/// Checks that exactly the rows that match `asked` are found, or the best of them, each by its best column.
pub async fn check_text(
    snapshot: &Snapshot,
    rows: &Rows,
    columns: &[&str],
    query: &TextQuery,
    asked: &Query,
    keep: Keep,
) {
    let found = INDEXES.text_search(snapshot, query).await.unwrap();
    let mut wanted: BTreeMap<i64, f64> = BTreeMap::new();
    for column in columns {
        for (id, score) in scores(rows, column, asked).into_iter().filter(|(id, _)| keep.has(*id, &rows[id])) {
            let best = wanted.entry(id).or_insert(score);
            *best = best.max(score);
        }
    }
    let got: Vec<(f32, i64)> = floats(&found, SCORE).into_iter().zip(ids(&found)).collect();
    let about = format!("{query:?}\n   got {got:?}\nwanted {wanted:?}");
    let unique = id_set(&found);
    assert!(unique.iter().all(|id| wanted.contains_key(id)), "{about}");
    assert_eq!(got.len(), query.k.min(wanted.len()), "{about}");
    assert!(got.iter().all(|(score, _)| score.is_finite()) && got.is_sorted_by(|a, b| a.0 >= b.0), "{about}");
    let mut best: Vec<f64> = wanted.values().copied().collect();
    best.sort_by(|a, b| b.total_cmp(a));
    for ((score, id), best) in got.iter().zip(best) {
        let near = |wanted: f64| (f64::from(*score) - wanted).abs() < 1e-4 * wanted.max(1.0);
        assert!(near(wanted[id]) && near(best), "row {id} scores {score}, not {} and {best}\n{about}", wanted[id]);
    }
}

/// Checks that the two rankings are fused, and that every row is in one of them.
async fn check_hybrid(snapshot: &Snapshot, rows: &Rows, query: &HybridQuery, keep: Keep, fitting: &BTreeMap<i64, f64>) {
    let found = INDEXES.hybrid_search(snapshot, query).await.unwrap();
    for id in id_set(&found) {
        let row = rows.get(&id).unwrap_or_else(|| panic!("row {id} is deleted"));
        assert!(keep.has(id, row) && (row.vector.is_some() || fitting.contains_key(&id)), "{query:?}: row {id}");
    }
    let depth = (4 * query.k).max(100);
    let by_vector = INDEXES.vector_hits(snapshot, &VectorQuery { k: depth, ..query.vector.clone() }).await.unwrap();
    let by_text = INDEXES.text_hits(snapshot, &TextQuery { k: depth, ..query.text.clone() }).await.unwrap();
    let mut fused: BTreeMap<u64, f64> = BTreeMap::new();
    for ranking in [by_vector, by_text] {
        for (rank, Hit { row_id, .. }) in ranking.iter().enumerate() {
            *fused.entry(*row_id).or_default() += 1.0 / (61.0 + rank as f64);
        }
    }
    let hits = INDEXES.hybrid_hits(snapshot, query).await.unwrap();
    assert_eq!(hits.len(), fused.len().min(query.k));
    assert_eq!(hits.len(), found.num_rows());
    let mut best: Vec<f64> = fused.values().copied().collect();
    best.sort_by(|a, b| b.total_cmp(a));
    for (hit, best) in hits.iter().zip(best) {
        let score = f64::from(hit.score.unwrap());
        assert!(
            (score - fused[&hit.row_id]).abs() < 1e-6 && (score - best).abs() < 1e-6,
            "{query:?}: {hit:?}, not {best}"
        );
    }
}
