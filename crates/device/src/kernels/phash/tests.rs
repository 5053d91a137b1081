#![allow(clippy::unwrap_used)]
use cenote_base::{ErrorKind, Random};

use super::*;
use crate::testing;

/// Returns the bits in which CPU and device must agree.
fn certain(picture: &[u8]) -> u64 {
    let block = coefficients(picture);
    let median = median(&block);
    let far = |value: f32| {
        (value - median).abs() > TOLERANCE
            && (value.abs() - NOISE).abs() > TOLERANCE
            && (value == 0.0 || value.abs() > NOISE)
    };
    block.iter().enumerate().fold(0, |bits, (bit, &value)| bits | (u64::from(far(value)) << bit))
}

/// Computes the definition in f64, without separating rows and columns.
fn plain(picture: &[u8]) -> u64 {
    let wave = |frequency: usize, place: usize| (PI * (2.0 * place as f64 + 1.0) * frequency as f64 / 64.0).cos() / 4.0;
    let mut block = Vec::new();
    for down in 1..=8 {
        for across in 1..=8 {
            let mut sum = 0.0;
            for (place, &pixel) in picture.iter().enumerate() {
                sum += f64::from(pixel) * wave(down, place / 32) * wave(across, place % 32);
            }
            block.push(if sum.abs() < 0.01 { 0.0 } else { sum });
        }
    }
    let mut sorted = block.clone();
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[31] + sorted[32]) / 2.0;
    block.iter().enumerate().fold(0, |hash, (bit, &value)| hash | (u64::from(value > median) << bit))
}

/// Makes pictures of noise, gradients, one colour and single points.
fn pictures(random: &mut Random, count: usize) -> Vec<u8> {
    let mut pictures = testing::bytes(random, count * PICTURE_BYTES);
    for (index, picture) in pictures.chunks_exact_mut(PICTURE_BYTES).enumerate() {
        match index % 4 {
            1 => (0..).zip(picture).for_each(|(place, pixel)| *pixel = (place % 32 * 7 + place / 32) as u8),
            2 => picture.fill(index as u8),
            3 => {
                picture.fill(0);
                picture[index * 37 % PICTURE_BYTES] = 255;
            }
            _ => {}
        }
    }
    pictures
}

#[test]
fn the_cpu_twin_is_the_definition() {
    let pictures = pictures(&mut Random::new(1), 64);
    for (picture, hash) in pictures.chunks_exact(PICTURE_BYTES).zip(on_cpu(&pictures).unwrap()) {
        assert_eq!((hash ^ plain(picture)) & certain(picture), 0);
    }
}

#[test]
fn the_device_agrees_with_its_twin() {
    let device = testing::device();
    for count in [0, 1, 2, 67, 257] {
        let pictures = pictures(&mut Random::new(count as u64), count);
        let (ours, theirs) = (on_cpu(&pictures).unwrap(), on_device(&device, &pictures).unwrap().wait().unwrap());
        assert_eq!(ours.len(), count);
        assert_eq!(theirs.len(), count);
        for ((picture, ours), theirs) in pictures.chunks_exact(PICTURE_BYTES).zip(ours).zip(theirs) {
            assert_eq!((ours ^ theirs) & certain(picture), 0, "of {count}");
        }
    }
}

#[test]
fn most_bits_are_certain() {
    let pictures = testing::bytes(&mut Random::new(3), 100 * PICTURE_BYTES);
    let bits: u32 = pictures.chunks_exact(PICTURE_BYTES).map(|picture| certain(picture).count_ones()).sum();
    assert!(bits > 6390, "the tolerance excuses {} bits of 6400", 6400 - bits);
}

#[test]
fn a_picture_of_one_colour_hashes_to_zero() {
    let device = testing::device();
    let pictures: Vec<u8> = [0u8, 77, 255].iter().flat_map(|&grey| [grey; PICTURE_BYTES]).collect();
    assert_eq!(on_cpu(&pictures).unwrap(), [0, 0, 0]);
    assert_eq!(on_device(&device, &pictures).unwrap().wait().unwrap(), [0, 0, 0]);
}

#[test]
fn a_broken_picture_is_refused() {
    let kind = on_device(&testing::device(), &[0; 1025]).err().unwrap().kind();
    assert_eq!(kind, ErrorKind::InvalidInput);
}
