//! The measured side of the benchmarks that work on a lake. It is one binary, because each would link all of Lance:
//! `bench_lake beside|image|lookup|search|text|upsert ARGUMENTS…` prints one JSON line.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

mod beside;
mod image;
mod lookup;
mod search;
mod text;
mod upsert;

use std::path::Path;

use cenote_runtime::arrow::error::ArrowError;
use cenote_runtime::{Error, Lake, LakeOptions, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::invalid_input("usage: bench_lake beside|image|lookup|search|text|upsert ARGUMENTS…");
    let (benchmark, arguments) = arguments.split_first().ok_or_else(usage)?;
    let report = match benchmark.as_str() {
        "beside" => beside::measure(arguments).await?,
        "image" => image::measure(arguments).await?,
        "lookup" => lookup::measure(arguments).await?,
        "search" => search::measure(arguments).await?,
        "text" => text::measure(arguments).await?,
        "upsert" => upsert::measure(arguments).await?,
        _ => return Err(usage()),
    };
    println!("{report}");
    Ok(())
}

/// Creates and opens an empty lake.
async fn new_lake(directory: &Path) -> Result<Lake> {
    Lake::init(directory).await?;
    Lake::open(directory, LakeOptions::default()).await
}

fn no_rows(source: ArrowError) -> Error {
    Error::internal("build rows").with_source(source)
}
