//! The commands, one per file; listings that only print what the facade returns share `list.rs`.
//!
//! This part does not know how rows are printed, how progress is shown, or how a run is stopped.

mod changes;
mod index;
mod ingest;
mod list;
mod recipe;
mod rows;
mod search;
mod sql;
mod top;
mod upkeep;

use cenote_runtime::{Lake, Result};
use clap::CommandFactory;

use crate::arguments::{Arguments, Command};
use crate::{demo, output, session};

/// Runs the command that `arguments` name.
pub async fn run(arguments: Arguments) -> Result<()> {
    match &arguments.command {
        Command::Init => {
            Lake::init(&arguments.lake).await?;
            output::note(&format!("made an empty lake in {}", arguments.lake.display()));
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "cenote", &mut script);
            output::text(&String::from_utf8_lossy(&script))
        }
        Command::Demo { directory } => demo::run(&arguments, directory.clone()).await,
        Command::Operators { output } => list::operators(output.format),
        Command::Models { output } => list::models(output.format),
        Command::Ingest { table, paths } => ingest::run(&arguments, table, paths).await,
        Command::Run { recipe, dry_run, retry_errors, trace, .. } => {
            recipe::run(&arguments, recipe, *dry_run, *retry_errors, trace.as_deref()).await
        }
        Command::Top { once } => top::run(*once).await,
        _ => session::with_lake(&arguments, async |lake| on_lake(lake, &arguments).await).await,
    }
}

async fn on_lake(lake: &Lake, arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Sql { query, output } => sql::run(lake, query, output.format).await,
        Command::Search { table, text, image, column, r#where, k, output } => {
            let wanted = search::SearchArguments {
                text: text.as_deref(),
                image: image.as_deref(),
                column: column.as_deref(),
                filter: r#where.as_deref(),
                k: *k as usize,
            };
            search::run(lake, table, wanted, output.format).await
        }
        Command::Get { table, key, output } => rows::get(lake, table, key, output.format).await,
        Command::Delete { table, keys } => rows::delete(lake, table, keys).await,
        Command::Tables { output } => list::tables(lake, output.format).await,
        Command::Describe { table, output } => list::describe(lake, table, output.format).await,
        Command::Status { output } => list::status(lake, output.format).await,
        Command::Errors { table, output } => {
            let errors = lake.errors(table).await?;
            output::rows_in_full(&errors, output.format)
        }
        Command::Changes { table, from, follow, consumer } => {
            changes::run(lake, table, *from, *follow, consumer.as_deref()).await
        }
        Command::Compact { table, purge, every } => upkeep::run(lake, table.as_deref(), *purge, *every).await,
        Command::Index(command) => index::run(lake, command, &session::patient_reporter(arguments)).await,
        Command::Init
        | Command::Completions { .. }
        | Command::Demo { .. }
        | Command::Operators { .. }
        | Command::Models { .. }
        | Command::Ingest { .. }
        | Command::Run { .. }
        | Command::Top { .. } => Ok(()),
    }
}
