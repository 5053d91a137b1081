//! The only place that prints: rows to standard output, notes to standard error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error as _;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use cenote_runtime::arrow;
use cenote_runtime::{Error, Result};

use crate::arguments::FormatKind;

const TEXT_CHARS_MAX: usize = 80;

/// A line for the person, on standard error.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// Prints rows as they come.
pub struct Printer {
    kind: FormatKind,
    schema: SchemaRef,
    /// The table format needs all rows for its column widths; results shown to a person are small.
    held: Vec<RecordBatch>,
    arrow: Option<arrow::ipc::writer::StreamWriter<std::io::Stdout>>,
    header: bool,
}

impl Printer {
    /// A printer for batches of `schema`.
    pub fn new(kind: FormatKind, schema: &SchemaRef) -> Result<Self> {
        let arrow = match kind {
            FormatKind::Arrow => {
                let writer = arrow::ipc::writer::StreamWriter::try_new(std::io::stdout(), schema);
                Some(writer.map_err(print_error)?)
            }
            _ => None,
        };
        Ok(Self { kind, schema: Arc::clone(schema), held: Vec::new(), arrow, header: true })
    }

    /// Prints `batch`.
    pub fn print(&mut self, batch: &RecordBatch) -> Result<()> {
        match self.kind {
            FormatKind::Table => self.held.push(for_people(batch)?),
            FormatKind::Arrow => {
                if let Some(writer) = &mut self.arrow {
                    writer.write(batch).map_err(print_error)?;
                }
            }
            FormatKind::Json => {
                let mut writer = arrow::json::LineDelimitedWriter::new(std::io::stdout().lock());
                writer.write(batch).map_err(print_error)?;
                writer.finish().map_err(print_error)?;
            }
            FormatKind::Csv => {
                let batch = for_csv(batch)?;
                let builder = arrow::csv::WriterBuilder::new().with_header(std::mem::take(&mut self.header));
                builder.build(std::io::stdout().lock()).write(&batch).map_err(print_error)?;
            }
        }
        Ok(())
    }

    /// Ends the output.
    pub fn finish(mut self) -> Result<()> {
        match self.kind {
            FormatKind::Table => {
                if self.held.is_empty() {
                    self.held.push(for_people(&RecordBatch::new_empty(Arc::clone(&self.schema)))?);
                }
                let text = arrow::util::pretty::pretty_format_batches(&self.held).map_err(print_error)?;
                writeln!(std::io::stdout().lock(), "{text}").map_err(Error::from)
            }
            FormatKind::Csv if self.header => self.print(&RecordBatch::new_empty(Arc::clone(&self.schema))),
            _ => match &mut self.arrow {
                Some(writer) => writer.finish().map_err(print_error),
                None => Ok(()),
            },
        }
    }
}

/// Prints one batch whole.
pub fn rows(batch: &RecordBatch, kind: FormatKind) -> Result<()> {
    let mut printer = Printer::new(kind, batch.schema_ref())?;
    printer.print(batch)?;
    printer.finish()
}

/// Prints text to standard output.
pub fn text(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Error::from)
}

/// A batch of text columns from rows of texts, for the listings.
pub fn listing(columns: &[&str], rows: &[Vec<String>]) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    let column = |at: usize| Arc::new(rows.iter().map(|row| row.get(at)).collect::<StringArray>()) as ArrayRef;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), (0..columns.len()).map(column).collect()).map_err(print_error)
}

/// Whether the reader of our output went away.
pub fn is_broken_pipe(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe) {
            return true;
        }
        source = cause.source();
    }
    false
}

fn print_error(source: arrow::error::ArrowError) -> Error {
    match source {
        arrow::error::ArrowError::IoError(_, io) => Error::from(io).context("write results"),
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

/// Media as its size, vectors as their first numbers, long text cut.
fn for_people(batch: &RecordBatch) -> Result<RecordBatch> {
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
                texts.as_string::<i32>().iter().map(|text| text.map(shorten)).collect()
            }
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(StringArray::from(texts))))
    })
}

/// The text in one line, cut at a length that fits a terminal.
pub fn shorten(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= TEXT_CHARS_MAX {
        line
    } else {
        line.chars().take(TEXT_CHARS_MAX - 1).chain(['…']).collect()
    }
}

/// CSV has no lists and no bytes: they become text.
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
