//! `cenote demo`: everything that Cenote does, on real media and checked as it goes.
//!
//! This part does not know the other commands; it uses the facade as they do.

mod fetch;
mod sheet;
mod story;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cenote_runtime::{ByteSize, Context, Error, Lake, Recipe, Result, RunReport};

use crate::arguments::Arguments;
use crate::{memory, output, report, session};
use story::Story;

const RECIPE: &str = include_str!("../../../../examples/photos/recipe.yaml");
/// The demo's memory budget by default, which it promises to keep.
const MEMORY_MAX: ByteSize = ByteSize::mib(1024);
/// The time that the demo promises to take once everything is fetched.
const TIME_MAX: Duration = Duration::from_secs(120);
/// The file that marks a directory as the demo's.
const MARKER: &str = ".cenote-demo";

pub async fn run(arguments: &Arguments, directory: Option<PathBuf>) -> Result<()> {
    let progress = session::reporter(arguments);
    let mut options = session::options(arguments);
    let memory_max = MEMORY_MAX.max(*options.memory_max.get_or_insert(MEMORY_MAX));
    let cache = cenote_runtime::models::default_cache_dir()?;
    let is_ours = directory.is_none();
    let directory = std::path::absolute(directory.unwrap_or_else(|| cache.join("demo")))
        .context(|| "find the directory of the demo")?;
    fresh(&directory, is_ours)?;
    heading("Fetch photographs, documents and clips");
    let media = {
        let (cache, directory, progress) = (cache.clone(), directory.clone(), progress.clone());
        tokio::task::spawn_blocking(move || fetch::lay_out(&cache, &directory, progress.as_ref()))
            .await
            .map_err(|source| Error::internal("fetch media").with_source(source))??
    };
    // Keys are paths as given; relative to this directory they are short.
    std::env::set_current_dir(&directory).context(|| format!("enter {}", directory.display()))?;
    Lake::init("lake").await?;
    let lake = Lake::open("lake", options).await?;
    heading("Fetch models, once");
    story::warm_up(&lake).await?;

    let start = Instant::now();
    let recipe = Recipe::from_yaml(RECIPE, "examples/photos/recipe.yaml")?;
    let story = Story::new(lake, recipe, session::run_options(progress.clone()), progress);
    story.begin(&media).await?;
    heading("Ingest, derive, index");
    let first = story.run().await?;
    report::run(&first);
    heading("Three questions");
    let before = story.ask().await?;
    story.sheet("Before the change", &before, Path::new("contact-sheet-before.png")).await?;

    heading("Change three rows, delete two, add five; run the same recipe again");
    story.change().await?;
    let second = story.run().await?;
    report::run(&second);
    story.check_work(&second)?;
    heading("The same questions");
    let after = story.ask().await?;
    story.sheet("After three rows changed, two went and five came", &after, Path::new("contact-sheet.png")).await?;
    story.check_answers(&before, &after)?;
    let third = story.run().await?;
    check_idle(&third)?;

    heading("Done");
    let time = start.elapsed();
    output::text(&format!("contact sheet   {}", directory.join("contact-sheet.png").display()))?;
    output::text(&format!("lake            {}", directory.join("lake").display()))?;
    output::text(&format!("time            {:.1} s", time.as_secs_f64()))?;
    if time > TIME_MAX {
        // A slow machine does not make the answers wrong.
        output::note(&format!("that is more than the {} s it should take", TIME_MAX.as_secs()));
    }
    match memory::peak() {
        Some(peak) if peak > memory_max => {
            Err(Error::resource_exhausted(format!("the demo held {peak} of memory; {memory_max} were allowed")))
        }
        Some(peak) => output::text(&format!("peak memory     {peak}")),
        None => Ok(()),
    }
}

fn heading(text: &str) {
    output::note(&format!("\n== {text}"));
}

/// Prepares `directory` for the demo, and marks it. The files of others stay: a directory that has files but no marker
/// is refused, and otherwise only what a demo makes is removed. A directory that `is_ours`, in the cache, needs no
/// marker.
fn fresh(directory: &Path, is_ours: bool) -> Result<()> {
    std::fs::create_dir_all(directory).context(|| format!("make directory {}", directory.display()))?;
    let marker = directory.join(MARKER);
    let listing = |error| Error::from(error).context(format!("list {}", directory.display()));
    let is_empty = directory.read_dir().map_err(listing)?.next().is_none();
    if !is_ours && !is_empty && !marker.exists() {
        return Err(Error::invalid_input(format!(
            "{} holds other files: name a directory that is empty or does not exist",
            directory.display()
        )));
    }
    let made = fetch::PLACES.iter().chain(&["lake", "aside", "contact-sheet-before.png", "contact-sheet.png"]);
    for path in made.map(|name| directory.join(name)).filter(|path| path.exists()) {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.context(|| format!("remove {}", path.display()))?;
    }
    std::fs::write(&marker, "").context(|| format!("write {}", marker.display()))
}

fn check_idle(report: &RunReport) -> Result<()> {
    match report.steps.iter().find(|step| step.rows_processed > 0) {
        Some(step) => Err(Error::internal(format!(
            "nothing changed, but `{}` processed {} rows",
            step.operator, step.rows_processed
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_with_files_of_others_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let keep = home.path().join("photos/holiday.jpg");
        std::fs::create_dir(home.path().join("photos")).unwrap();
        std::fs::write(&keep, "mine").unwrap();
        let error = fresh(home.path(), false).unwrap_err();
        assert!(error.message().contains("holds other files"), "{error}");
        assert!(keep.exists());
    }

    #[test]
    fn a_second_demo_removes_only_what_the_first_one_made() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("new");
        fresh(&directory, false).unwrap();
        std::fs::create_dir(directory.join("lake")).unwrap();
        std::fs::write(directory.join("contact-sheet.png"), "old").unwrap();
        std::fs::write(directory.join("notes.txt"), "mine").unwrap();
        fresh(&directory, false).unwrap();
        let mut left: Vec<_> = directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [MARKER, "notes.txt"]);
    }
}
