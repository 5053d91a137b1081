//! The vectors of all slots: as given, and in the short form that the walk compares.
#![expect(unsafe_code, reason = "a slot's vector is written while other slots are read")]

mod kernels;
pub(crate) mod quantizer;

use std::sync::OnceLock;

use cenote_base::Result;

use crate::options::{Metric, Options, Traversal};
use crate::stable_rows::StableRows;
use crate::values::Values;
use kernels::{Kernels, distance_of};
use quantizer::Quantizer;

/// A row of floats is a multiple of this, so that the kernels have no tail.
const FLOATS_PAD: usize = 16;
/// A row of codes is whole cache lines.
const CODES_PAD: usize = 64;

pub(crate) struct Vectors {
    metric: Metric,
    traversal: Traversal,
    dimension: usize,
    kernels: Kernels,
    quantizer: Quantizer,
    /// As given, of unit length for cosine; empty rows for hamming.
    floats: StableRows<f32>,
    /// Codes, or packed bits for hamming; empty rows when the walk compares floats.
    codes: StableRows<u8>,
}

/// A vector to compare with, in the form that a kernel takes.
pub(crate) enum Probe {
    Codes(Vec<i16>),
    Floats(Vec<f32>),
    Bits(Vec<u8>),
}

impl Vectors {
    /// Elements in a row of floats and in a row of codes.
    fn strides(options: &Options) -> (usize, usize) {
        let floats = options.dimension.next_multiple_of(FLOATS_PAD);
        match (options.metric, options.traversal) {
            (Metric::Hamming, _) => (0, (options.dimension / 8).next_multiple_of(CODES_PAD)),
            (_, Traversal::Int8) => (floats, options.dimension.next_multiple_of(CODES_PAD)),
            (_, Traversal::Float32) => (floats, 0),
        }
    }

    /// Bytes that a slot's vector takes.
    pub(crate) fn slot_bytes(options: &Options) -> usize {
        let (floats, codes) = Self::strides(options);
        floats * size_of::<f32>() + codes
    }

    pub(crate) fn new(options: &Options, slots: usize) -> Result<Self> {
        static KERNELS: OnceLock<Kernels> = OnceLock::new();
        let (floats, codes) = Self::strides(options);
        Ok(Self {
            metric: options.metric,
            traversal: options.traversal,
            dimension: options.dimension,
            kernels: *KERNELS.get_or_init(Kernels::detect),
            quantizer: Quantizer { mean: vec![0.0; options.dimension], step: 1.0 },
            floats: StableRows::new(slots, floats)?,
            codes: StableRows::new(slots, codes)?,
        })
    }

    /// Writes the vector of `slot`. Returns how many of its numbers are out of the range of codes.
    ///
    /// # Safety
    /// No other thread reads or writes this slot's vector meanwhile.
    pub(crate) unsafe fn write(&self, slot: u32, values: Values<'_>) -> usize {
        match values {
            Values::Bits(bytes) => {
                // SAFETY: the caller's promise.
                copy(bytes, unsafe { self.codes.row_mut(slot) });
                0
            }
            Values::Floats(floats) => {
                // SAFETY: the caller's promise.
                let row = unsafe { self.floats.row_mut(slot) };
                copy(floats, row);
                if self.metric == Metric::Cosine {
                    normalise(row);
                }
                // SAFETY: the caller's promise.
                unsafe { self.encode(slot) };
                if self.quantised() { self.quantizer.clamped(&self.floats.row(slot)[..self.dimension]) } else { 0 }
            }
        }
    }

    /// Sets the vector of `slot` to what [`Self::values`] gave, without its codes, which [`Self::set_quantizer`] writes.
    pub(crate) fn restore(&mut self, slot: u32, values: Values<'_>) {
        match values {
            // SAFETY: `self` is borrowed exclusively.
            Values::Bits(bytes) => copy(bytes, unsafe { self.codes.row_mut(slot) }),
            // SAFETY: as above.
            Values::Floats(floats) => copy(floats, unsafe { self.floats.row_mut(slot) }),
        }
    }

    /// Writes the codes of `slot` anew.
    ///
    /// # Safety
    /// As [`Self::write`].
    unsafe fn encode(&self, slot: u32) {
        if self.quantised() {
            // SAFETY: the caller's promise.
            let codes = unsafe { self.codes.row_mut(slot) };
            let row = &self.floats.row(slot)[..self.dimension];
            codes.iter_mut().zip(self.quantizer.codes(row)).for_each(|(to, code)| *to = code.cast_unsigned());
        }
    }

    /// Learns the scale of codes from the slots in `sample` and writes the codes of slots 1 to `used` anew.
    pub(crate) fn train(&mut self, sample: &[u32], used: u32) {
        if self.quantised() {
            self.set_quantizer(self.learn(sample), used);
        }
    }

    /// Whether the slots in `sample` would have codes scaled quite differently from those in use.
    pub(crate) fn has_drifted(&self, sample: &[u32]) -> bool {
        self.quantised() && !sample.is_empty() && self.learn(sample).differs(&self.quantizer)
    }

    fn learn(&self, sample: &[u32]) -> Quantizer {
        let rows = sample.iter().map(|&slot| &self.floats.row(slot)[..self.dimension]);
        Quantizer::train(rows, self.dimension, self.metric != Metric::Dot)
    }

    /// Codes are written by `quantizer` from now on, and those of slots 1 to `used` anew.
    pub(crate) fn set_quantizer(&mut self, quantizer: Quantizer, used: u32) {
        self.quantizer = quantizer;
        for slot in 1..=used {
            // SAFETY: `self` is borrowed exclusively.
            unsafe { self.encode(slot) };
        }
    }

    pub(crate) fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    /// Whether the walk compares codes that are only near to the vectors.
    pub(crate) fn quantised(&self) -> bool {
        self.metric != Metric::Hamming && self.traversal == Traversal::Int8
    }

    /// The vector of `slot` as it is kept: normalised for cosine.
    pub(crate) fn values(&self, slot: u32) -> Values<'_> {
        match self.metric {
            Metric::Hamming => Values::Bits(&self.codes.row(slot)[..self.dimension / 8]),
            _ => Values::Floats(&self.floats.row(slot)[..self.dimension]),
        }
    }

    /// A query for [`Self::distances`].
    pub(crate) fn exact(&self, query: Values<'_>) -> Probe {
        match query {
            Values::Bits(bytes) => Probe::Bits(padded(bytes.iter().copied(), self.codes.stride())),
            Values::Floats(floats) => {
                let mut row = padded(floats.iter().copied(), self.floats.stride());
                if self.metric == Metric::Cosine {
                    normalise(&mut row);
                }
                Probe::Floats(row)
            }
        }
    }

    /// The short form of what [`Self::exact`] gave, for [`Self::keys`]; `None` if that is the form already.
    pub(crate) fn short(&self, exact: &Probe) -> Option<Probe> {
        match exact {
            Probe::Floats(floats) if self.quantised() => {
                let codes = self.quantizer.codes(&floats[..self.dimension]).map(i16::from);
                Some(Probe::Codes(padded(codes, self.codes.stride())))
            }
            _ => None,
        }
    }

    /// The short form of the vector in `slot`, for [`Self::keys`].
    pub(crate) fn probe(&self, slot: u32) -> Probe {
        match self.metric {
            Metric::Hamming => Probe::Bits(self.codes.row(slot).to_vec()),
            _ if self.quantised() => {
                Probe::Codes(self.codes.row(slot).iter().map(|&code| i16::from(code.cast_signed())).collect())
            }
            _ => Probe::Floats(self.floats.row(slot).to_vec()),
        }
    }

    /// Sets `keys` to a number for each slot that orders as the distance from the probe does.
    #[inline]
    pub(crate) fn keys(&self, probe: &Probe, slots: &[u32], keys: &mut Vec<u32>) {
        keys.resize(slots.len(), 0);
        match (probe, self.metric) {
            (Probe::Codes(query), Metric::Dot) => self.kernels.dot_codes(query, &self.codes, slots, keys),
            (Probe::Codes(query), _) => self.kernels.l2_codes(query, &self.codes, slots, keys),
            (Probe::Floats(query), Metric::L2) => self.kernels.l2_floats(query, &self.floats, slots, keys),
            (Probe::Floats(query), _) => self.kernels.dot_floats(query, &self.floats, slots, keys),
            (Probe::Bits(query), _) => self.kernels.hamming(query, &self.codes, slots, keys),
        }
    }

    /// The distance that a key from a probe of [`Self::exact`] stands for.
    pub(crate) fn distance(&self, key: u32) -> f32 {
        match self.metric {
            Metric::L2 => distance_of(key).sqrt(),
            Metric::Cosine => 1.0 + distance_of(key),
            Metric::Dot => distance_of(key),
            Metric::Hamming => key as f32,
        }
    }
}

/// Copies to the beginning of a row; the padding stays zero.
fn copy<T: Copy>(values: &[T], row: &mut [T]) {
    row[..values.len()].copy_from_slice(values);
}

fn padded<T: Default + Clone>(values: impl Iterator<Item = T>, stride: usize) -> Vec<T> {
    let mut row = Vec::with_capacity(stride);
    row.extend(values);
    row.resize(stride, T::default());
    row
}

/// Scales to unit length; leaves a zero vector as it is.
fn normalise(vector: &mut [f32]) {
    // In f64, because squares of finite numbers may not be finite in f32.
    let norm = vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}
