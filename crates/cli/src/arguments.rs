//! The arguments of the command line.

use std::path::PathBuf;

use cenote_runtime::{ByteSize, LakeOptions};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

/// A multimodal data lake: ingest media, derive columns by recipes, search and query.
#[derive(Debug, Parser)]
#[command(name = "cenote", version, propagate_version = true)]
pub struct Arguments {
    /// The lake: a directory, or a URI such as s3://bucket/lake
    #[arg(long, global = true, env = "CENOTE_LAKE", default_value = "./lake", value_name = "PLACE")]
    pub lake: PathBuf,
    /// Memory budget, such as `1 GiB` [default: a quarter of the machine's memory, at most 4 GiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<ByteSize>,
    /// Local disk cache of a lake in an object store, such as `20 GiB`; 0 caches nothing [default: 4 GiB]
    #[arg(long, global = true, value_name = "SIZE")]
    pub cache: Option<ByteSize>,
    /// CPU cores for operators [default: all]
    #[arg(long, global = true, value_name = "CORES", value_parser = cpus)]
    pub cpus: Option<f32>,
    /// Serve metrics to Prometheus at this address, such as 127.0.0.1:9464, while the command runs
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Hide progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Show the causes of an error
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an empty lake
    Init,
    /// Write files, and the files under directories, to a table; unchanged files are skipped
    Ingest {
        /// The table; created if it does not exist
        table: String,
        /// Files and directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Run a recipe: process the rows that are stale
    Run {
        /// A YAML file
        recipe: PathBuf,
        /// Process at most N rows of each step, and write nothing
        #[arg(long, value_name = "N")]
        dry_run: Option<usize>,
        /// Retry rows that failed before
        #[arg(long)]
        retry_errors: bool,
        /// Device for operators whose kernels a GPU can run
        #[arg(long, value_enum, default_value = "auto")]
        device: DeviceArgument,
        /// Write a timeline of the run in Chrome's trace format, for Perfetto or a browser's tracing page
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
    },
    /// Run a SQL query
    Sql {
        /// The query
        query: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Find rows by words, by a picture, or by both
    #[command(group(ArgGroup::new("wanted").args(["text", "image"]).required(true).multiple(true)))]
    Search {
        /// The table
        table: String,
        /// Words to find: through a full-text index, by meaning through a vector column, or by both fused
        ///
        /// With a full-text index, a row needs one of the words. The index also understands "a phrase", colour~1 (a
        /// word that differs by at most 1 letter; with ~ alone, by a number of letters that fits its length), AND, OR,
        /// NOT, +must, -mustnot and parentheses; a backslash takes the next character literally.
        #[arg(long, value_name = "WORDS")]
        text: Option<String>,
        /// A picture file to find similar pictures to, through a vector column
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// The vector column; needed only when there are several
        #[arg(long)]
        column: Option<String>,
        /// Find only rows that satisfy this SQL predicate
        #[arg(long, value_name = "PREDICATE")]
        r#where: Option<String>,
        /// Number of rows
        #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        k: u32,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show a row by key
    Get {
        /// The table
        table: String,
        /// The values of the key's columns, in order
        #[arg(required = true)]
        key: Vec<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Delete rows by key
    Delete {
        /// The table
        table: String,
        /// Keys; the values of a key of several columns are joined by commas
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// List the tables
    Tables {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show a table's columns, its key, and how columns are derived
    Describe {
        /// The table
        table: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Print the changes of a table's rows as JSON lines: operation, key, before, after, version and time
    Changes {
        /// The table
        table: String,
        /// Print changes after this version [default: the consumer's, or the oldest that can be read]
        #[arg(long, value_name = "VERSION")]
        from: Option<u64>,
        /// Keep printing new changes until Ctrl-C
        #[arg(long)]
        follow: bool,
        /// Record under this name what was printed, and resume there next time; unread changes are kept
        #[arg(long, value_name = "NAME")]
        consumer: Option<String>,
    },
    /// Fold recent writes into the base, join small files, update indexes, and remove the past beyond retention
    Compact {
        /// The table [default: all]
        table: Option<String>,
        /// Remove all of the past and of deleted rows, except what tags, consumers and readers hold
        #[arg(long)]
        purge: bool,
        /// Do the upkeep that is due every SECONDS until Ctrl-C, for a lake that other processes write
        #[arg(long, value_name = "SECONDS", conflicts_with_all = ["purge", "table"],
              value_parser = clap::value_parser!(u64).range(1..))]
        every: Option<u64>,
    },
    /// Show rows, versions, bytes, indexes with their lag, and errors of every table
    Status {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Watch the processes that work on a lake on this machine: stages, rates, memory, and waiting tasks
    Top {
        /// Print one page and exit
        #[arg(long)]
        once: bool,
    },
    /// Show the rows of a table that could not be processed
    Errors {
        /// The table
        table: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Create, list, drop, tune and update indexes
    #[command(subcommand)]
    Index(IndexCommand),
    /// List the operators
    Operators {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// List the models
    Models {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Try everything on real media: ingest, derive, index, search, change, derive again
    Demo {
        /// Directory for the demo's lake and pictures, which stay there [default: in the cache directory]
        #[arg(long = "dir", alias = "directory", value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The commands on indexes.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Build an index
    Create {
        /// The table
        table: String,
        /// The column
        column: String,
        /// The kind: vector, text or scalar, or one of their structures
        ///
        /// Vectors: ivf_flat, ivf_pq, ivf_sq, ivf_rq, ivf_hnsw_sq and ivf_hnsw_pq on disk, hnsw in memory. Scalars:
        /// btree, bitmap, label_list, zonemap, bloom_filter, ngram.
        #[arg(long)]
        kind: String,
        /// The index's name [default: made from column and kind]
        #[arg(long)]
        name: Option<String>,
        /// The distance of vectors: l2, cosine, dot, or hamming for packed bits [default: l2]
        #[arg(long)]
        metric: Option<String>,
        /// An option of the kind, such as partitions=64, m=16 or language=German
        #[arg(long, value_name = "OPTION=VALUE", value_parser = option)]
        with: Vec<(String, String)>,
        /// Device for learning the partitions of a vector index on disk
        #[arg(long, value_enum, default_value = "cpu")]
        device: DeviceArgument,
    },
    /// List a table's indexes
    List {
        /// The table
        table: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Drop an index
    Drop {
        /// The table
        table: String,
        /// The index's name, as `index list` shows it
        name: String,
    },
    /// Measure a vector index against exact search, and keep the fastest settings that reach a recall
    Tune {
        /// The table
        table: String,
        /// The column
        column: String,
        /// The recall: the share of the nearest 10 rows to be found
        #[arg(long, default_value_t = 0.95)]
        recall: f64,
        /// The metric of the index, if the column has several
        #[arg(long)]
        metric: Option<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Bring a table's indexes up to date
    Optimize {
        /// The table
        table: String,
    },
}

/// Reads a memory budget. Commands that open no lake refuse a wrong one, too.
fn memory(text: &str) -> Result<ByteSize, String> {
    let (bytes, least) = (text.parse::<ByteSize>().map_err(|error| error.to_string())?, LakeOptions::MEMORY_MIN);
    if bytes < least { Err(format!("it must be {least} or more")) } else { Ok(bytes) }
}

/// Reads a number of CPU cores.
fn cpus(text: &str) -> Result<f32, String> {
    let (least, most) = LakeOptions::CPUS.into_inner();
    let cores = text.parse().ok().filter(|cores| (least..=most).contains(cores));
    cores.ok_or_else(|| format!("it must be a number from {least} to {most}"))
}

/// Reads an option of an index.
fn option(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').ok_or("an option is written OPTION=VALUE")?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

/// The output format of a command that prints rows.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArguments {
    /// Output format
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub format: OutputFormat,
}

/// The devices for kernels of operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArgument {
    /// The GPU or the CPU, whichever is expected to finish a batch first; the CPU without a GPU
    Auto,
    /// The CPU
    Cpu,
    /// The GPU; an error without one
    Gpu,
    /// Mesa's software Vulkan, to try out what a GPU would do
    Software,
}

/// The output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// A table for people, with vectors and media shortened
    Table,
    /// One JSON object a line; media in hexadecimal
    Json,
    /// Comma-separated values with a header; media in hexadecimal, lists as text
    Csv,
    /// An Arrow IPC stream
    Arrow,
}
