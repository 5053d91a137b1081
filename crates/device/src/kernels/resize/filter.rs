//! Which source pixels count for a target pixel, and how much.

/// A triangle filter along one direction, as Pillow's `precompute_coeffs` makes it.
pub(super) struct Filter {
    /// Of each target pixel.
    pub(super) spans: Vec<Span>,
    pub(super) weights: Vec<f32>,
}

/// The source pixels of one target pixel.
pub(super) struct Span {
    pub(super) first: u32,
    pub(super) count: u32,
    /// Where their weights begin.
    pub(super) weights: u32,
}

impl Filter {
    /// From the `extent` pixels that begin at `start`, of the `source` pixels there are, to `target` pixels, none of them 0.
    pub(super) fn new(source: u32, (start, extent): (f64, f64), target: u32) -> Self {
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

    pub(super) fn weights(&self, span: &Span) -> &[f32] {
        &self.weights[span.weights as usize..][..span.count as usize]
    }
}
