//! The vectors of all slots, as given and in the short form that a walk compares.
//!
//! This part does not know labels, links or states: a slot is a row.
#![expect(unsafe_code, reason = "a slot's vector is written while other slots are read")]

mod kernels;
pub(crate) mod quantizer;

use std::sync::OnceLock;

use cenote_base::Result;

use crate::options::{GraphOptions, Metric, Traversal};
use crate::stable_rows::StableRows;
use crate::values::VectorValues;
use kernels::{DistanceKernels, distance_of};
use quantizer::Quantizer;

/// Floats in a row are a multiple of this, so that the kernels have no tail.
const FLOATS_PAD: usize = 16;
/// Bytes of codes in a row are a multiple of this, so that it is whole cache lines.
const CODES_PAD: usize = 64;

/// The vectors of all slots.
pub(crate) struct SlotVectors {
    metric: Metric,
    traversal: Traversal,
    dimension: usize,
    kernels: DistanceKernels,
    quantizer: Quantizer,
    /// The vectors as given, of unit length for cosine; empty rows for hamming.
    floats: StableRows<f32>,
    /// Codes, or packed bits for hamming; empty rows when walks compare floats.
    codes: StableRows<u8>,
}

/// A vector to compare others with, in the form that a kernel takes.
pub(crate) enum Probe {
    Codes(Vec<i16>),
    Floats(Vec<f32>),
    Bits(Vec<u8>),
}

/// Elements in a row of floats and in a row of codes.
struct Strides {
    floats: usize,
    codes: usize,
}

impl Strides {
    fn new(options: &GraphOptions) -> Self {
        let floats = options.dimension.next_multiple_of(FLOATS_PAD);
        match (options.metric, options.traversal) {
            (Metric::Hamming, _) => Self { floats: 0, codes: (options.dimension / 8).next_multiple_of(CODES_PAD) },
            (_, Traversal::Int8) => Self { floats, codes: options.dimension.next_multiple_of(CODES_PAD) },
            (_, Traversal::Float32) => Self { floats, codes: 0 },
        }
    }
}

impl SlotVectors {
    /// Returns the bytes of a slot's vector.
    pub(crate) fn slot_bytes(options: &GraphOptions) -> usize {
        let Strides { floats, codes } = Strides::new(options);
        floats * size_of::<f32>() + codes
    }

    pub(crate) fn new(options: &GraphOptions, slots: usize) -> Result<Self> {
        static KERNELS: OnceLock<DistanceKernels> = OnceLock::new();
        let Strides { floats, codes } = Strides::new(options);
        Ok(Self {
            metric: options.metric,
            traversal: options.traversal,
            dimension: options.dimension,
            kernels: *KERNELS.get_or_init(DistanceKernels::detect),
            quantizer: Quantizer { mean: vec![0.0; options.dimension], step: 1.0 },
            floats: StableRows::new(slots, floats)?,
            codes: StableRows::new(slots, codes)?,
        })
    }

    /// Writes the vector of `slot`. Returns the number of its numbers that are out of the range of codes.
    ///
    /// # Safety
    /// No other thread reads or writes this slot's vector meanwhile.
    pub(crate) unsafe fn write(&self, slot: u32, values: VectorValues<'_>) -> usize {
        match values {
            VectorValues::Bits(bytes) => {
                // SAFETY: the caller's promise.
                copy(bytes, unsafe { self.codes.row_mut(slot) });
                0
            }
            VectorValues::Floats(floats) => {
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

    /// Sets the vector of `slot` to what [`Self::values`] returned, without its codes, which [`Self::set_quantizer`]
    /// writes.
    pub(crate) fn restore(&mut self, slot: u32, values: VectorValues<'_>) {
        match values {
            // SAFETY: `self` is borrowed exclusively.
            VectorValues::Bits(bytes) => copy(bytes, unsafe { self.codes.row_mut(slot) }),
            // SAFETY: as above.
            VectorValues::Floats(floats) => copy(floats, unsafe { self.floats.row_mut(slot) }),
        }
    }

    /// Writes the codes of `slot`.
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

    /// Learns the scale of codes from the slots in `sample`, and writes the codes of slots 1 to `used` again.
    pub(crate) fn train(&mut self, sample: &[u32], used: u32) {
        if self.quantised() {
            self.set_quantizer(self.learn(sample), used);
        }
    }

    /// Returns whether a scale learnt from the slots in `sample` would differ much from the one in use.
    pub(crate) fn has_drifted(&self, sample: &[u32]) -> bool {
        self.quantised() && !sample.is_empty() && self.learn(sample).differs(&self.quantizer)
    }

    fn learn(&self, sample: &[u32]) -> Quantizer {
        let rows = sample.iter().map(|&slot| &self.floats.row(slot)[..self.dimension]);
        Quantizer::train(rows, self.dimension, self.metric != Metric::Dot)
    }

    /// Replaces the quantiser, and writes the codes of slots 1 to `used` again.
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

    /// Returns whether walks compare codes, which only approximate the vectors.
    fn quantised(&self) -> bool {
        self.metric != Metric::Hamming && self.traversal == Traversal::Int8
    }

    /// Returns the vector of `slot` as it is stored: of unit length for cosine.
    pub(crate) fn values(&self, slot: u32) -> VectorValues<'_> {
        match self.metric {
            Metric::Hamming => VectorValues::Bits(&self.codes.row(slot)[..self.dimension / 8]),
            _ => VectorValues::Floats(&self.floats.row(slot)[..self.dimension]),
        }
    }

    /// Returns `query` as a probe of exact comparisons.
    pub(crate) fn exact(&self, query: VectorValues<'_>) -> Probe {
        match query {
            VectorValues::Bits(bytes) => Probe::Bits(padded(bytes.iter().copied(), self.codes.stride())),
            VectorValues::Floats(floats) => {
                let mut row = padded(floats.iter().copied(), self.floats.stride());
                if self.metric == Metric::Cosine {
                    normalise(&mut row);
                }
                Probe::Floats(row)
            }
        }
    }

    /// Returns the short form of an [`Self::exact`] probe; `None` if that is its form already.
    pub(crate) fn short(&self, exact: &Probe) -> Option<Probe> {
        match exact {
            Probe::Floats(floats) if self.quantised() => {
                let codes = self.quantizer.codes(&floats[..self.dimension]).map(i16::from);
                Some(Probe::Codes(padded(codes, self.codes.stride())))
            }
            _ => None,
        }
    }

    /// Returns the vector of `slot` as a probe in short form.
    pub(crate) fn probe(&self, slot: u32) -> Probe {
        match self.metric {
            Metric::Hamming => Probe::Bits(self.codes.row(slot).to_vec()),
            _ if self.quantised() => {
                Probe::Codes(self.codes.row(slot).iter().map(|&code| i16::from(code.cast_signed())).collect())
            }
            _ => Probe::Floats(self.floats.row(slot).to_vec()),
        }
    }

    /// Sets `keys` to the key of each slot: a number that orders as the distance from the probe does.
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

    /// Returns the distance that a key of an [`Self::exact`] probe stands for.
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
    // The sum is in f64, because squares of finite numbers may overflow f32.
    let norm = vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}
