//! Rows of numbers that stay on a device between calls.

use std::sync::Arc;

use cenote_base::{Error, Result};

use crate::device::Device;
use crate::pool::BufferLease;
use crate::work::Work;

/// Bytes of a matrix in one buffer, at most, on a device that allows larger ones.
const PART_BYTES_MAX: u64 = 1 << 30;

/// A matrix of `f32` on a device, row by row, which holds its memory until it is dropped.
pub struct Matrix {
    device: Device,
    parts: Vec<MatrixPart>,
    rows: usize,
    columns: usize,
}

/// Consecutive rows in one buffer.
pub(crate) struct MatrixPart {
    pub(crate) buffer: Arc<BufferLease>,
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
}

impl Matrix {
    /// Uploads `values`, rows of `columns` numbers, to `device`.
    ///
    /// # Errors
    /// `InvalidInput` when the length of `values` is not a multiple of `columns`, or there are more than `u32::MAX - 1`
    /// rows; `ResourceExhausted` when they do not fit the device's memory bound.
    pub fn upload(device: &Device, values: &[f32], columns: usize) -> Result<Self> {
        Self::upload_in_parts(device, values, columns, PART_BYTES_MAX.min(device.info().binding_bytes_max))
    }

    pub(crate) fn upload_in_parts(
        device: &Device,
        values: &[f32],
        columns: usize,
        part_bytes_max: u64,
    ) -> Result<Self> {
        let rows = count_rows("matrix", values, columns)?;
        let part_rows = (part_bytes_max / (columns * size_of::<f32>()) as u64) as usize;
        if part_rows == 0 {
            return Err(Error::resource_exhausted(format!(
                "a row of {columns} numbers is larger than a buffer of device `{}`, {part_bytes_max} bytes",
                device.info().name
            )));
        }
        let mut parts = Vec::new();
        for (index, values) in values.chunks(part_rows * columns).enumerate() {
            let mut work = Work::new(device)?;
            let buffer = work.upload(values)?;
            work.submit();
            parts.push(MatrixPart { buffer, first_row: index * part_rows, rows: values.len() / columns });
        }
        device.check()?;
        Ok(Self { device: device.clone(), parts, rows, columns })
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the numbers of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn parts(&self) -> &[MatrixPart] {
        &self.parts
    }
}

/// Counts the rows in `values`, which the error calls `name`.
pub(crate) fn count_rows(name: &str, values: &[f32], columns: usize) -> Result<usize> {
    if columns == 0 || !values.len().is_multiple_of(columns) {
        let count = values.len();
        let what = format!("{name} has {count} numbers, which are not whole rows of {columns}");
        return Err(Error::invalid_input(what));
    }
    let rows = values.len() / columns;
    if rows >= u32::MAX as usize {
        return Err(Error::invalid_input(format!("{name} has {rows} rows, and at most {} are possible", u32::MAX - 1)));
    }
    Ok(rows)
}
