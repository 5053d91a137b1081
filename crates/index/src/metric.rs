//! The metrics of a vector search, and what Lance calls them.

use lance_linalg::distance::DistanceType;

pub use cenote_graph::Metric;

/// Returns whether `number` is one of a vector of packed bits, which are bytes: a whole number from 0 to 255.
pub fn is_packed_byte(number: f32) -> bool {
    number.fract() == 0.0 && (0.0..=255.0).contains(&number)
}

/// Returns Lance's name of `metric`.
pub(crate) fn lance_type(metric: Metric) -> DistanceType {
    match metric {
        Metric::L2 => DistanceType::L2,
        Metric::Cosine => DistanceType::Cosine,
        Metric::Dot => DistanceType::Dot,
        Metric::Hamming => DistanceType::Hamming,
    }
}

/// Converts `measured`, a distance as Lance measures it, to the distance by `metric`: Lance does not take the root of
/// an L2 distance, and adds 1 to a negated inner product.
pub(crate) fn from_lance(metric: Metric, measured: f32) -> f32 {
    match metric {
        Metric::L2 => measured.max(0.0).sqrt(),
        Metric::Cosine => measured.max(0.0),
        Metric::Dot => measured - 1.0,
        Metric::Hamming => measured,
    }
}
