//! What the buffers of rows hold beside the rows: the rest of a larger batch, and values that nulls hide.
//!
//! Arrow allows any value under a null. Readers do not agree whether the field of a null struct, or an entry of a null
//! list or map, is that value or null. So rows in memory are canonical: nothing is under a null struct, list or map.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, MutableArrayData, OffsetSizeTrait,
    RecordBatch, RecordBatchOptions, StructArray, make_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use cenote_base::Result;

use crate::errors::arrow_error;

/// Copies the columns of `batch` whose buffers are more than twice as large as needed. Otherwise the last rows of a
/// page would hold all of it, and accounting for batches one by one would count the page once for each.
pub(crate) fn compact(batch: RecordBatch) -> Result<RecordBatch> {
    with_columns(&batch, |column| {
        let needed = column.to_data().get_slice_memory_size().unwrap_or(usize::MAX);
        Ok(if column.get_buffer_memory_size() / 2 <= needed { Arc::clone(column) } else { copied(column) })
    })
}

/// Copies `batch`. Columns that come from another library share one owner, so that a single one holds them all.
pub(crate) fn owned(batch: &RecordBatch) -> Result<RecordBatch> {
    with_columns(batch, |column| Ok(copied(column)))
}

/// Makes nulls of what is under a null struct, and nothing of what is in a null list or map.
pub(crate) fn canonical(batch: RecordBatch) -> Result<RecordBatch> {
    if batch.columns().iter().all(|column| !column.data_type().is_nested()) {
        return Ok(batch);
    }
    with_columns(&batch, shown)
}

fn with_columns(
    batch: &RecordBatch,
    change: impl Fn(&ArrayRef) -> std::result::Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch> {
    let columns =
        batch.columns().iter().map(change).collect::<std::result::Result<Vec<_>, _>>().map_err(arrow_error)?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).map_err(arrow_error)
}

fn copied(array: &ArrayRef) -> ArrayRef {
    let data = array.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, data.len());
    copy.extend(0, 0, data.len());
    make_array(copy.freeze())
}

/// Returns `array` without what nulls hide.
fn shown(array: &ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    Ok(match array.data_type() {
        DataType::Struct(fields) => {
            let given = array.as_struct();
            let columns = given.columns().iter().map(|column| shown(&masked(column, given.nulls())?));
            let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, given.nulls().cloned(), given.len())?)
        }
        DataType::List(_) => Arc::new(shown_list(array.as_list::<i32>())?),
        DataType::LargeList(_) => Arc::new(shown_list(array.as_list::<i64>())?),
        DataType::Map(field, is_sorted) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            let (offsets, entries) = shown_items(map.offsets(), &entries, map.nulls())?;
            let entries = entries.as_struct().clone();
            let nulls = map.nulls().cloned();
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *is_sorted)?)
        }
        DataType::FixedSizeList(field, width) if field.data_type().is_nested() => {
            let list = array.as_fixed_size_list();
            let items = shown(list.values())?;
            Arc::new(FixedSizeListArray::try_new(Arc::clone(field), *width, items, list.nulls().cloned())?)
        }
        _ => Arc::clone(array),
    })
}

/// Returns `array` with `nulls` in addition to its own.
fn masked(array: &ArrayRef, nulls: Option<&NullBuffer>) -> std::result::Result<ArrayRef, ArrowError> {
    let all = NullBuffer::union(array.nulls(), nulls);
    if array.data_type().is_null() || all.as_ref().map_or(0, NullBuffer::null_count) == array.null_count() {
        return Ok(Arc::clone(array));
    }
    Ok(make_array(array.to_data().into_builder().nulls(all).build()?))
}

fn shown_list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> std::result::Result<GenericListArray<O>, ArrowError> {
    let (DataType::List(field) | DataType::LargeList(field)) = list.data_type() else { return Ok(list.clone()) };
    let (offsets, items) = shown_items(list.offsets(), list.values(), list.nulls())?;
    GenericListArray::try_new(Arc::clone(field), offsets, items, list.nulls().cloned())
}

/// Returns the items of lists that are not null, with their offsets.
fn shown_items<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    items: &ArrayRef,
    nulls: Option<&NullBuffer>,
) -> std::result::Result<(OffsetBuffer<O>, ArrayRef), ArrowError> {
    let is_valid = |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
    let hides = |(row, pair): (usize, &[O])| pair[0] < pair[1] && !is_valid(row);
    if !offsets.windows(2).enumerate().any(hides) {
        return Ok((offsets.clone(), shown(items)?));
    }
    let data = items.to_data();
    let mut kept = MutableArrayData::new(vec![&data], false, 0);
    let lengths = offsets.windows(2).enumerate().map(|(row, pair)| {
        let (start, end) = (pair[0].as_usize(), pair[1].as_usize());
        if !is_valid(row) {
            return 0;
        }
        kept.extend(0, start, end);
        end - start
    });
    let offsets = OffsetBuffer::from_lengths(lengths.collect::<Vec<_>>());
    Ok((offsets, shown(&make_array(kept.freeze()))?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{FixedSizeListArray, Int64Array, StringArray};
    use arrow::datatypes::{Field, Fields, Float32Type, Int64Type};

    use super::*;

    #[test]
    fn a_small_part_keeps_its_values_and_not_the_rest() {
        let texts: ArrayRef =
            Arc::new((0..1000).map(|n| (n % 3 > 0).then(|| format!("text {n}"))).collect::<StringArray>());
        let vectors = (0..1000).map(|n| (n % 5 > 0).then(|| [n as f32, 1.0].map(Some)));
        let vectors: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 2));
        let both = StructArray::try_from(vec![("text", Arc::clone(&texts)), ("vector", Arc::clone(&vectors))]).unwrap();
        let columns = [("texts", texts), ("vectors", vectors), ("both", Arc::new(both) as ArrayRef)];
        let all = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
        let held = |batch: &RecordBatch| batch.columns().iter().map(|c| c.get_buffer_memory_size()).sum::<usize>();
        let part = all.slice(500, 9);
        for copied in [compact(part.clone()).unwrap(), owned(&part).unwrap()] {
            assert_eq!(copied, part);
            assert!(held(&copied) < held(&part) / 10, "{} of {}", held(&copied), held(&part));
        }
        let most = all.slice(0, 900);
        assert_eq!(held(&compact(most.clone()).unwrap()), held(&most), "most of it is shared, not copied");
    }

    /// Checks every nesting of the types, at an offset, with values under each null.
    #[test]
    fn nothing_is_under_a_null() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7; 24]));
        let nest = |inner: &ArrayRef, kind: usize| -> ArrayRef {
            let field = |name: &str| Arc::new(Field::new(name, inner.data_type().clone(), true));
            let rows = if kind == 0 { inner.len() } else { inner.len() / 2 };
            let nulls = Some((0..rows).map(|row| row % 3 != 1).collect::<NullBuffer>());
            let offsets = || OffsetBuffer::from_lengths(vec![2; rows]);
            match kind {
                0 => Arc::new(StructArray::new(Fields::from(vec![field("x")]), vec![Arc::clone(inner)], nulls)),
                1 => Arc::new(GenericListArray::<i32>::new(field("item"), offsets(), Arc::clone(inner), nulls)),
                2 => Arc::new(FixedSizeListArray::new(field("item"), 2, Arc::clone(inner), nulls)),
                _ => {
                    let keys: ArrayRef = Arc::new((0..inner.len() as i64).collect::<Int64Array>());
                    let key = Arc::new(Field::new("keys", DataType::Int64, false));
                    let entries =
                        StructArray::new(vec![key, field("values")].into(), vec![keys, Arc::clone(inner)], None);
                    let entry = Arc::new(Field::new("entries", entries.data_type().clone(), false));
                    Arc::new(MapArray::new(entry, offsets(), entries, nulls, false))
                }
            }
        };
        for (first, second) in (0..16).map(|number| (number % 4, number / 4)) {
            let nested = nest(&nest(&numbers, first), second);
            let given = nested.slice(1, nested.len() - 1);
            let batch = RecordBatch::try_from_iter_with_nullable([("v", Arc::clone(&given), true)]).unwrap();
            let found = Arc::clone(canonical(batch).unwrap().column(0));
            // Arrow compares what is visible.
            assert_eq!(&found, &given, "{first} in {second}");
            check(&found, None);
        }
    }

    /// Checks that no value of `array` is visible where one of its ancestors is null.
    fn check(array: &ArrayRef, above: Option<&NullBuffer>) {
        for row in (0..array.len()).filter(|row| above.is_some_and(|above| above.is_null(*row))) {
            assert!(array.is_null(row), "{row} of {array:?}");
        }
        let items = |offsets: &[i32]| {
            for row in (0..array.len()).filter(|row| array.is_null(*row)) {
                assert_eq!(offsets[row], offsets[row + 1], "{row} of {array:?}");
            }
        };
        match array.data_type() {
            DataType::Struct(_) => array.as_struct().columns().iter().for_each(|column| check(column, array.nulls())),
            DataType::List(_) => {
                items(array.as_list::<i32>().offsets());
                check(array.as_list::<i32>().values(), None);
            }
            DataType::Map(..) => {
                items(array.as_map().offsets());
                array.as_map().entries().columns().iter().for_each(|column| check(column, None));
            }
            DataType::FixedSizeList(..) => check(array.as_fixed_size_list().values(), None),
            _ => assert!(array.as_primitive_opt::<Int64Type>().is_some()),
        }
    }
}
