//! The measured side of `make bench-image` and `make bench-pipeline`: JPEG files → decode → resize to 224×224 RGB, or a
//! vector by an ONNX model → a table.
//!
//! `bench_lake image INPUT_DIRECTORY LAKE_DIRECTORY resize|embed` prints one JSON line: `{"images": N, "seconds": S}`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cenote_runtime::arrow::array::{ArrayRef, LargeBinaryBuilder, RecordBatch, StringArray};
use cenote_runtime::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use cenote_runtime::operator::{BoundOperator, OperatorSpec, Rows};
use cenote_runtime::{Error, Lake, Result, TableSpec, WorkOptions, byte_queue};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::new_lake;

/// Images a task: enough to spread its overhead, few enough that all cores stay busy to the end.
const TASK_IMAGES: usize = 16;
/// Tasks a commit: about 19 MB of pixels, or 0.7 MB of vectors.
const COMMIT_TASKS: usize = 8;
/// Bytes of pixels that wait for a commit.
const QUEUE_BYTES_MAX: u64 = 6 << 20;

pub async fn measure(arguments: &[String]) -> Result<Value> {
    let usage = || Error::invalid_input("usage: bench_lake image INPUT_DIRECTORY LAKE_DIRECTORY resize|embed");
    let [input, directory, work] = arguments else { return Err(usage()) };
    let spec = match work.as_str() {
        "resize" => OperatorSpec::new("resize_image").with("width", 224).with("height", 224),
        "embed" => OperatorSpec::new("embed_image").with("space", "features"),
        _ => return Err(usage()),
    };
    let lake = new_lake(Path::new(directory)).await?;
    let operator = Arc::new(lake.registry().bind(&spec)?);
    let start = Instant::now();
    let images = run(PathBuf::from(input), lake, operator).await?;
    Ok(json!({ "images": images, "seconds": start.elapsed().as_secs_f64() }))
}

async fn run(input: PathBuf, lake: Lake, operator: Arc<BoundOperator>) -> Result<usize> {
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("path", DataType::Utf8, false), operator.outputs()[0].clone()]));
    let table = lake.create_table("images", TableSpec::new(Arc::clone(&schema), ["path"])).await?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&input)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let images = files.len();

    let (sender, mut receiver) = byte_queue(QUEUE_BYTES_MAX);
    let produce = async move {
        let tasks: Vec<Vec<PathBuf>> = files.chunks(TASK_IMAGES).map(<[PathBuf]>::to_vec).collect();
        let in_flight = lake.scheduler().usage().total.cpu.ceil() as usize + 1;
        let batches = stream::iter(tasks).map(|paths| {
            let (lake, operator, schema) = (lake.clone(), Arc::clone(&operator), Arc::clone(&schema));
            async move {
                let options = WorkOptions::new(operator.definition.name);
                lake.scheduler().run(&options, move |_| process(&paths, &operator, &schema)).await
            }
        });
        let sender = &sender;
        batches
            .buffered(in_flight)
            .try_for_each(|batch| async move {
                let bytes = batch.get_array_memory_size() as u64;
                sender.send(batch, bytes).await
            })
            .await
    };
    let commit = async move {
        let mut pending = Vec::new();
        while let Some(batch) = receiver.recv().await {
            pending.push(batch.into_inner());
            if pending.len() == COMMIT_TASKS {
                table.upsert_all(std::mem::take(&mut pending)).await?;
            }
        }
        table.upsert_all(pending).await.map(drop)
    };
    // Two tasks: images are decoded while others are written.
    let (produced, committed) = tokio::join!(tokio::spawn(produce), tokio::spawn(commit));
    for outcome in [committed, produced] {
        outcome.map_err(|source| Error::internal("run the benchmark").with_source(source))??;
    }
    Ok(images)
}

fn process(paths: &[PathBuf], operator: &BoundOperator, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut input = LargeBinaryBuilder::new();
    let mut file = Vec::new();
    for path in paths {
        file.clear();
        File::open(path)?.read_to_end(&mut file)?;
        input.append_value(&file);
    }
    let input: ArrayRef = Arc::new(input.finish());
    let output = operator.worker()?.process(&Rows::new(&[input]))?;
    let names: StringArray = paths.iter().map(|path| Some(path.to_string_lossy())).collect();
    let mut columns: Vec<ArrayRef> = vec![Arc::new(names)];
    columns.extend(output.columns);
    RecordBatch::try_new(Arc::clone(schema), columns)
        .map_err(|source| Error::internal("build rows").with_source(source))
}
