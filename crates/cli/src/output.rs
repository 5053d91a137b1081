//! The only writer of standard output, which gets rows, and of standard error, which gets notes. It avoids the printing
//! macros, which panic when the other end is closed or full.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use cenote_runtime::arrow;
use cenote_runtime::{Error, Result};

use crate::arguments::OutputFormat;

/// Characters of a text in a table for people.
const TEXT_CHARS_MAX: usize = 80;

/// Whether standard output was found closed.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Writes a line for people to standard error, and ignores a failure: work goes on when standard error is closed.
pub fn note(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// A writer of rows to standard output, batch by batch.
pub struct Printer {
    kind: OutputFormat,
    schema: SchemaRef,
    /// The batches of a table, whose column widths need all rows; results shown to people are small.
    held: Vec<RecordBatch>,
    text_chars_max: usize,
    arrow: Option<arrow::ipc::writer::StreamWriter<std::io::Stdout>>,
    header: bool,
}

impl Printer {
    /// Makes a printer for batches of `schema`.
    pub fn new(kind: OutputFormat, schema: &SchemaRef) -> Result<Self> {
        let arrow = match kind {
            OutputFormat::Arrow => {
                let writer = arrow::ipc::writer::StreamWriter::try_new(std::io::stdout(), schema);
                Some(writer.map_err(print_error)?)
            }
            _ => None,
        };
        Ok(Self {
            kind,
            schema: Arc::clone(schema),
            held: Vec::new(),
            text_chars_max: TEXT_CHARS_MAX,
            arrow,
            header: true,
        })
    }

    /// Prints `batch`.
    pub fn print(&mut self, batch: &RecordBatch) -> Result<()> {
        match self.kind {
            OutputFormat::Table => self.held.push(for_people(batch, self.text_chars_max)?),
            OutputFormat::Arrow => {
                if let Some(writer) = &mut self.arrow {
                    writer.write(batch).map_err(print_error)?;
                }
            }
            OutputFormat::Json => {
                let mut lines = Vec::new();
                // Nulls are written, so that every line has the same fields.
                let mut writer = arrow::json::WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, arrow::json::writer::LineDelimited>(&mut lines);
                writer.write(batch).and_then(|()| writer.finish()).map_err(print_error)?;
                bytes(&lines)?;
            }
            OutputFormat::Csv => {
                let batch = for_csv(batch)?;
                let builder = arrow::csv::WriterBuilder::new().with_header(std::mem::take(&mut self.header));
                // Into memory first: an error of the writer would not tell that standard output is closed.
                let mut lines = Vec::new();
                builder.build(&mut lines).write(&batch).map_err(print_error)?;
                bytes(&lines)?;
            }
        }
        Ok(())
    }

    /// Ends the output.
    pub fn finish(mut self) -> Result<()> {
        match self.kind {
            OutputFormat::Table => {
                if self.held.is_empty() {
                    self.held.push(for_people(&RecordBatch::new_empty(Arc::clone(&self.schema)), self.text_chars_max)?);
                }
                let text = arrow::util::pretty::pretty_format_batches(&self.held).map_err(print_error)?;
                self::text(&text.to_string())
            }
            OutputFormat::Csv if self.header => self.print(&RecordBatch::new_empty(Arc::clone(&self.schema))),
            _ => match &mut self.arrow {
                Some(writer) => writer.finish().map_err(print_error),
                None => Ok(()),
            },
        }
    }
}

/// Prints one batch and ends the output.
pub fn rows(batch: &RecordBatch, kind: OutputFormat) -> Result<()> {
    let mut printer = Printer::new(kind, batch.schema_ref())?;
    printer.print(batch)?;
    printer.finish()
}

/// Prints one batch as [`rows`] does, with texts in full, because half a reason is of no use.
pub fn rows_in_full(batch: &RecordBatch, kind: OutputFormat) -> Result<()> {
    let mut printer = Printer { text_chars_max: usize::MAX, ..Printer::new(kind, batch.schema_ref())? };
    printer.print(batch)?;
    printer.finish()
}

/// Prints text to standard output.
pub fn text(text: &str) -> Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

fn bytes(bytes: &[u8]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(write_error)
}

/// Makes a batch of named columns.
pub fn listing(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).map_err(print_error)
}

/// Makes a column of texts.
pub fn texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

/// Makes a column of counts.
pub fn counts<T: Into<Option<u64>>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(values.map(Into::into).collect::<UInt64Array>())
}

/// Makes a column of numbers that need not be whole.
pub fn numbers(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

/// Writes a count with its noun: `1 row`, `2 rows`.
pub fn count(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Returns whether a write to standard output found it closed. The work ends then, and that is not an error.
pub fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

fn write_error(source: std::io::Error) -> Error {
    CLOSED.fetch_or(source.kind() == std::io::ErrorKind::BrokenPipe, Ordering::Relaxed);
    Error::from(source).context("write results")
}

fn print_error(source: arrow::error::ArrowError) -> Error {
    match source {
        arrow::error::ArrowError::IoError(_, io) => write_error(io),
        other => Error::internal(format!("write results: {other}")).with_source(other),
    }
}

fn replace(batch: &RecordBatch, shown: impl Fn(&ArrayRef) -> Result<Option<ArrayRef>>) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let column = shown(column)?.unwrap_or_else(|| Arc::clone(column));
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(print_error)
}

/// Shortens values for people: media to its size, vectors to their first numbers, texts to their first characters.
fn for_people(batch: &RecordBatch, text_chars_max: usize) -> Result<RecordBatch> {
    replace(batch, |column| {
        let texts: Vec<Option<String>> = match column.data_type() {
            DataType::Binary | DataType::LargeBinary => {
                let bytes = cast(column, &DataType::LargeBinary).map_err(print_error)?;
                bytes.as_binary::<i64>().iter().map(|value| value.map(|v| format!("<{} bytes>", v.len()))).collect()
            }
            DataType::FixedSizeList(item, _) if item.data_type() == &DataType::Float32 => {
                let vectors = column.as_fixed_size_list();
                let show = |row| {
                    let vector = vectors.value(row);
                    let head: Vec<String> = vector
                        .as_primitive::<Float32Type>()
                        .iter()
                        .take(3)
                        .map(|n| format!("{:.3}", n.unwrap_or(0.0)))
                        .collect();
                    format!("[{}, … {} numbers]", head.join(", "), vector.len())
                };
                (0..vectors.len()).map(|row| vectors.is_valid(row).then(|| show(row))).collect()
            }
            DataType::FixedSizeList(_, width) => {
                (0..column.len()).map(|row| column.is_valid(row).then(|| format!("<{width} values>"))).collect()
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let texts = cast(column, &DataType::Utf8).map_err(print_error)?;
                texts.as_string::<i32>().iter().map(|text| text.map(|text| shorten(text, text_chars_max))).collect()
            }
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(StringArray::from(texts))))
    })
}

/// Shortens `text` to one line of at most `chars_max` characters.
pub fn shorten(text: &str, chars_max: usize) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= chars_max {
        line
    } else {
        line.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect()
    }
}

/// Turns nested values into text, since CSV has none.
fn for_csv(batch: &RecordBatch) -> Result<RecordBatch> {
    replace(batch, |column| {
        if !column.data_type().is_nested() {
            return Ok(None);
        }
        let options = arrow::util::display::FormatOptions::default();
        let formatter =
            arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options).map_err(print_error)?;
        let text = |row| column.is_valid(row).then(|| formatter.value(row).to_string());
        Ok(Some(Arc::new((0..column.len()).map(text).collect::<StringArray>())))
    })
}
