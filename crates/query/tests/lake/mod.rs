//! A generated lake: photographs with captions, vectors and media, and their tags.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, FixedSizeListBuilder, Float32Builder, Int32Array, Int64Array, LargeBinaryArray,
    RecordBatch, StringArray, cast::AsArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{ByteSize, Error, Random};
use cenote_index::{IndexKind, IndexSpec, Indexes, Metric};
use cenote_operator::{Definition, Port, PortType, Registry, Rows, row_wise};
use cenote_query::{QueryEngine, QueryOptions};
use cenote_scheduler::{Scheduler, SchedulerOptions};
use cenote_store::{Store, StoreOptions, Table, TableSpec, blob_field};

const PHOTOS: i64 = 400;
const NOUNS: [&str; 8] = ["car", "boat", "tree", "house", "river", "street", "window", "dog"];
const COLORS: [&str; 4] = ["red", "blue", "green", "white"];

pub struct TestLake {
    pub store: Store,
    pub engine: QueryEngine,
    _directory: tempfile::TempDir,
}

fn vector_type() -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, true)), 4)
}

fn vectors(rows: impl Iterator<Item = Option<[f32; 4]>>) -> FixedSizeListArray {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), 4);
    for row in rows {
        builder.values().append_slice(&row.unwrap_or_default());
        builder.append(row.is_some());
    }
    builder.finish()
}

fn photos_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("kind", DataType::Utf8, true),
        Field::new("color", DataType::Int64, true),
        Field::new("width", DataType::Int32, true),
        Field::new("caption", DataType::Utf8, true),
        Field::new("embedding", vector_type(), true),
        blob_field("data"),
    ]))
}

fn photo_batch(rows: &[(i64, String, Option<[f32; 4]>)]) -> RecordBatch {
    let ids = || rows.iter().map(|(id, _, _)| *id);
    let kinds: StringArray = ids().map(|id| Some(if id % 5 == 0 { "clip" } else { "image" })).collect();
    let media: Vec<[u8; 8]> = ids().map(i64::to_le_bytes).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids())),
        Arc::new(kinds),
        Arc::new(Int64Array::from_iter_values(ids().map(|id| id % 40))),
        Arc::new(ids().map(|id| (id % 7 > 0).then_some((id % 100) as i32)).collect::<Int32Array>()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, caption, _)| caption))),
        Arc::new(vectors(rows.iter().map(|(_, _, vector)| *vector))),
        Arc::new(LargeBinaryArray::from_iter_values(&media)),
    ];
    RecordBatch::try_new(photos_schema(), columns).unwrap()
}

/// Registers toy operators: a count, a vector of four numbers, two outputs, and one whose model is missing.
fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register(
        Definition::new("count_words", 1, "Number of words", |_params| {
            Ok(row_wise(vec![Field::new("words", DataType::Int32, true)], |rows: &Rows<'_>| {
                let text = rows.column(0).as_string::<i32>();
                let words: Int32Array = text.iter().map(|t| t.map(|t| t.split_whitespace().count() as i32)).collect();
                Ok(vec![Arc::new(words) as ArrayRef].into())
            }))
        })
        .input(Port::new("text", PortType::Text)),
    );
    registry.register(
        Definition::new("embed_text", 1, "A vector", |_params| {
            Ok(row_wise(vec![Field::new("embedding", vector_type(), true)], |rows: &Rows<'_>| {
                let text = rows.column(0).as_string::<i32>();
                let embed = |t: &str| {
                    let has = |word: &str| if t.contains(word) { 1.0 } else { 0.1 };
                    [has("red"), has("blue"), has("car"), has("boat")]
                };
                Ok(vec![Arc::new(vectors(text.iter().map(|t| t.map(embed)))) as ArrayRef].into())
            }))
        })
        .input(Port::new("text", PortType::Text)),
    );
    registry.register(
        Definition::new("measure_text", 1, "Bytes and first letter", |_params| {
            let outputs = vec![Field::new("bytes", DataType::Int64, true), Field::new("first", DataType::Utf8, true)];
            Ok(row_wise(outputs, |rows: &Rows<'_>| {
                let text = rows.column(0).as_string::<i32>();
                let bytes: Int64Array = text.iter().map(|t| t.map(|t| t.len() as i64)).collect();
                let first: StringArray = text.iter().map(|t| t.and_then(|t| t.get(..1))).collect();
                Ok(vec![Arc::new(bytes) as ArrayRef, Arc::new(first)].into())
            }))
        })
        .input(Port::new("text", PortType::Text)),
    );
    registry.register(
        Definition::new("embed_nothing", 1, "An operator without its model", |_params| {
            Err(Error::not_found("model `nothing` is not there; fetch it with `cenote models fetch nothing`"))
        })
        .input(Port::new("text", PortType::Text)),
    );
    registry
}

/// Makes a scheduler of one core, so that operators never run side by side.
fn scheduler() -> Scheduler {
    Scheduler::new(SchedulerOptions { cpu_cores: 1.0, ..SchedulerOptions::default() }).unwrap()
}

impl TestLake {
    pub async fn new() -> Self {
        Self::with_memory(ByteSize::mib(64)).await
    }

    pub async fn with_memory(memory_bytes_max: ByteSize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
        let photos = store.create_table("photos", TableSpec::new(photos_schema(), ["id"])).await.unwrap();
        let mut random = Random::new(1);
        let rows: Vec<_> = (0..PHOTOS)
            .map(|id| {
                let color = COLORS[random.below(4) as usize];
                let noun = NOUNS[random.below(8) as usize];
                let vector = [0; 4].map(|_: i32| random.unit() as f32 * 2.0 - 1.0);
                (id, format!("a {color} {noun}"), (id % 10 != 9).then_some(vector))
            })
            .collect();
        photos.upsert(photo_batch(&rows[..300])).await.unwrap();
        let indexes = Indexes::default();
        for metric in [Metric::L2, Metric::Cosine, Metric::Dot] {
            indexes.create(&photos, &IndexSpec::new("embedding", IndexKind::vector(metric))).await.unwrap();
        }
        indexes.create(&photos, &IndexSpec::new("caption", IndexKind::full_text())).await.unwrap();
        // The indexes lag: the last hundred rows are not in them.
        photos.upsert(photo_batch(&rows[300..])).await.unwrap();

        let bare_schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("embedding", vector_type(), true),
        ]));
        let bare = store.create_table("bare", TableSpec::new(Arc::clone(&bare_schema), ["id"])).await.unwrap();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(0..5)),
            Arc::new(vectors(
                [Some([1.0, 0.0, 0.0, 0.0]), Some([0.0, 2.0, 0.0, 0.0]), None, Some([0.0; 4]), Some([3.0; 4])]
                    .into_iter(),
            )),
        ];
        bare.upsert(RecordBatch::try_new(bare_schema, columns).unwrap()).await.unwrap();

        let tags_schema = Arc::new(Schema::new(vec![
            Field::new("photo", DataType::Int64, false),
            Field::new("tag", DataType::Utf8, false),
            Field::new("weight", DataType::Float64, true),
        ]));
        let tags =
            store.create_table("tags", TableSpec::new(Arc::clone(&tags_schema), ["photo", "tag"])).await.unwrap();
        let ids: Vec<i64> = (0..PHOTOS).filter(|id| id % 4 == 0).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(ids.iter().copied())),
            Arc::new(StringArray::from_iter_values(ids.iter().map(|id| if id % 8 == 0 { "best" } else { "good" }))),
            Arc::new(arrow::array::Float64Array::from_iter_values(ids.iter().map(|id| *id as f64 / 4.0))),
        ];
        tags.upsert(RecordBatch::try_new(tags_schema, columns).unwrap()).await.unwrap();

        let options = QueryOptions { memory_bytes_max, ..QueryOptions::default() };
        let engine = QueryEngine::new(options, store.clone(), indexes, Arc::new(registry()), &scheduler()).unwrap();
        Self { _directory: directory, store, engine }
    }

    async fn photos(&self) -> Table {
        self.store.table("photos").await.unwrap()
    }

    pub async fn add_photo(&self, id: i64, caption: &str, vector: [f32; 4]) {
        let batch = photo_batch(&[(id, caption.to_owned(), Some(vector))]);
        self.photos().await.upsert(batch).await.unwrap();
    }

    pub async fn delete_photo(&self, id: i64) {
        let batch = photo_batch(&[(id, String::new(), None)]);
        self.photos().await.delete(&batch).await.unwrap();
    }
}
