#![allow(clippy::unwrap_used)]
use cenote_base::ErrorKind;

use super::*;
use crate::{Matrix, phash, testing};

const BOUND: u64 = 1 << 20;

#[test]
fn buffers_are_reused() {
    let device = testing::open_with(BOUND);
    let pool = device.pool();
    let first = pool.lease(BufferPurpose::Work, 1000).unwrap();
    let buffer = first.buffer().clone();
    let used_bytes = pool.held().used_bytes;
    assert!((1000..2000).contains(&used_bytes), "{used_bytes}");
    assert_eq!(pool.held(), PoolUsage { used_bytes, idle_bytes: 0 });
    drop(first);
    assert_eq!(pool.held(), PoolUsage { used_bytes: 0, idle_bytes: used_bytes });
    assert_eq!(*pool.lease(BufferPurpose::Work, 999).unwrap().buffer(), buffer);
    assert_ne!(*pool.lease(BufferPurpose::Read, 1000).unwrap().buffer(), buffer, "it is for another purpose");
    assert_ne!(*pool.lease(BufferPurpose::Work, 100_000).unwrap().buffer(), buffer, "it is too small");
}

#[test]
fn idle_buffers_give_way() {
    let device = testing::open_with(BOUND);
    let pool = device.pool();
    for kibibytes in 1..500 {
        let lease = pool.lease(BufferPurpose::Work, kibibytes << 10).unwrap();
        let held = pool.held();
        assert!(held.used_bytes >= lease.bytes() && held.used_bytes + held.idle_bytes <= BOUND, "{held:?}");
    }
}

#[test]
fn more_than_the_bound_is_refused_with_the_numbers() {
    let device = testing::open_with(BOUND);
    let pool = device.pool();
    let held = pool.lease(BufferPurpose::Work, BOUND / 2).unwrap();
    let error = pool.lease(BufferPurpose::Work, BOUND / 2 + 1).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("524288 are in use and the bound is 1048576"), "{error}");
    drop(held);
    pool.lease(BufferPurpose::Work, BOUND / 2 + 1).unwrap();
    let error = pool.lease(BufferPurpose::Work, u64::MAX / 4).err().unwrap();
    assert!(error.message().contains("larger than the device's largest"), "{error}");
}

#[test]
fn uploads_wait_for_room() {
    // A matrix that takes two thirds of the bound, so that its upload must go in turns.
    let device = testing::open_with(3 << 20);
    let rows = 2 << 18;
    for _ in 0..20 {
        let matrix = Matrix::upload_in_parts(&device, &vec![1.0; rows], 1, 1 << 18).unwrap();
        let usage = device.usage();
        assert!(usage.used_bytes >= 2 << 20 && usage.used_bytes + usage.idle_bytes <= 3 << 20, "{usage:?}");
        drop(matrix);
    }
    assert_eq!(device.usage().uploaded_bytes, 20 * 4 * rows as u64);
}

#[test]
fn nothing_leaks_over_many_batches() {
    let device = testing::open_with(BOUND);
    let pictures = vec![7; 100 * 1024];
    for turn in 0..50 {
        let pending = phash::on_device(&device, &pictures).unwrap();
        // Abandoned results return their buffers too.
        if turn % 2 == 0 {
            pending.wait().unwrap();
        }
    }
    phash::on_device(&device, &pictures).unwrap().wait().unwrap();
    let usage = device.usage();
    assert_eq!(usage.used_bytes, 0, "{usage:?}");
    assert_eq!((usage.submissions, usage.uploaded_bytes, usage.read_bytes), (51, 51 * 103_424, 26 * 800));
}
