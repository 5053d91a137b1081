//! Distances of one query to many rows, compiled for several instruction sets and chosen at run time.
//!
//! The loops are plain Rust that the compiler vectorises; a tier only names the instructions that it may use. A result
//! is a *key*: an unsigned number that orders as the distance does, so that one kind of beam serves all metrics.
#![expect(unsafe_code, reason = "a function compiled for optional instructions is called after asking the processor")]

use crate::stable_rows::StableRows;

/// Rows prefetched ahead of the current one. Values from 4 to 16 measured alike.
const AHEAD: usize = 8;

type DistanceKernel<Q, R> = unsafe fn(&[Q], &StableRows<R>, &[u32], &mut [u32]);

/// The kernels of one instruction set. Queries and rows have the same length, padded with zeros.
#[derive(Clone, Copy)]
pub(super) struct DistanceKernels {
    l2_codes: DistanceKernel<i16, u8>,
    dot_codes: DistanceKernel<i16, u8>,
    l2_floats: DistanceKernel<f32, f32>,
    dot_floats: DistanceKernel<f32, f32>,
    hamming: DistanceKernel<u8, u8>,
}

macro_rules! method {
    ($name:ident, $query:ty, $row:ty, $doc:literal) => {
        #[doc = $doc]
        #[inline]
        pub(super) fn $name(&self, query: &[$query], rows: &StableRows<$row>, slots: &[u32], keys: &mut [u32]) {
            // SAFETY: `detect` chose only kernels whose instructions this processor has.
            unsafe { (self.$name)(query, rows, slots, keys) }
        }
    };
}

impl DistanceKernels {
    /// Returns the kernels of the widest instruction set that this processor has.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512vpopcntdq")
            {
                return avx512::KERNELS;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("popcnt")
            {
                return avx2::KERNELS;
            }
        }
        portable::KERNELS
    }

    method!(l2_codes, i16, u8, "Computes squared distances in steps of the quantiser.");
    method!(
        dot_codes,
        i16,
        u8,
        "Computes inner products in squared steps of the quantiser, as keys that order the largest first."
    );
    method!(l2_floats, f32, f32, "Computes squared distances; [`distance_of`] returns them from their keys.");
    method!(dot_floats, f32, f32, "Computes negated inner products; [`distance_of`] returns them from their keys.");
    method!(hamming, u8, u8, "Counts the bits that differ.");
}

/// Returns the key that orders as `distance` does.
#[inline(always)]
fn key_of(distance: f32) -> u32 {
    let bits = distance.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// Returns the distance whose key is `key`: the inverse of [`key_of`].
pub(super) fn distance_of(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

#[inline(always)]
fn l2_code(query: &[i16], row: &[u8]) -> u32 {
    let mut sum = 0i32;
    for (&q, &x) in query.iter().zip(row) {
        let difference = q.wrapping_sub(i16::from(x.cast_signed()));
        sum = sum.wrapping_add(i32::from(difference).wrapping_mul(i32::from(difference)));
    }
    sum.cast_unsigned()
}

#[inline(always)]
fn dot_code(query: &[i16], row: &[u8]) -> u32 {
    let mut sum = 0i32;
    for (&q, &x) in query.iter().zip(row) {
        sum = sum.wrapping_add(i32::from(q).wrapping_mul(i32::from(x.cast_signed())));
    }
    !(sum.cast_unsigned() ^ 1 << 31)
}

/// Sums in 16 lanes, so that the order of the additions, and with it the result, does not depend on the vector width.
#[inline(always)]
fn sum_lanes(query: &[f32], row: &[f32], add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    for (q, x) in query.as_chunks::<16>().0.iter().zip(row.as_chunks::<16>().0) {
        for ((lane, q), x) in lanes.iter_mut().zip(q).zip(x) {
            *lane = add(*lane, *q, *x);
        }
    }
    lanes.iter().sum()
}

#[inline(always)]
fn l2_float<const FUSED: bool>(query: &[f32], row: &[f32]) -> u32 {
    key_of(sum_lanes(query, row, |sum, q, x| {
        let difference = q - x;
        if FUSED { difference.mul_add(difference, sum) } else { sum + difference * difference }
    }))
}

#[inline(always)]
fn dot_float<const FUSED: bool>(query: &[f32], row: &[f32]) -> u32 {
    key_of(-sum_lanes(query, row, |sum, q, x| if FUSED { q.mul_add(x, sum) } else { sum + q * x }))
}

#[inline(always)]
fn hamming_bits(query: &[u8], row: &[u8]) -> u32 {
    let words = query.as_chunks::<8>().0.iter().zip(row.as_chunks::<8>().0);
    words.map(|(q, x)| (u64::from_ne_bytes(*q) ^ u64::from_ne_bytes(*x)).count_ones()).sum()
}

macro_rules! kernel {
    ($name:ident, $query:ty, $row:ty, $one:expr, $($features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        fn $name(query: &[$query], rows: &StableRows<$row>, slots: &[u32], keys: &mut [u32]) {
            for &slot in slots.iter().take(AHEAD) {
                rows.prefetch(slot);
            }
            for (at, (&slot, key)) in slots.iter().zip(keys).enumerate() {
                if let Some(&next) = slots.get(at + AHEAD) {
                    rows.prefetch(next);
                }
                *key = $one(query, rows.row(slot));
            }
        }
    };
}

macro_rules! tier {
    ($tier:ident, $fused:literal $(, $features:literal)?) => {
        mod $tier {
            use crate::vectors::kernels::*;
            kernel!(l2_codes, i16, u8, l2_code, $($features)?);
            kernel!(dot_codes, i16, u8, dot_code, $($features)?);
            kernel!(l2_floats, f32, f32, l2_float::<$fused>, $($features)?);
            kernel!(dot_floats, f32, f32, dot_float::<$fused>, $($features)?);
            kernel!(hamming, u8, u8, hamming_bits, $($features)?);
            pub(super) const KERNELS: DistanceKernels =
                DistanceKernels { l2_codes, dot_codes, l2_floats, dot_floats, hamming };
        }
    };
}

tier!(portable, false);
#[cfg(target_arch = "x86_64")]
tier!(avx2, true, "avx2,fma,popcnt");
#[cfg(target_arch = "x86_64")]
tier!(avx512, true, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq,avx2,fma,popcnt");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cenote_base::Random;

    use super::*;

    fn tiers() -> Vec<DistanceKernels> {
        let mut tiers = vec![portable::KERNELS, DistanceKernels::detect()];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            tiers.push(avx2::KERNELS);
        }
        tiers
    }

    #[test]
    fn every_tier_agrees_with_the_definition() {
        let mut random = Random::new(1);
        for width in [64usize, 128, 4096] {
            let (codes, floats) =
                (StableRows::<u8>::new(40, width).unwrap(), StableRows::<f32>::new(40, width).unwrap());
            for slot in 0..40 {
                // SAFETY: nobody else has these rows.
                unsafe { codes.row_mut(slot) }.fill_with(|| random.next_u64() as u8);
                // SAFETY: as above.
                unsafe { floats.row_mut(slot) }.fill_with(|| random.unit() as f32 - 0.5);
            }
            let bits: Vec<u8> = (0..width).map(|_| random.next_u64() as u8).collect();
            let query: Vec<i16> = bits.iter().map(|&x| i16::from(x.cast_signed()).max(-127)).collect();
            let float: Vec<f32> = (0..width).map(|_| random.unit() as f32 - 0.5).collect();
            let slots: Vec<u32> = (0..40).rev().collect();
            for tier in tiers() {
                let mut keys = vec![0; 40];
                let signed = |slot: u32| codes.row(slot).iter().map(|&x| i64::from(x.cast_signed()));
                tier.l2_codes(&query, &codes, &slots, &mut keys);
                for (&slot, &key) in slots.iter().zip(&keys) {
                    let sum: i64 = query.iter().zip(signed(slot)).map(|(&q, x)| (i64::from(q) - x).pow(2)).sum();
                    assert_eq!(i64::from(key), sum);
                }
                tier.dot_codes(&query, &codes, &slots, &mut keys);
                let mut by_product = slots.clone();
                by_product
                    .sort_by_key(|&slot| -query.iter().zip(signed(slot)).map(|(&q, x)| i64::from(q) * x).sum::<i64>());
                let mut by_key: Vec<(u32, u32)> = keys.iter().copied().zip(slots.clone()).collect();
                by_key.sort_unstable();
                assert_eq!(by_key.iter().map(|entry| entry.1).collect::<Vec<_>>(), by_product);
                tier.l2_floats(&float, &floats, &slots, &mut keys);
                for (&slot, &key) in slots.iter().zip(&keys) {
                    let pairs = float.iter().zip(floats.row(slot));
                    let sum: f64 = pairs.map(|(&q, &x)| f64::from(q - x).powi(2)).sum();
                    assert!((f64::from(distance_of(key)) - sum).abs() < 1e-5 * sum, "{} {sum}", distance_of(key));
                }
                tier.dot_floats(&float, &floats, &slots, &mut keys);
                for (&slot, &key) in slots.iter().zip(&keys) {
                    let sum: f64 = float.iter().zip(floats.row(slot)).map(|(&q, &x)| f64::from(q) * f64::from(x)).sum();
                    assert!((f64::from(distance_of(key)) + sum).abs() < 1e-3, "{} {sum}", distance_of(key));
                }
                tier.hamming(&bits, &codes, &slots, &mut keys);
                for (&slot, &key) in slots.iter().zip(&keys) {
                    let count: u32 = bits.iter().zip(codes.row(slot)).map(|(q, x)| (q ^ x).count_ones()).sum();
                    assert_eq!(key, count);
                }
            }
        }
    }

    #[test]
    fn keys_order_as_distances_do() {
        let distances = [f32::NEG_INFINITY, -3.5, -1e-30, 0.0, 1e-30, 2.0, f32::MAX];
        assert!(distances.windows(2).all(|pair| key_of(pair[0]) < key_of(pair[1])));
        assert!(distances.iter().all(|&distance| distance_of(key_of(distance)) == distance));
    }
}
