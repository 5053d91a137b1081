//! Packing: sequences of different lengths in blocks of one length. Each sequence begins where the previous one ends
//! and continues in the next block if it does not fit, so that only the last block of a batch is padded.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use cenote_base::{Error, Result};
use cenote_store::arrow_error;

use super::PackedColumn;

/// Suffix of the column that has the row of each number.
const ROW_SUFFIX: &str = "_row";
/// The row of a number that pads.
const NO_ROW: i64 = -1;
/// Longest block, in numbers.
const LENGTH_MAX: i32 = 1 << 24;

/// The packing of a column: the length of blocks, and the number that pads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Packing {
    length: i32,
    pad: i64,
}

impl Packing {
    /// Checks the packing of the column `field`.
    ///
    /// # Errors
    /// `InvalidInput` for a length out of range, or a column that does not hold lists of whole numbers.
    pub(crate) fn new(length: i32, pad: i64, field: &Field) -> Result<Self> {
        if !(1..=LENGTH_MAX).contains(&length) {
            return Err(Error::invalid_input(format!("pack: a block has 1 to {LENGTH_MAX} numbers, found {length}")));
        }
        match field.data_type() {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
                if item.data_type().is_integer() =>
            {
                Ok(Self { length, pad })
            }
            other => Err(Error::invalid_input(format!(
                "pack: column `{}` holds lists of whole numbers, found {other}",
                field.name()
            ))),
        }
    }

    /// Returns the numbers of `column` in blocks, and the row of the batch that each is of, or -1 for padding. A null
    /// is an empty sequence.
    ///
    /// # Errors
    /// `InvalidInput` for a null among the numbers of a row.
    pub(crate) fn pack(&self, name: &str, column: &ArrayRef) -> Result<[PackedColumn; 2]> {
        let item = Field::new_list_field(DataType::Int64, true);
        let lists = cast(column, &DataType::LargeList(item.into())).map_err(arrow_error)?;
        let lists = lists.as_list::<i64>();
        let (mut numbers, mut rows) = (Vec::new(), Vec::new());
        for (row, list) in lists.iter().enumerate() {
            let Some(list) = list else { continue };
            if list.null_count() > 0 {
                return Err(Error::invalid_input(format!("pack: a sequence of column `{name}` holds a null")));
            }
            numbers.extend_from_slice(list.as_primitive::<Int64Type>().values());
            rows.resize(numbers.len(), row as i64);
        }
        let whole = numbers.len().next_multiple_of(self.length as usize);
        numbers.resize(whole, self.pad);
        rows.resize(whole, NO_ROW);
        let row_name = format!("{name}{ROW_SUFFIX}");
        Ok([
            PackedColumn { name: name.to_owned(), blocks: self.blocks(numbers)? },
            PackedColumn { name: row_name, blocks: self.blocks(rows)? },
        ])
    }

    fn blocks(&self, numbers: Vec<i64>) -> Result<ArrayRef> {
        let item = Arc::new(Field::new_list_field(DataType::Int64, false));
        let blocks = FixedSizeListArray::try_new(item, self.length, Arc::new(Int64Array::from(numbers)), None);
        Ok(Arc::new(blocks.map_err(arrow_error)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::ListArray;
    use arrow::datatypes::Int32Type;
    use cenote_base::Random;

    use super::*;

    fn packed(sequences: &[Option<Vec<i32>>], length: i32) -> [ArrayRef; 2] {
        let lists = sequences.iter().map(|list| list.as_ref().map(|list| list.iter().copied().map(Some)));
        let column: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
        let field = Field::new("tokens", column.data_type().clone(), true);
        let [tokens, rows] = Packing::new(length, -7, &field).unwrap().pack("tokens", &column).unwrap();
        assert_eq!((tokens.name.as_str(), rows.name.as_str()), ("tokens", "tokens_row"));
        [tokens.blocks, rows.blocks]
    }

    fn numbers(blocks: &ArrayRef) -> &[i64] {
        blocks.as_fixed_size_list().values().as_primitive::<Int64Type>().values()
    }

    #[test]
    fn every_number_is_there_once_in_order_with_its_row() {
        let mut random = Random::new(7);
        for length in 1..20 {
            let sequence = |random: &mut Random| {
                let len = random.below(25);
                (len != 24).then(|| (0..len).map(|_| random.below(1000) as i32).collect::<Vec<_>>())
            };
            let count = random.below(12);
            let sequences: Vec<_> = (0..count).map(|_| sequence(&mut random)).collect();
            let [tokens, rows] = packed(&sequences, length);
            let total: usize = sequences.iter().flatten().map(Vec::len).sum();
            assert_eq!((tokens.len(), rows.len()), (total.div_ceil(length as usize), tokens.len()));
            let mut again = vec![Vec::new(); sequences.len()];
            for (at, (number, row)) in numbers(&tokens).iter().zip(numbers(&rows)).enumerate() {
                match usize::try_from(*row) {
                    Ok(row) => again[row].push(*number as i32),
                    Err(_) => assert!(at >= total && *number == -7, "padding is at the end"),
                }
            }
            let whole: Vec<_> = sequences.into_iter().map(Option::unwrap_or_default).collect();
            assert_eq!(again, whole);
        }
    }

    #[test]
    fn what_cannot_be_packed_is_refused() {
        let field = Field::new("words", DataType::Utf8, true);
        assert!(Packing::new(8, 0, &field).unwrap_err().message().contains("`words` holds lists of whole numbers"));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])]);
        let field = Field::new("tokens", lists.data_type().clone(), true);
        assert!(Packing::new(0, 0, &field).unwrap_err().message().contains("found 0"));
        let column: ArrayRef = Arc::new(lists);
        assert!(Packing::new(8, 0, &field).unwrap().pack("tokens", &column).unwrap_err().message().contains("a null"));
    }
}
