//! What the command line takes.

use std::path::PathBuf;

use cenote_runtime::ByteSize;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

/// A multimodal data lake: ingest media, derive columns by recipes, search and query.
#[derive(Debug, Parser)]
#[command(name = "cenote", version, propagate_version = true)]
pub struct Arguments {
    /// The lake: a directory, or a URI such as s3://bucket/lake.
    #[arg(long, global = true, env = "CENOTE_LAKE", default_value = "./lake", value_name = "PLACE")]
    pub lake: PathBuf,
    /// Memory budget, such as `1 GiB`; by default a quarter of the machine's, at most 4 GiB.
    #[arg(long, global = true, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Of a lake in an object store, so much is kept on the local disk, such as `20 GiB`; by default 4 GiB, and nothing with 0.
    #[arg(long, global = true, value_name = "SIZE")]
    pub cache: Option<ByteSize>,
    /// CPU cores for operators; by default all.
    #[arg(long, global = true, value_name = "CORES")]
    pub cpus: Option<f32>,
    /// Answer Prometheus at this address, such as 127.0.0.1:9464, while the command runs.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Show no progress.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Show what caused an error.
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an empty lake.
    Init,
    /// Put files, and the files under directories, into a table; unchanged files are passed over.
    Ingest {
        /// The table; made if it is not there.
        table: String,
        /// Files and directories.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Run a recipe: do what is not done yet.
    Run {
        /// A YAML file.
        recipe: PathBuf,
        /// Process at most N rows of each step and write nothing.
        #[arg(long, value_name = "N")]
        dry_run: Option<usize>,
        /// Process rows again that failed before.
        #[arg(long)]
        retry_errors: bool,
        /// Where operators run that a GPU can do a part of.
        #[arg(long, value_enum, default_value = "auto")]
        device: DeviceArgument,
        /// Write a timeline of what ran where, in Chrome's trace format: open it in a browser's tracing page or Perfetto.
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
    },
    /// Answer a SQL query.
    Sql {
        /// The query.
        query: String,
        #[command(flatten)]
        output: Format,
    },
    /// Find rows by words, by a picture, or by both.
    #[command(group(ArgGroup::new("wanted").args(["text", "image"]).required(true).multiple(true)))]
    Search {
        /// The table.
        table: String,
        /// Words: found by a full-text index, by meaning through a vector column, or by both fused.
        ///
        /// A full-text index also reads "a phrase", colour~1 (a word in which so many letters differ; ~ alone: as many as fit
        /// its length), AND, OR, NOT, +must, -mustnot and parentheses; a backslash takes a character as it is. Without any of these a
        /// row needs one of the words.
        #[arg(long, value_name = "WORDS")]
        text: Option<String>,
        /// A picture file: found through a vector column.
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// The vector column; needed only when there are several.
        #[arg(long)]
        column: Option<String>,
        /// Only rows that satisfy this SQL predicate.
        #[arg(long, value_name = "PREDICATE")]
        r#where: Option<String>,
        /// How many rows.
        #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        k: u32,
        #[command(flatten)]
        output: Format,
    },
    /// Show rows by key.
    Get {
        /// The table.
        table: String,
        /// The key's values, in order.
        #[arg(required = true)]
        key: Vec<String>,
        #[command(flatten)]
        output: Format,
    },
    /// Delete rows by key.
    Delete {
        /// The table.
        table: String,
        /// Keys; for a key of several columns, a row is one key's values joined by commas.
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// List the tables.
    Tables {
        #[command(flatten)]
        output: Format,
    },
    /// Show a table's columns, key, and how its columns are derived.
    Describe {
        /// The table.
        table: String,
        #[command(flatten)]
        output: Format,
    },
    /// Print what happened to a table's rows, one JSON object a line: operation, key, before, after, version and time.
    Changes {
        /// The table.
        table: String,
        /// After this version; by default from where the consumer stands, or the oldest that can be read.
        #[arg(long, value_name = "VERSION")]
        from: Option<u64>,
        /// Go on printing what comes, until Ctrl-C.
        #[arg(long)]
        follow: bool,
        /// Remember under this name what was printed, and go on from there next time. It keeps the changes it has not read.
        #[arg(long, value_name = "NAME")]
        consumer: Option<String>,
    },
    /// Fold recent writes into the base, join small files, bring indexes up to date and remove the past beyond retention.
    Compact {
        /// The table; by default all.
        table: Option<String>,
        /// Leave nothing of deleted and replaced rows, nor of the past, but what tags, consumers and readers hold.
        #[arg(long)]
        purge: bool,
        /// Look after the lake until Ctrl-C: every so many seconds, do the upkeep that is due. Who writes does so too.
        #[arg(long, value_name = "SECONDS", conflicts_with_all = ["purge", "table"],
              value_parser = clap::value_parser!(u64).range(1..))]
        every: Option<u64>,
    },
    /// Show rows, versions, bytes, indexes with their lateness, and errors of every table.
    Status {
        #[command(flatten)]
        output: Format,
    },
    /// Watch the processes that work on a lake on this machine: stages, rates, memory, and what waits for what.
    Top {
        /// Look once.
        #[arg(long)]
        once: bool,
    },
    /// Show the rows of a table that could not be processed.
    Errors {
        /// The table.
        table: String,
        #[command(flatten)]
        output: Format,
    },
    /// Make, list, drop, tune and update indexes.
    #[command(subcommand)]
    Index(IndexCommand),
    /// List the operators.
    Operators {
        #[command(flatten)]
        output: Format,
    },
    /// List the models.
    Models {
        #[command(flatten)]
        output: Format,
    },
    /// Run the whole path on real media: ingest, derive, index, search, change, derive again.
    Demo {
        /// Where the demo works; its lake and pictures stay there. By default under the cache directory.
        #[arg(long = "dir", alias = "directory", value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// What to do with indexes.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Build an index.
    Create {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What it finds, and how it is kept: vector (ivf_flat, ivf_pq, ivf_sq, ivf_rq, ivf_hnsw_sq, ivf_hnsw_pq on disk, hnsw
        /// in memory), text, or scalar (btree, bitmap, label_list, zonemap, bloom_filter, ngram).
        #[arg(long)]
        kind: String,
        /// Its name; by default made from column and kind.
        #[arg(long)]
        name: Option<String>,
        /// How far two vectors are from each other: l2 (the default), cosine, dot, or hamming for packed bits.
        #[arg(long)]
        metric: Option<String>,
        /// An option of the kind, such as partitions=64, m=16 or language=German.
        #[arg(long, value_name = "OPTION=VALUE", value_parser = option)]
        with: Vec<(String, String)>,
        /// Where the centres of partitions of a vector index on disk are learned.
        #[arg(long, value_enum, default_value = "cpu")]
        device: DeviceArgument,
    },
    /// List a table's indexes.
    List {
        /// The table.
        table: String,
        #[command(flatten)]
        output: Format,
    },
    /// Drop an index.
    Drop {
        /// The table.
        table: String,
        /// The index's name, as `index list` shows it.
        name: String,
    },
    /// Measure a vector index against exact search, and keep the quickest settings that find enough.
    Tune {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The share of the nearest 10 rows that is to be found.
        #[arg(long, default_value_t = 0.95)]
        recall: f64,
        /// The metric of the index, if the column has several.
        #[arg(long)]
        metric: Option<String>,
        #[command(flatten)]
        output: Format,
    },
    /// Bring a table's indexes up to date.
    Optimize {
        /// The table.
        table: String,
    },
}

fn option(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').ok_or("an option is written as NAME=VALUE")?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t = FormatKind::Table)]
    pub format: FormatKind,
}

/// Where kernels of operators run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArgument {
    /// Where a batch ends first, by measured rate and queue; on the CPU where there is no GPU.
    Auto,
    /// On the CPU.
    Cpu,
    /// On the GPU; an error where there is none.
    Gpu,
    /// On Mesa's software Vulkan, to try out what a GPU would do.
    Software,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatKind {
    /// For people: vectors and media are shortened.
    Table,
    /// One JSON object a line; media in hexadecimal.
    Json,
    /// Comma-separated with a header; media in hexadecimal, lists as JSON.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}
