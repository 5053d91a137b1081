#![allow(clippy::unwrap_used)]
use cenote_base::{ErrorKind, Random};

use crate::kernels::phash;
use crate::{Device, DeviceKind, testing};

#[test]
fn a_lost_device_is_an_error_and_not_a_crash() {
    let device = testing::open();
    let pending = phash::on_device(&device, &[1; 1024]).unwrap();
    device.raw().destroy();
    // Work that was submitted before may have finished.
    if let Err(error) = pending.wait() {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let error = phash::on_device(&device, &[1; 1024]).and_then(|pending| pending.wait()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("was lost"), "{error}");
}

#[test]
fn devices_are_listed_with_their_limits() {
    let found = crate::devices();
    assert!(!found.is_empty());
    for info in &found {
        assert!(!info.name.is_empty() && info.backend == "vulkan", "{info:?}");
        assert!(info.memory_bytes > 0 && info.binding_bytes_max <= info.buffer_bytes_max, "{info:?}");
    }
    assert!(found.is_sorted_by_key(|info| info.kind), "software comes last");
    assert_eq!(crate::gpu_or_software().unwrap(), found[0]);
    match crate::gpu() {
        Ok(info) => assert_ne!(info.kind, DeviceKind::Software),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(found.iter().all(|info| info.kind == DeviceKind::Software));
            assert!(error.message().contains(&found[0].name) && error.message().contains("apt-get install"), "{error}");
        }
    }
}

#[test]
fn a_device_that_is_gone_is_not_found() {
    let mut info = crate::gpu_or_software().unwrap();
    info.name.push('?');
    assert_eq!(Device::open(&info, 1 << 20).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn a_batch_larger_than_the_device_is_refused_and_the_next_one_runs() {
    let device = testing::open_with(64 << 10);
    let error = phash::on_device(&device, &vec![1; 1 << 20]).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert_eq!(phash::on_device(&device, &[1; 1024]).unwrap().wait().unwrap(), [0]);
}

#[test]
fn batches_in_flight_keep_their_results_apart() {
    let device = testing::open();
    let batches: Vec<Vec<u8>> =
        (0..20).map(|seed| testing::bytes(&mut Random::new(seed), (seed as usize % 3 + 1) * 1024)).collect();
    let pending: Vec<_> = batches.iter().map(|batch| phash::on_device(&device, batch).unwrap()).collect();
    // The results are awaited in reverse order.
    for (batch, pending) in batches.iter().zip(pending).rev() {
        let alone = phash::on_device(&device, batch).unwrap().wait().unwrap();
        assert_eq!(pending.wait().unwrap(), alone);
    }
}

#[test]
fn a_device_may_be_given_to_its_owner_thread() {
    let device = testing::open();
    let hashes = std::thread::spawn(move || phash::on_device(&device, &[1; 1024]).unwrap()).join().unwrap();
    assert_eq!(hashes.wait().unwrap(), [0]);
}
