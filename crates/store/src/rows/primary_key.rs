//! Primary keys: the columns they may have, how rows are told apart, and keys as filters.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{self, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use cenote_base::{Error, Result};
use lance::deps::datafusion::common::ScalarValue;
use lance::deps::datafusion::prelude::{Expr, col, lit};
use siphasher::sip128::SipHasher13;

use crate::errors::arrow_error;
use crate::rows::cast;
use crate::rows::column;
use crate::rows::filter::Filter;

/// Maximum bytes of one key: a key that the log could not hold must not reach the base.
const KEY_BYTES_MAX: usize = 1 << 30;
const KEY_POSITION: &str = "lance-schema:unenforced-primary-key:position";

/// The columns whose values identify a row: one or more, never null; integers, strings, binary, dates, timestamps, or
/// `FixedSizeBinary(16)` for UUIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryKey {
    schema: SchemaRef,
}

impl PrimaryKey {
    /// Makes the key over `columns` of `schema`.
    ///
    /// # Errors
    /// `InvalidInput` when no column is given, or one is repeated, unknown, nullable, or of a type that cannot be a
    /// key.
    pub fn new(schema: &Schema, columns: &[String]) -> Result<Self> {
        if columns.is_empty() {
            return Err(Error::invalid_input("a table needs a primary key: name one column or more"));
        }
        if let Some(column) = column::repeated(columns) {
            return Err(Error::invalid_input(format!("the primary key has column `{column}` twice: name it once")));
        }
        let fields = columns.iter().map(|name| {
            let (_, field) = schema
                .fields()
                .find(name)
                .ok_or_else(|| Error::invalid_input(format!("primary key column `{name}` is not in the schema")))?;
            if field.is_nullable() {
                return Err(Error::invalid_input(format!("primary key column `{name}` must not be nullable")));
            }
            if !is_key_type(field.data_type()) {
                return Err(Error::invalid_input(format!(
                    "primary key column `{name}` is {}; a key is an integer, string, binary, date, timestamp or UUID",
                    field.data_type()
                )));
            }
            Ok(Arc::new(Field::new(name, field.data_type().clone(), false)))
        });
        let schema = Arc::new(Schema::new(fields.collect::<Result<Vec<FieldRef>>>()?));
        Ok(Self { schema })
    }

    /// Returns the key that a stored schema records.
    pub(crate) fn of_stored(schema: &Schema) -> Result<Self> {
        let mut columns: Vec<(u32, FieldRef)> = schema
            .fields()
            .iter()
            .filter_map(|field| Some((field.metadata().get(KEY_POSITION)?.parse().ok()?, Arc::clone(field))))
            .collect();
        columns.sort_by_key(|(position, _)| *position);
        if columns.is_empty() {
            return Err(Error::corrupt("the dataset records no primary key: it was not made by Cenote"));
        }
        let names: Vec<String> = columns.into_iter().map(|(_, field)| field.name().clone()).collect();
        Self::new(schema, &names)
    }

    /// Marks the key's fields the way Lance records a primary key.
    pub(crate) fn annotate(&self, fields: impl Iterator<Item = FieldRef>) -> Vec<FieldRef> {
        let mark = |field: FieldRef| match self.schema.index_of(field.name()) {
            Ok(position) => {
                let metadata = HashMap::from([(KEY_POSITION.to_owned(), (position + 1).to_string())]);
                Arc::new(field.as_ref().clone().with_metadata(metadata))
            }
            Err(_) => field,
        };
        fields.map(mark).collect()
    }

    /// Returns the key's columns, in order, without metadata.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the names of the key's columns, in order.
    pub fn columns(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// Returns the key's columns of `batch`, cast to the key's types.
    ///
    /// # Errors
    /// `InvalidInput` when a column is missing, given twice, null or holds a value that the key's type cannot hold
    /// without loss: 1.9 does not name row 1.
    pub fn project(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().map(|field| {
            let fields = batch.schema_ref().fields();
            let mut given = fields.iter().zip(batch.columns()).filter(|(given, _)| given.name() == field.name());
            let (_, column) = given
                .next()
                .ok_or_else(|| Error::invalid_input(format!("primary key column `{}` is missing", field.name())))?;
            if given.next().is_some() {
                let what = format!("primary key column `{}` is given twice: give each column once", field.name());
                return Err(Error::invalid_input(what));
            }
            let column = cast::exact(column, field)?;
            if column.null_count() > 0 {
                return Err(Error::invalid_input(format!("primary key column `{}` holds a null", field.name())));
            }
            Ok(column)
        });
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<Vec<_>>>()?).map_err(arrow_error)
    }

    /// Parses keys from text: one key for each element of `rows`, with one text per key column.
    ///
    /// # Errors
    /// `InvalidInput` naming the text that is not a value of its column's type.
    pub fn parse(&self, rows: &[Vec<String>]) -> Result<RecordBatch> {
        let width = self.schema.fields().len();
        if let Some(row) = rows.iter().find(|row| row.len() != width) {
            let names = self.columns().join(", ");
            return Err(Error::invalid_input(format!("a key has {width} values ({names}), found {}", row.len())));
        }
        let columns = self.schema.fields().iter().enumerate().map(|(index, field)| {
            let texts: StringArray = rows.iter().map(|row| Some(row[index].as_str())).collect();
            let values = parse_texts(texts, field)?;
            match (0..values.len()).find(|&row| values.is_null(row)) {
                Some(row) => Err(Error::invalid_input(format!(
                    "`{}` is not a valid {} for key column `{}`",
                    rows[row][index],
                    field.data_type(),
                    field.name()
                ))),
                None => Ok(values),
            }
        });
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<Vec<_>>>()?).map_err(arrow_error)
    }

    /// Encodes each row of `keys` (this key's columns) as bytes that are equal for equal keys and sort as the keys do.
    pub fn encode(&self, keys: &RecordBatch) -> Result<Vec<OwnedRow>> {
        let fields = self.schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(arrow_error)?;
        let rows = converter.convert_columns(keys.columns()).map_err(arrow_error)?;
        Ok(rows.iter().map(|row| row.owned()).collect())
    }

    /// Hashes each row of `keys` (this key's columns) with SipHash-1-3 (Aumasson, Bernstein, 2012) to 128 bits under a
    /// secret, so that collisions need not be expected.
    pub(crate) fn hash(&self, keys: &RecordBatch, secret: (u64, u64)) -> Result<Vec<u128>> {
        let fields = self.schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(arrow_error)?;
        let rows = converter.convert_columns(keys.columns()).map_err(arrow_error)?;
        if let Some(row) = rows.iter().position(|row| row.as_ref().len() > KEY_BYTES_MAX) {
            return Err(Error::invalid_input(format!("the primary key of row {row} is longer than 1 GiB")));
        }
        let hash =
            |row: arrow::row::Row<'_>| SipHasher13::new_with_keys(secret.0, secret.1).hash(row.as_ref()).as_u128();
        Ok(rows.iter().map(hash).collect())
    }

    /// Returns `batch` with only the last row of each key, in the order of those rows.
    pub(crate) fn keep_last(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let keys = self.encode(&self.project(batch)?)?;
        let mut last: HashMap<&OwnedRow, u32> = HashMap::with_capacity(keys.len());
        for (row, key) in keys.iter().enumerate() {
            last.insert(key, row as u32);
        }
        if last.len() == keys.len() {
            return Ok(batch.clone());
        }
        let mut rows: Vec<u32> = last.into_values().collect();
        rows.sort_unstable();
        take_record_batch(batch, &UInt32Array::from(rows)).map_err(arrow_error)
    }

    /// Returns the filter that exactly the rows with one of `keys` (this key's columns) satisfy.
    pub fn filter(&self, keys: &RecordBatch) -> Result<Filter> {
        Ok(self.expression(keys)?.into())
    }

    fn expression(&self, keys: &RecordBatch) -> Result<Expr> {
        let value = |column: &ArrayRef, row| {
            ScalarValue::try_from_array(column, row)
                .map(lit)
                .map_err(|source| Error::internal("read key value").with_source(source))
        };
        if let [field] = self.schema.fields().as_ref() {
            let values = (0..keys.num_rows()).map(|row| value(keys.column(0), row)).collect::<Result<Vec<_>>>()?;
            return Ok(quoted(field.name()).in_list(values, false));
        }
        let mut any = lit(false);
        for row in 0..keys.num_rows() {
            let mut all = lit(true);
            for (field, column) in self.schema.fields().iter().zip(keys.columns()) {
                all = all.and(quoted(field.name()).eq(value(column, row)?));
            }
            any = any.or(all);
        }
        Ok(any)
    }
}

fn quoted(name: &str) -> Expr {
    col(lance::deps::datafusion::common::Column::from_name(name))
}

fn is_key_type(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::FixedSizeBinary(_)
                | DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(_, _)
        )
}

/// Parses texts as values of `field`. Binary is hexadecimal, and null where the text is not; a UUID may have hyphens.
fn parse_texts(texts: StringArray, field: &Field) -> Result<ArrayRef> {
    match field.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            let bytes: arrow::array::BinaryArray =
                texts.iter().map(|text| text.and_then(|text| parse_hex(&text.replace('-', "")))).collect();
            compute::cast(&bytes, field.data_type()).map_err(arrow_error)
        }
        _ => cast::exact(&(Arc::new(texts) as ArrayRef), field),
    }
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
