//! Flat storage of fixed-size rows that never move, so that readers need no lock to follow them.
#![expect(unsafe_code, reason = "rows are written while others are read, which no safe container offers")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use cenote_base::{ByteSize, Error, Result};

/// Alignment of the first row: a cache line.
const LINE_BYTES: usize = 64;

/// A type without a destructor for which all-zero bytes are a value.
///
/// # Safety
/// Implement only for numbers and their atomics.
pub(crate) unsafe trait Plain {}
// SAFETY: numbers and atomics of numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for AtomicU8 {}
// SAFETY: as above.
unsafe impl Plain for AtomicU32 {}
// SAFETY: as above.
unsafe impl Plain for AtomicU64 {}

/// Rows of `stride` values each, zero at first.
///
/// The address space of all rows is reserved at once, and the operating system backs the pages that are touched. Unused
/// rows therefore cost nothing, and no row moves when more are used.
pub(crate) struct StableRows<T> {
    start: NonNull<T>,
    block: NonNull<u8>,
    layout: Layout,
    rows: usize,
    stride: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its memory; `row` only shares it, and `row_mut` leaves exclusion to its caller.
unsafe impl<T: Send> Send for StableRows<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for StableRows<T> {}

impl<T: Plain> StableRows<T> {
    /// Reserves `rows` rows. Errors: `ResourceExhausted` when the address space does not suffice.
    pub(crate) fn new(rows: usize, stride: usize) -> Result<Self> {
        let bytes = rows.saturating_mul(stride).saturating_mul(size_of::<T>()).saturating_add(LINE_BYTES);
        let refused = || Error::resource_exhausted(format!("cannot reserve {} of memory", ByteSize(bytes as u64)));
        // A larger alignment than that of `malloc` would zero the block by touching every page.
        let layout = Layout::from_size_align(bytes, align_of::<u64>()).map_err(|_| refused())?;
        // SAFETY: the size is at least `LINE_BYTES`.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        // SAFETY: the block is longer than the rows by a line, so aligning stays inside it.
        let start = unsafe { block.add(block.align_offset(LINE_BYTES)) }.cast::<T>();
        Ok(Self { start, block, layout, rows, stride, owns: PhantomData })
    }

    /// Returns row `index`, which must not be written through [`Self::row_mut`] meanwhile.
    #[inline(always)]
    pub(crate) fn row(&self, index: u32) -> &[T] {
        assert!((index as usize) < self.rows);
        // SAFETY: inside the block by the assertion; initialised by zeroing.
        unsafe { std::slice::from_raw_parts(self.start.add(index as usize * self.stride).as_ptr(), self.stride) }
    }

    /// Returns row `index` for writing.
    ///
    /// # Safety
    /// Nobody else reads or writes this row while the borrow lives.
    #[expect(clippy::mut_from_ref, reason = "exclusion by row, promised by the caller")]
    pub(crate) unsafe fn row_mut(&self, index: u32) -> &mut [T] {
        assert!((index as usize) < self.rows);
        // SAFETY: inside the block by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index as usize * self.stride).as_ptr(), self.stride) }
    }

    /// Starts to bring row `index` into the cache.
    #[inline(always)]
    pub(crate) fn prefetch(&self, index: u32) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let bytes = (self.stride * size_of::<T>()).min(16 * LINE_BYTES);
            let row = self.start.as_ptr().wrapping_add(index as usize * self.stride).cast::<i8>();
            for line in (0..bytes).step_by(LINE_BYTES) {
                // SAFETY: a prefetch reads nothing that the program sees and never faults.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(line)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = index;
    }

    /// Returns the number of values in a row.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

impl<T> Drop for StableRows<T> {
    fn drop(&mut self) {
        // SAFETY: the block came from this layout; `Plain` types have no destructor.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_zero_aligned_and_apart() {
        let rows = StableRows::<u8>::new(5, 64).unwrap();
        // SAFETY: nobody else has these rows.
        unsafe { rows.row_mut(3) }.fill(7);
        assert_eq!(rows.row(2), [0; 64]);
        assert_eq!(rows.row(3), [7; 64]);
        assert_eq!(rows.row(4), [0; 64]);
        assert_eq!(rows.row(1).as_ptr().align_offset(LINE_BYTES), 0);
    }

    #[test]
    fn more_memory_than_any_machine_has_is_refused() {
        assert_eq!(
            StableRows::<f32>::new(usize::MAX / 8, 64).err().unwrap().kind(),
            cenote_base::ErrorKind::ResourceExhausted
        );
    }
}
