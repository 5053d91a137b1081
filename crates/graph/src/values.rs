//! Vectors as callers give them.

use cenote_base::{Error, Result};

use crate::options::{GraphOptions, Metric};

/// One vector, or several of one dimension stored consecutively.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VectorValues<'a> {
    /// Numbers, for every metric but hamming.
    Floats(&'a [f32]),
    /// Bits packed into bytes, for hamming.
    Bits(&'a [u8]),
}

impl<'a> From<&'a [f32]> for VectorValues<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Floats(values)
    }
}

impl<'a> From<&'a [u8]> for VectorValues<'a> {
    fn from(values: &'a [u8]) -> Self {
        Self::Bits(values)
    }
}

impl<'a> From<&'a Vec<f32>> for VectorValues<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::Floats(values)
    }
}

impl<'a> From<&'a Vec<u8>> for VectorValues<'a> {
    fn from(values: &'a Vec<u8>) -> Self {
        Self::Bits(values)
    }
}

impl<'a> VectorValues<'a> {
    /// Returns the number of elements of one vector: bytes for packed bits.
    pub(crate) fn width(options: &GraphOptions) -> usize {
        if options.metric == Metric::Hamming { options.dimension / 8 } else { options.dimension }
    }

    /// Checks that these are `count` vectors of finite numbers with the dimension and the form that `options` asks for.
    pub(crate) fn check(self, options: &GraphOptions, count: usize) -> Result<()> {
        let width = Self::width(options);
        let (length, unit) = match (self, options.metric == Metric::Hamming) {
            (Self::Floats(values), false) => (values.len(), "numbers"),
            (Self::Bits(bytes), true) => (bytes.len(), "bytes of packed bits"),
            (Self::Floats(_), true) => return Err(Error::invalid_input("hamming takes packed bits, not numbers")),
            (Self::Bits(_), false) => {
                return Err(Error::invalid_input(format!("{} takes numbers, not packed bits", options.metric)));
            }
        };
        if count.checked_mul(width) != Some(length) {
            let each = if count == 1 { String::new() } else { format!(" for each of {count} vectors") };
            return Err(Error::invalid_input(format!("expected {width} {unit}{each}, found {length}")));
        }
        if let Self::Floats(values) = self
            && let Some(at) = values.iter().position(|value| !value.is_finite())
        {
            let vector = if count == 1 { String::new() } else { format!(" of vector {}", at / width) };
            return Err(Error::invalid_input(format!("number {}{vector} is {}, not finite", at % width, values[at])));
        }
        Ok(())
    }

    /// Returns vector `index` of several, each `width` elements long.
    pub(crate) fn vector(self, index: usize, width: usize) -> Self {
        match self {
            Self::Floats(values) => Self::Floats(&values[index * width..][..width]),
            Self::Bits(bytes) => Self::Bits(&bytes[index * width..][..width]),
        }
    }
}
