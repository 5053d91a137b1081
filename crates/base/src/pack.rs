//! Packing of rows into pieces of bounded size.

use std::ops::Range;

/// Cuts rows of `sizes` bytes into consecutive ranges of at most `rows_max` rows and `bytes_max` bytes each. A row that
/// is larger than `bytes_max` gets a range of its own.
pub fn pack(sizes: &[u64], bytes_max: u64, rows_max: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (row, size) in sizes.iter().enumerate() {
        if row > start && (bytes.saturating_add(*size) > bytes_max || row - start >= rows_max) {
            ranges.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes = bytes.saturating_add(*size);
    }
    if start < sizes.len() {
        ranges.push(start..sizes.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_row_and_the_bound() {
        assert!(pack(&[], 10, 9).is_empty());
        assert_eq!(pack(&[4, 4, 4, 20, 1, 9, 1], 10, 9), [0..2, 2..3, 3..4, 4..6, 6..7]);
        assert_eq!(pack(&[0, 0, 0, 1], 0, 9), [0..3, 3..4]);
        assert_eq!(pack(&[0; 7], 1, 3), [0..3, 3..6, 6..7]);
    }
}
