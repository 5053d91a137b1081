//! `cenote demo`: the whole path on real media, checked as it goes.

mod fetch;
mod sheet;
mod story;

use std::path::{Path, PathBuf};
use std::time::Instant;

use cenote_runtime::{ByteSize, Context, Error, Lake, Recipe, Result, RunReport};

use crate::arguments::Arguments;
use crate::commands::show_run;
use crate::{output, session};
use story::Story;

const RECIPE: &str = include_str!("../../../../examples/photos/recipe.yaml");
/// The demo's memory budget when none is given: it promises to stay inside.
const MEMORY_MAX: ByteSize = ByteSize::mib(1024);

pub async fn run(arguments: &Arguments, directory: Option<PathBuf>) -> Result<()> {
    let progress = session::reporter(arguments);
    let mut options = session::options(arguments);
    options.memory_max = options.memory_max.or(Some(MEMORY_MAX));
    let cache = cenote_runtime::models::default_cache_dir()?;
    let directory = directory.unwrap_or_else(|| cache.join("demo"));
    fresh(&directory)?;
    heading("Fetch photographs, documents and clips");
    let media = {
        let (cache, directory, progress) = (cache.clone(), directory.clone(), progress.clone());
        tokio::task::spawn_blocking(move || fetch::lay_out(&cache, &directory, progress.as_ref()))
            .await
            .map_err(|source| Error::internal("fetch media").with_source(source))??
    };
    // Keys are paths as given: from here on they are short ones.
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
    show_run(&first);
    heading("Three questions");
    let before = story.ask().await?;
    story.sheet(&before, Path::new("contact-sheet-before.png")).await?;

    heading("Change three rows, delete two, add five; run the same recipe again");
    story.change().await?;
    let second = story.run().await?;
    show_run(&second);
    story.check_work(&second)?;
    heading("The same questions");
    let after = story.ask().await?;
    story.sheet(&after, Path::new("contact-sheet.png")).await?;
    story.check_answers(&before, &after)?;
    let third = story.run().await?;
    check_idle(&third)?;

    heading("Done");
    output::text(&format!("contact sheet   {}", directory.join("contact-sheet.png").display()))?;
    output::text(&format!("lake            {}", directory.join("lake").display()))?;
    output::text(&format!("time            {:.1} s", start.elapsed().as_secs_f64()))?;
    if let Some(peak) = peak_memory() {
        output::text(&format!("peak memory     {peak}"))?;
    }
    Ok(())
}

fn heading(text: &str) {
    output::note(&format!("\n== {text}"));
}

/// An empty directory. One that holds something else than a demo is left alone.
fn fresh(directory: &Path) -> Result<()> {
    if directory.exists() {
        let is_demo = directory.join("lake").exists() || directory.join("photos").exists();
        let is_empty = directory.read_dir().context(|| format!("list {}", directory.display()))?.next().is_none();
        if !is_demo && !is_empty {
            return Err(Error::invalid_input(format!(
                "{} holds other files: name an empty directory",
                directory.display()
            )));
        }
        std::fs::remove_dir_all(directory).context(|| format!("empty {}", directory.display()))?;
    }
    std::fs::create_dir_all(directory).context(|| format!("make directory {}", directory.display()))
}

fn check_idle(report: &RunReport) -> Result<()> {
    match report.steps.iter().find(|step| step.rows_processed > 0) {
        Some(step) => Err(Error::internal(format!(
            "nothing changed, and `{}` worked on {} rows",
            step.operator, step.rows_processed
        ))),
        None => Ok(()),
    }
}

/// The most memory this process ever had resident, as the kernel saw it.
fn peak_memory() -> Option<ByteSize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| ByteSize(kib << 10))
}
