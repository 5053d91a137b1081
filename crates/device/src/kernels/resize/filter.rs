//! The weights of source pixels in a target pixel, along one direction.

/// A triangle filter along one direction, as Pillow's `precompute_coeffs` makes it.
pub(super) struct ResizeFilter {
    /// The source pixels of each target pixel.
    pub(super) spans: Vec<Span>,
    /// The weights of the source pixels, span after span.
    pub(super) weights: Vec<f32>,
}

/// The source pixels of one target pixel.
pub(super) struct Span {
    pub(super) first: u32,
    pub(super) count: u32,
    /// The index of their first weight.
    pub(super) weights: u32,
}

/// The part of a line of source pixels that is resized, in pixels and fractions of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    pub(super) start: f64,
    pub(super) extent: f64,
}

impl ResizeFilter {
    /// Makes the filter from `section` of `source` pixels to `target` pixels. None of the three may be empty.
    pub(super) fn new(source: u32, section: Section, target: u32) -> Self {
        let Section { start, extent } = section;
        let scale = extent / f64::from(target);
        // Half the width of the triangle: one source pixel, or one target pixel when that is wider.
        let support = scale.max(1.0);
        let mut filter = Self { spans: Vec::with_capacity(target as usize), weights: Vec::new() };
        for place in 0..target {
            let center = start + (f64::from(place) + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as u32;
            let end = ((center + support + 0.5) as u32).min(source);
            let weight = |pixel| (1.0 - ((f64::from(pixel) + 0.5 - center) / support).abs()).max(0.0);
            let total: f64 = (first..end).map(weight).sum();
            filter.spans.push(Span { first, count: end - first, weights: filter.weights.len() as u32 });
            filter.weights.extend((first..end).map(|pixel| (weight(pixel) / total) as f32));
        }
        filter
    }
}
